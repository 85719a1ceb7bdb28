"""How good a network is, and how steady, from sums over the pixels of each patch.

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
``changed``            flip rate: share of pixels that the eight do not all decide alike
``..._border``         either of the two within 2 px of the truth's boundary
``..._interior``       either of the two elsewhere
=====================  =======================================================================  ========================

Decided as foreground is what has a probability above 0.5. A boundary is the foreground pixels with a 4-neighbour in the
background; none runs along the edge of the image. Pixels that nobody labelled count in no measure.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader

from study.data.patches.loading import to_input
from study.data.patches.store import IGNORE
from study.tasks.measures import (
    BINS,
    boundary_counts,
    boundary_dice,
    calibration_error,
    counts,
    dice,
    iou,
    reliability,
    stability_sums,
)
from study.tasks.stability import stability

READINGS = ("", "tta_")
"""Before the name of a sum or a measure: of the patch as it is, and with test-time augmentation."""

_COUNTS = ("tp", "fp", "fn")
_BOUNDARY = ("boundary_decision", "boundary_decision_hit", "boundary_truth", "boundary_truth_hit")
_REGIONS = ("border", "interior")
_REGION_SUMS = ("pixels", "flips", "deviation")

CASE_COLUMNS = (
    *(f"{reading}{name}" for reading in READINGS for name in _COUNTS),
    *(f"{reading}{name}" for reading in READINGS for name in _BOUNDARY),
    *(f"{region}_{name}" for region in _REGIONS for name in _REGION_SUMS),
)
"""The sums that a record keeps of every case, in this order: numbers of pixels, but for ``border_deviation`` and
``interior_deviation``, which are sums of standard deviations. Border and interior are all pixels that are labelled."""

_BIN_SUMS = ("pixels", "probability", "foreground")
_BIN_COLUMNS = tuple(f"{reading}{name}_{n}" for reading in READINGS for n in range(BINS) for name in _BIN_SUMS)


def evaluate(network: nn.Module, batches: DataLoader, device: torch.device) -> Iterator[pd.DataFrame]:
    """Score a network patch by patch, in eval mode; one table per batch, as they are done.

    Columns: :data:`CASE_COLUMNS`; for each reading and bin ``n`` of the probability ``pixels_n``, ``probability_n`` and
    ``foreground_n`` (sums); and ``deviation_max``. All but the last add up.
    """
    network.eval()
    for images, mask in batches:
        mask = mask.to(device)
        views = stability(network, to_input(images.to(device)))
        readings = (views.probability, views.mean)
        sums = [
            *(counts(reading, mask) for reading in readings),
            *(boundary_counts(reading, mask) for reading in readings),
            stability_sums(views.deviation, views.changed, mask),
            *(reliability(reading, mask).flatten(1) for reading in readings),  # (B, BINS * 3)
            (views.deviation * (mask != IGNORE)).amax(dim=(2, 3)),
        ]
        table = torch.cat([columns.double() for columns in sums], dim=1)  # (B, columns)
        yield pd.DataFrame(table.cpu().numpy(), columns=[*CASE_COLUMNS, *_BIN_COLUMNS, "deviation_max"])


def calibration(patches: pd.DataFrame) -> dict[str, list[float]]:
    """A reliability diagram of each reading, from the patches of :func:`evaluate`.

    Returns:
        ``pixels``, ``probability`` (their sum of probabilities) and ``foreground`` (those that are) for each of the
        :data:`~study.tasks.measures.BINS` bins of the probability, and the same of the other reading.
    """
    sums = patches[list(_BIN_COLUMNS)].sum()
    return {
        f"{reading}{name}": [float(sums[f"{reading}{name}_{n}"]) for n in range(BINS)]
        for reading in READINGS
        for name in _BIN_SUMS
    }


def summarise(patches: pd.DataFrame) -> dict[str, float | None]:
    """The measures of one trial from its patches (see :func:`evaluate`), each with its ``case``; None without pixels.

    ``dice``, pooled over all pixels, is the primary one.
    """
    sums = patches[list(CASE_COLUMNS)].sum()
    cases = patches.groupby("case")[list(CASE_COLUMNS)].sum()
    bins = calibration(patches)
    numbers = {}
    for reading in READINGS:
        pooled = [sums[f"{reading}{name}"] for name in _COUNTS]
        numbers |= {
            f"{reading}dice": dice(*pooled),
            f"{reading}dice_per_patch": _mean_dice(patches, reading),
            f"{reading}dice_per_case": _mean_dice(cases, reading),
            f"{reading}iou": iou(*pooled),
            f"{reading}boundary_dice": boundary_dice(*(sums[f"{reading}{name}"] for name in _BOUNDARY)),
            f"{reading}ece": calibration_error(*(bins[f"{reading}{name}"] for name in _BIN_SUMS)),
        }
    border, interior = (np.array([sums[f"{region}_{name}"] for name in _REGION_SUMS]) for region in _REGIONS)
    for suffix, (pixels, flips, deviation) in {"": border + interior, "_border": border, "_interior": interior}.items():
        numbers |= {f"deviation{suffix}": _mean(deviation, pixels), f"changed{suffix}": _mean(flips, pixels)}
    numbers["deviation_max"] = patches.deviation_max.max()
    return {name: None if np.isnan(value) else float(value) for name, value in numbers.items()}


def _mean_dice(groups: pd.DataFrame, reading: str) -> float:
    """Over the patches or cases with foreground."""
    tp, fp, fn = (groups[f"{reading}{name}"] for name in _COUNTS)
    return dice(tp, fp, fn)[tp + fn > 0].mean() if (tp + fn).any() else np.nan


def _mean(total: float, pixels: float) -> float:
    return total / pixels if pixels else np.nan
