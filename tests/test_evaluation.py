import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from study.data.patches.loading import PatchDataset
from study.experiments.evaluation import CASE_COLUMNS, calibration, evaluate, summarise
from study.experiments.records import READINGS
from study.groups import P4M
from study.networks.unet import build_unet
from study.tasks.labels import IGNORE
from study.tasks.measures import BINS, counts
from study.tasks.stability import stability

CPU = torch.device("cpu")


class Brightness(nn.Module):
    """A network that is equivariant because it looks at one pixel at a time."""

    def forward(self, x):
        return 20 * x[:, :1]


class Edges(nn.Module):
    """A network that answers a roto-reflected patch differently."""

    def forward(self, x):
        return 5 * (x[:, :1] - x[:, :1].roll((1, 2), (-2, -1)))


def scores(network, images, mask, *, size: int = 4) -> pd.DataFrame:
    """All patches of a list of pairs, each patch a case of its own."""
    pairs = list(zip(images, mask, strict=True))
    table = pd.concat(evaluate(network, DataLoader(pairs, batch_size=size), CPU), ignore_index=True)
    return table.assign(case=[f"case {n}" for n in range(len(table))])


@pytest.fixture
def patches():
    """Uint8 images ``(B, 3, H, W)`` and partly labelled masks ``(B, 1, H, W)``."""
    smooth = nn.functional.interpolate(torch.rand(6, 1, 5, 5), size=16, mode="bicubic")
    images = (255 * smooth).clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1)
    mask = (smooth + 0.2 * torch.rand_like(smooth) > 0.6).to(torch.uint8)
    mask[torch.rand(mask.shape) < 0.1] = IGNORE
    return images, mask


def table(rows: int, **columns) -> pd.DataFrame:
    """A table of :func:`evaluate` in which nothing is counted but ``columns``."""
    bins = [f"{r}{name}_{n}" for r in READINGS for name in ("pixels", "probability", "foreground") for n in range(BINS)]
    return pd.DataFrame(0.0, range(rows), [*CASE_COLUMNS, *bins, "deviation_max"]).assign(**{"case": "one"} | columns)


def test_pooled_dice_weighs_pixels_and_the_means_over_patches_and_cases_leave_out_empty_ones():
    numbers = summarise(
        table(4, tp=[90, 1, 0, 0], fp=[10, 0, 5, 2], fn=[0, 9, 0, 0], case=["a", "b", "b", "c"], tta_tp=[1, 0, 0, 0])
    )
    assert numbers["dice"] == pytest.approx(2 * 91 / (2 * 91 + 17 + 9))
    assert numbers["iou"] == pytest.approx(91 / (91 + 17 + 9))
    assert numbers["dice_per_patch"] == pytest.approx((180 / 190 + 2 / 11) / 2)
    assert numbers["dice_per_case"] == pytest.approx((180 / 190 + 2 / 16) / 2)
    assert numbers["tta_dice"] == numbers["tta_dice_per_case"] == 1


def test_boundary_dice_counts_both_boundaries():
    decision = {"boundary_decision": [10, 0], "boundary_decision_hit": [6, 0]}
    numbers = summarise(table(2, **decision, boundary_truth=[10, 20], boundary_truth_hit=[5, 1]))
    assert numbers["boundary_dice"] == pytest.approx((6 + 5 + 1) / (10 + 10 + 20))
    assert numbers["tta_boundary_dice"] == 1


def test_the_calibration_error_is_of_the_pooled_bins():
    # patches that are wrong in opposite directions are calibrated together
    patches = table(2, pixels_7=[10, 10], probability_7=[5, 5], foreground_7=[0, 10])
    assert summarise(patches)["ece"] == 0
    assert summarise(patches[:1])["ece"] == pytest.approx(0.5)
    assert calibration(patches)["pixels"] == [0] * 7 + [20] + [0] * 7


def test_deviation_and_flip_rate_are_of_all_pixels_the_border_and_the_interior():
    border = {"border_pixels": [10, 0], "border_flips": [5, 0], "border_deviation": [2, 0]}
    interior = {"interior_pixels": [20, 30], "interior_flips": [1, 0], "interior_deviation": [1, 0]}
    numbers = summarise(table(2, **border, **interior, deviation_max=[0.3, 0.2]))
    assert [numbers[f"changed{region}"] for region in ("", "_border", "_interior")] == [6 / 60, 5 / 10, 1 / 50]
    assert [numbers[f"deviation{region}"] for region in ("", "_border", "_interior")] == [3 / 60, 2 / 10, 1 / 50]
    assert numbers["deviation_max"] == 0.3


def test_what_has_no_pixels_is_none_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        numbers = summarise(table(2))
    assert numbers["dice"] == numbers["iou"] == numbers["boundary_dice"] == 1
    assert numbers["ece"] is numbers["dice_per_case"] is numbers["dice_per_patch"] is numbers["changed_border"] is None


def test_the_two_readings_are_the_first_view_and_the_mean_of_all(patches):
    images, mask = patches
    found = scores(Edges(), images, mask)
    views = stability(Edges(), images.float() / 127.5 - 1)
    assert found[["tp", "fp", "fn"]].to_numpy().tolist() == counts(views.probability > 0.5, mask).tolist()
    assert found[["tta_tp", "tta_fp", "tta_fn"]].to_numpy().tolist() == counts(views.mean > 0.5, mask).tolist()
    numbers = summarise(found)
    assert numbers["dice"] != numbers["tta_dice"]
    assert numbers["ece"] != numbers["tta_ece"]
    labelled = mask != IGNORE
    assert numbers["deviation"] == pytest.approx(float(views.deviation[labelled].mean()), rel=1e-5)
    assert numbers["changed"] == pytest.approx(float(views.changed[labelled].float().mean()))
    assert numbers["deviation_max"] == pytest.approx(float(views.deviation[labelled].max()))


@pytest.mark.parametrize("g", range(1, P4M.order))
def test_an_equivariant_network_scores_the_same_on_turned_patches_and_another_does_not(patches, g):
    turned = [P4M.transform_image(array, g) for array in patches]
    columns = [c for c in scores(Brightness(), *patches).columns if c != "case"]
    steady, restless = ([scores(n(), *p)[columns] for p in (patches, turned)] for n in (Brightness, Edges))
    np.testing.assert_allclose(steady[0], steady[1], rtol=1e-12, atol=1e-12)
    assert not np.allclose(restless[0], restless[1])


def test_test_time_augmentation_and_roto_reflections_change_nothing_for_an_equivariant_network(patches):
    numbers = summarise(scores(Brightness(), *patches))
    assert numbers["changed"] == 0
    assert numbers["deviation_max"] < 1e-6
    for key in ("dice", "iou", "dice_per_case", "boundary_dice", "ece"):
        assert numbers[key] == pytest.approx(numbers[f"tta_{key}"], abs=1e-6)


def test_evaluation_does_not_depend_on_the_size_of_the_batches(store):
    dataset = PatchDataset(store, store.indices("test"))
    network = build_unet("p4m", width=4, depth=1)
    tables = [pd.concat(evaluate(network, DataLoader(dataset, batch_size=size), CPU)) for size in (1, 3, 16)]
    for table in tables[1:]:
        np.testing.assert_allclose(table.to_numpy(), tables[0].to_numpy(), rtol=1e-5, atol=1e-4)
    assert len(tables[0]) == len(dataset)
