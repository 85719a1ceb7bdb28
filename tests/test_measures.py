from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from scipy.ndimage import distance_transform_edt
from torchmetrics.functional.classification import binary_calibration_error, binary_f1_score, binary_jaccard_index

from study.groups import P4M
from study.tasks.labels import IGNORE
from study.tasks.measures import BINS, TOLERANCE, boundary, boundary_counts, counts, reliability, stability_sums, within
from study.tasks.ratios import boundary_dice, calibration_error, dice, iou, mean_dice

MAPS = ["labelled", "partly labelled"]


def maps(kind: str, *, batch: int = 3, size: tuple[int, int] = (9, 12), seed: int = 0):
    """A probability ``(B, 1, H, W)`` and a mask, uint8, both in pieces of some pixels, as boundaries need them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(2, batch, 1, 4, 4, generator=generator).flatten(0, 1)
    probability, truth = torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1).chunk(2)
    mask = (truth > 0.5).to(torch.uint8)
    if kind == "partly labelled":
        mask[torch.rand(mask.shape, generator=generator) < 0.2] = IGNORE
    return probability, mask


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("batch", [1, 3])
def test_counts_agree_with_counting_pixels_one_by_one(kind, batch):
    probability, mask = maps(kind, batch=batch)
    expected = [[0, 0, 0] for _ in range(batch)]
    for b in range(batch):
        for p, m in zip(probability[b].flatten(), mask[b].flatten(), strict=True):
            hit = [p > 0.5 and m == 1, p > 0.5 and m == 0, p <= 0.5 and m == 1]
            expected[b] = [n + bool(h) for n, h in zip(expected[b], hit, strict=True)]
    assert counts(probability > 0.5, mask).tolist() == expected


@pytest.mark.parametrize("kind", MAPS)
def test_dice_iou_and_ece_are_those_of_torchmetrics(kind):
    probability, mask = maps(kind, size=(40, 40))
    data = probability, mask.long()
    pooled = counts(probability > 0.5, mask).sum(dim=0).tolist()
    assert dice(*pooled) == pytest.approx(float(binary_f1_score(*data, ignore_index=IGNORE)))
    assert iou(*pooled) == pytest.approx(float(binary_jaccard_index(*data, ignore_index=IGNORE)))
    bins = reliability(probability, mask).sum(dim=0).T.tolist()
    expected = binary_calibration_error(*data, n_bins=BINS, norm="l1", ignore_index=IGNORE)
    assert calibration_error(*bins) == pytest.approx(float(expected), rel=1e-5)


def test_dice_is_the_overlap_over_the_mean_area_and_iou_over_the_union():
    assert dice(6, 2, 4) == pytest.approx(2 * 6 / (2 * 6 + 2 + 4))
    assert iou(6, 2, 4) == pytest.approx(6 / (6 + 2 + 4))
    for measure in (dice, iou):
        assert measure(0, 0, 0) == 1
        assert measure(0, 3, 0) == 0
        np.testing.assert_allclose(measure(np.array([1, 0]), np.array([0, 1]), np.array([0, 1])), [1, 0])


@examples(60)
@given(
    classes=st.lists(st.tuples(*3 * [st.integers(0, 2**40)]), min_size=1, max_size=5),
    order=st.randoms(use_true_random=False),
)
def test_dice_and_iou_of_any_counts_are_shares_of_the_same_order(classes, order):
    for tp, fp, fn in classes:
        found, union = dice(tp, fp, fn), iou(tp, fp, fn)
        assert 0 <= union <= found <= 1
        assert (found == 1) == (fp == fn == 0)
        assert found == dice(tp, fn, fp)
        assert found == pytest.approx(2 * union / (1 + union))
        assert dice(tp + 1, fp, fn) >= found >= dice(tp, fp + 1, fn)
        assert 0 <= boundary_dice(tp + fp, tp, tp + fn, tp) == found
    mean = mean_dice([count for counts in classes for count in counts])
    assert mean == pytest.approx(np.mean([dice(*counts) for counts in classes]))
    shuffled = order.sample(classes, len(classes))
    assert mean_dice([count for counts in shuffled for count in counts]) == pytest.approx(mean)


def boundary_by_hand(inside: np.ndarray, outside: np.ndarray) -> set[tuple[int, int]]:
    """Pixel by pixel, of arrays ``(H, W)``."""
    height, width = inside.shape
    found = set()
    for y, x in product(range(height), range(width)):
        neighbours = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
        if inside[y, x] and any(0 <= v < height and 0 <= u < width and outside[v, u] for v, u in neighbours):
            found.add((y, x))
    return found


@pytest.mark.parametrize("kind", MAPS)
def test_boundary_counts_agree_with_measuring_all_distances(kind):
    probability, mask = maps(kind)
    expected = []
    for p, m in zip(probability[:, 0].numpy(), mask[:, 0].numpy(), strict=True):
        ours = boundary_by_hand((p > 0.5) & (m != IGNORE), (p <= 0.5) & (m != IGNORE))
        truth = boundary_by_hand(m == 1, m == 0)
        hits = [
            sum(any(np.hypot(y - v, x - u) <= TOLERANCE for v, u in other) for y, x in one)
            for one, other in [(ours, truth), (truth, ours)]
        ]
        expected.append([len(ours), hits[0], len(truth), hits[1]])
    assert min(row[0] * row[2] for row in expected) > 0
    assert boundary_counts(probability > 0.5, mask).tolist() == expected


def test_within_is_the_euclidean_distance():
    pixels = torch.rand(1, 1, 30, 40) > 0.98
    distances = distance_transform_edt(~pixels[0, 0].numpy())
    for distance in (0, 1, 2, 3, 5):
        np.testing.assert_array_equal(within(pixels, distance)[0, 0], distances <= distance)
    assert not within(torch.zeros(1, 1, 8, 8, dtype=torch.bool), 2).any()


def test_a_decision_moved_by_two_pixels_has_the_boundary_of_the_truth_and_one_moved_by_three_has_not():
    mask = torch.zeros(1, 1, 40, 80, dtype=torch.uint8)
    mask[..., 10:30, 10:30] = 1
    # by 3 px, the edges along the shift stay near but for one pixel of each, and of the others two pixels at each end
    for shift, expected in [(0, 1), (2, 1), (3, (2 * 19 + 4) / (4 * 19)), (30, 0)]:
        moved = mask.roll(shift, -1) == 1
        assert boundary_dice(*boundary_counts(moved, mask)[0].tolist()) == expected


def test_no_boundary_runs_along_the_edge_of_the_image_or_of_what_is_labelled():
    mask = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
    mask[..., 4:] = IGNORE
    found = boundary_counts(torch.ones(1, 1, 8, 8, dtype=torch.bool), mask)[0].tolist()
    assert found == [0, 0, 0, 0]
    assert boundary_dice(*found) == 1


@pytest.mark.parametrize("kind", MAPS)
def test_every_labelled_pixel_is_in_one_bin_and_at_the_border_or_in_the_interior(kind):
    probability, mask = maps(kind)
    labelled = (mask != IGNORE).sum(dim=(1, 2, 3)).tolist()
    assert reliability(probability, mask)[..., 0].sum(dim=1).tolist() == labelled
    sums = stability_sums(probability, probability > 0.5, mask)
    assert (sums[:, 0] + sums[:, 3]).tolist() == labelled


def test_probabilities_of_0_and_1_are_in_the_first_and_the_last_bin():
    bins = reliability(torch.tensor([[[[0.0, 1.0, 0.5]]]]), torch.tensor([[[[0, 1, 1]]]]))[0]
    assert bins.nonzero().tolist() == [[0, 0], [7, 0], [7, 1], [7, 2], [14, 0], [14, 1], [14, 2]]
    assert np.isnan(calibration_error(*np.zeros((3, BINS))))


def test_flips_and_deviations_are_summed_at_the_border_and_in_the_interior():
    deviation, mask = maps("partly labelled", size=(20, 20))
    changed = deviation > 0.3
    sums = stability_sums(deviation, changed, mask)
    for b in range(len(mask)):
        d, c, m = (array[b, 0].numpy() for array in (deviation, changed, mask))
        border = np.full(m.shape, True)
        for position in boundary_by_hand(m == 1, m == 0):
            border[position] = False
        near = distance_transform_edt(border) <= TOLERANCE
        regions = [near & (m != IGNORE), ~near & (m != IGNORE)]
        expected = [value for r in regions for value in (r.sum(), c[r].sum(), d[r].sum(dtype=np.float64))]
        np.testing.assert_allclose(sums[b], expected, rtol=1e-12)


@examples(20)
@given(seed=st.integers(0, 2**32), g=st.integers(1, P4M.order - 1), kind=st.sampled_from(MAPS))
def test_no_sum_depends_on_how_patch_and_mask_are_turned(seed, g, kind):
    probability, mask = maps(kind, seed=seed)
    turned = [P4M.transform_image(map, g) for map in (probability, mask)]
    for measure in (counts, boundary_counts):
        assert torch.equal(measure(turned[0] > 0.5, turned[1]), measure(probability > 0.5, mask))
    torch.testing.assert_close(reliability(*turned), reliability(probability, mask), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(
        stability_sums(turned[0], turned[0] > 0.5, turned[1]),
        stability_sums(probability, probability > 0.5, mask),
        rtol=1e-13,
        atol=1e-13,
    )


@pytest.mark.parametrize("measure", [counts, boundary_counts, reliability])
def test_unlabelled_pixels_count_neither_for_nor_against(measure):
    probability, mask = maps("labelled")
    partial = mask.clone()
    partial[..., :5] = IGNORE
    found = probability if measure is reliability else probability > 0.5
    torch.testing.assert_close(measure(found, partial), measure(found[..., 5:], mask[..., 5:]))


def test_a_boundary_is_on_the_side_of_the_foreground():
    inside = torch.zeros(1, 1, 5, 5, dtype=torch.bool)
    inside[..., 1:4, 1:4] = True
    expected = inside.clone()
    expected[..., 2, 2] = False
    assert torch.equal(boundary(inside, ~inside), expected)
