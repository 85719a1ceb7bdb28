import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from study.data.loading import PatchDataset
from study.data.patches import IGNORE
from study.evaluation import counts, dice, evaluate, stability, summarise
from study.unet import build_unet


class Brightness(nn.Module):
    """A network that is equivariant because it looks at one pixel at a time."""

    def forward(self, x):
        return 20 * x.mean(dim=1, keepdim=True)


class Ramp(nn.Module):
    """A network that sees only where a pixel stands, and so cannot be equivariant."""

    def forward(self, x):
        return torch.linspace(-1, 1, x.shape[-1]).expand(x.shape[0], 1, *x.shape[-2:])


@pytest.mark.parametrize("batch", [1, 3])
def test_counts_agree_with_counting_pixels_one_by_one(batch):
    probability, mask = torch.rand(batch, 1, 5, 7), torch.randint(0, 2, (batch, 1, 5, 7), dtype=torch.uint8)
    expected = [[0, 0, 0] for _ in range(batch)]
    for b in range(batch):
        for p, m in zip(probability[b].flatten(), mask[b].flatten(), strict=True):
            hit = [p > 0.5 and m == 1, p > 0.5 and m == 0, p <= 0.5 and m == 1]
            expected[b] = [n + bool(h) for n, h in zip(expected[b], hit, strict=True)]
    assert counts(probability, mask).tolist() == expected


def test_dice_is_the_overlap_over_the_mean_area():
    assert dice(6, 2, 4) == pytest.approx(2 * 6 / (2 * 6 + 2 + 4))
    assert dice(0, 0, 0) == 1
    assert dice(0, 3, 0) == 0
    np.testing.assert_allclose(dice(np.array([1, 0]), np.array([0, 1]), np.array([0, 1])), [1, 0])


def test_pooled_dice_weighs_pixels_and_the_mean_over_patches_leaves_out_empty_ones():
    patches = pd.DataFrame({"tp": [90, 1, 0], "fp": [10, 0, 5], "fn": [0, 9, 0], "deviation": 0.1, "changed": 0.0})
    numbers = summarise(patches.assign(deviation_max=[0.1, 0.3, 0.2]))
    assert numbers["dice"] == pytest.approx(2 * 91 / (2 * 91 + 15 + 9))
    assert numbers["dice_per_patch"] == pytest.approx((180 / 190 + 2 / 11) / 2)
    assert numbers["deviation_max"] == 0.3


def test_stability_of_an_equivariant_function_is_perfect():
    images = torch.rand(2, 3, 8, 8)
    views = stability(Brightness(), images)
    assert views.deviation.max() < 1e-6
    assert not views.changed.any()
    torch.testing.assert_close(views.mean, torch.sigmoid(Brightness()(images)))


def test_stability_agrees_with_the_eight_views_computed_by_hand():
    images = torch.rand(1, 3, 6, 6)
    views = stability(Ramp(), images)
    by_hand = []
    for mirrored in (False, True):
        for turns in range(4):
            # the ramp does not look at the image, so a view is the ramp turned back
            ramp = torch.sigmoid(Ramp()(images))
            back = torch.rot90(ramp, -turns, (-2, -1))
            by_hand.append(back.flip(-1) if mirrored else back)
    by_hand = torch.stack(by_hand)
    torch.testing.assert_close(views.mean, by_hand.mean(0))
    torch.testing.assert_close(views.deviation, by_hand.std(0, correction=0))
    torch.testing.assert_close(views.probability, by_hand[0])
    assert views.changed.all()  # left and right halves always disagree


def test_a_p4m_network_is_steady_and_a_plain_one_is_not():
    images = torch.randn(2, 3, 16, 16)
    deviation = {
        group: stability(build_unet(group, width=8, depth=2).train(), images).deviation.max() for group in ("z2", "p4m")
    }
    assert deviation["p4m"] < 1e-5 < 1e-3 < deviation["z2"]


def test_evaluation_does_not_depend_on_the_size_of_the_batches(store):
    dataset = PatchDataset(store, store.indices("test"))
    network = build_unet("p4m", width=4, depth=1)
    tables = [
        pd.concat(evaluate(network, DataLoader(dataset, batch_size=size), torch.device("cpu"))) for size in (1, 3, 16)
    ]
    for table in tables[1:]:
        np.testing.assert_allclose(table.to_numpy(), tables[0].to_numpy(), atol=1e-5)
    assert len(tables[0]) == len(dataset)


def test_unlabelled_pixels_count_neither_for_nor_against():
    probability, mask = torch.rand(4, 1, 8, 8), torch.randint(0, 2, (4, 1, 8, 8), dtype=torch.uint8)
    partial = mask.clone()
    partial[..., :5] = IGNORE
    expected = counts(probability[..., 5:], mask[..., 5:])
    torch.testing.assert_close(counts(probability, partial), expected)
