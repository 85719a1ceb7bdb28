"""The quality and the stability of a network, from sums over the pixels of each patch.

A network is read in two ways: on the patch as it is, and with eight-fold test-time augmentation (TTA), that is by the
mean of its probability over the eight roto-reflections; the keys of the second reading begin with ``tta_``.

=====================  =======================================================================  ========================
Key                    Formula                                                                  Source
=====================  =======================================================================  ========================
``dice``               2 TP / (2 TP + FP + FN), pooled over all pixels                          Dice 1945
``dice_per_patch``     mean of the same over the patches with foreground
``dice_per_case``      mean of the same over the cases (patients) with foreground, each pooled
``iou``                TP / (TP + FP + FN), pooled over all pixels                              Jaccard 1912
``boundary_dice``      (near boundary pixels of decision + of truth) / (all of both), pooled;   Nikolov et al. 2018,
                       near is within 2 px of the other's boundary: the normalised surface      arXiv:1809.04430
                       Dice, on pixels
``ece``                sum over 15 bins of abs(sum of p - foreground pixels) / all pixels,      Naeini et al. 2015, Guo
                       p being the probability of foreground                                    et al. 2017,
                                                                                                arXiv:1706.04599
``deviation``          mean of the standard deviation of p over the eight roto-reflections      Linmans et al. 2018,
                                                                                                Fig. 2
``deviation_max``      its largest value
``changed``            flip rate: share of pixels on which the eight decisions differ
``..._border``         either of the two within 2 px of the truth's boundary
``..._interior``       either of the two elsewhere
=====================  =======================================================================  ========================

The task decides what is foreground (:mod:`study.tasks.task`). A boundary is the foreground pixels with a 4-neighbour in
the background; it does not run along the edge of the image. Unlabelled pixels count in no measure.

With several classes, each class but the background is in turn the foreground, against all others. Sums and measures of
a class end with its label value, as in ``tp_2`` and ``dice_2``, and the measure without an ending is the mean over
these classes (of those that have it). The deviation is then that of the class whose probability varies most, and the
border is that of any class.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader

from study.data.patches.loading import to_input
from study.experiments.records import READINGS
from study.tasks.labels import IGNORE, one_against_rest
from study.tasks.measures import BINS, boundary_counts, counts, reliability, stability_sums
from study.tasks.ratios import boundary_dice, calibration_error, dice, iou
from study.tasks.registry import FOREGROUND
from study.tasks.stability import stability
from study.tasks.task import Task

_COUNTS = ("tp", "fp", "fn")
_BOUNDARY = ("boundary_decision", "boundary_decision_hit", "boundary_truth", "boundary_truth_hit")
_REGIONS = ("border", "interior")
_REGION_SUMS = ("pixels", "flips", "deviation")

_BIN_SUMS = ("pixels", "probability", "foreground")


def case_columns(task: Task) -> list[str]:
    """The sums that a record keeps of every case, in this order: numbers of pixels, but for ``border_deviation`` and
    ``interior_deviation``, which are sums of standard deviations. Border and interior together are all labelled pixels.
    """
    names = [
        *(f"{reading}{name}{end}" for reading in READINGS for end in _endings(task) for name in _COUNTS),
        *(f"{reading}{name}{end}" for reading in READINGS for end in _endings(task) for name in _BOUNDARY),
    ]
    return names + [f"{region}_{name}" for region in _REGIONS for name in _REGION_SUMS]


def _endings(task: Task) -> list[str]:
    """The endings of names for each class; empty if there is one class beside the background."""
    return [f"_{label}" for label in task.foreground] if len(task.foreground) > 1 else [""]


CASE_COLUMNS = tuple(case_columns(FOREGROUND))
"""Those of two classes."""


def _bin_columns(task: Task) -> list[str]:
    bins = [(end, n) for end in _endings(task) for n in range(BINS)]
    return [f"{reading}{name}_{n}{end}" for reading in READINGS for end, n in bins for name in _BIN_SUMS]


def evaluate(
    network: nn.Module, batches: DataLoader, device: torch.device, task: Task = FOREGROUND
) -> Iterator[pd.DataFrame]:
    """Score a network patch by patch, in eval mode; yields one table for each batch.

    Columns: :func:`case_columns`; for each reading and bin ``n`` of the probability ``pixels_n``, ``probability_n`` and
    ``foreground_n`` (sums); and ``deviation_max``. All but the last add up.
    """
    network.eval()
    classes = len(task.classes)
    columns = [*case_columns(task), *_bin_columns(task), "deviation_max"]
    for images, mask in batches:
        mask = mask.to(device)
        views = stability(network, to_input(images.to(device)), task)
        readings = (views.probability, views.mean)
        truth = one_against_rest(mask, classes)  # (B * K, 1, H, W)
        decisions = [one_against_rest(task.decide(reading), classes) == 1 for reading in readings]
        maps = [task.foreground_of(reading).flatten(0, 1).unsqueeze(1) for reading in readings]  # (B * K, 1, H, W)
        by_class = [
            *(counts(decision, truth) for decision in decisions),
            *(boundary_counts(decision, truth) for decision in decisions),
        ]
        sums = [
            *(found.view(len(mask), -1) for found in by_class),  # (B * K, n) -> (B, K * n)
            stability_sums(views.largest_deviation, views.changed, mask, classes),
            *(reliability(reading, truth).view(len(mask), -1) for reading in maps),  # (B, K * BINS * 3)
            (views.largest_deviation * (mask != IGNORE)).amax(dim=(2, 3)),
        ]
        table = torch.cat([found.double() for found in sums], dim=1)  # (B, columns)
        yield pd.DataFrame(table.cpu().numpy(), columns=columns)


def calibration(patches: pd.DataFrame, task: Task = FOREGROUND) -> dict[str, list[float]]:
    """A reliability diagram of each reading, from the patches of :func:`evaluate`.

    Returns:
        ``pixels``, ``probability`` (their sum of probabilities) and ``foreground`` (pixels of the foreground) for each
        of the :data:`~study.tasks.measures.BINS` bins of the probability, and the same of the other reading.
    """
    sums = patches[_bin_columns(task)].sum()
    return {
        f"{reading}{name}{end}": [float(sums[f"{reading}{name}_{n}{end}"]) for n in range(BINS)]
        for reading in READINGS
        for end in _endings(task)
        for name in _BIN_SUMS
    }


def summarise(patches: pd.DataFrame, task: Task = FOREGROUND) -> dict[str, float | None]:
    """The measures of one trial from its patches (see :func:`evaluate`), each with its ``case``; None without pixels.

    ``dice``, pooled over all pixels, is the primary one.
    """
    columns = case_columns(task)
    sums = patches[columns].sum()
    cases = patches.groupby("case")[columns].sum()
    bins = calibration(patches, task)
    numbers = {}
    for reading in READINGS:
        each = {end: _of_class(patches, cases, sums, bins, reading, end) for end in _endings(task)}
        numbers |= {f"{reading}{key}": _mean_of([m[key] for m in each.values()]) for key in next(iter(each.values()))}
        numbers |= {f"{reading}{key}{end}": value for end, found in each.items() if end for key, value in found.items()}
    border, interior = (np.array([sums[f"{region}_{name}"] for name in _REGION_SUMS]) for region in _REGIONS)
    for suffix, (pixels, flips, deviation) in {"": border + interior, "_border": border, "_interior": interior}.items():
        numbers |= {f"deviation{suffix}": _mean(deviation, pixels), f"changed{suffix}": _mean(flips, pixels)}
    numbers["deviation_max"] = patches.deviation_max.max()
    return {name: None if np.isnan(value) else float(value) for name, value in numbers.items()}


def _of_class(patches, cases, sums: pd.Series, bins: dict, reading: str, end: str) -> dict[str, float]:
    """The measures of one class, its names ending with ``end``, against the rest."""
    pooled = [sums[f"{reading}{name}{end}"] for name in _COUNTS]
    return {
        "dice": dice(*pooled),
        "dice_per_patch": _mean_dice(patches, reading, end),
        "dice_per_case": _mean_dice(cases, reading, end),
        "iou": iou(*pooled),
        "boundary_dice": boundary_dice(*(sums[f"{reading}{name}{end}"] for name in _BOUNDARY)),
        "ece": calibration_error(*(bins[f"{reading}{name}{end}"] for name in _BIN_SUMS)),
    }


def _mean_of(values: list[float]) -> float:
    """Of those that are numbers."""
    known = [value for value in values if not np.isnan(value)]
    return sum(known) / len(known) if known else np.nan


def _mean_dice(groups: pd.DataFrame, reading: str, end: str) -> float:
    """The mean Dice over the patches or cases with foreground."""
    tp, fp, fn = (groups[f"{reading}{name}{end}"] for name in _COUNTS)
    return dice(tp, fp, fn)[tp + fn > 0].mean() if (tp + fn).any() else np.nan


def _mean(total: float, pixels: float) -> float:
    return total / pixels if pixels else np.nan
