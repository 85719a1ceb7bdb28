"""Every measure of a study beside the Dice, with intervals over seeds and cases.

:mod:`study.experiments.evaluation` has the formulas. All measures but the calibration error follow from the sums that a
record keeps of each case, so that the bootstrap of :mod:`study.report.statistics` draws them as it draws the Dice.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from study.experiments.records import COUNTS, READINGS
from study.report.claims import FLIPS
from study.report.records import by_cell, case_sums, class_endings, trial_rows
from study.report.statistics import bootstrap_weights, interval
from study.tasks.ratios import boundary_dice, calibration_error, dice, iou

_BOUNDARY = ("boundary_decision", "boundary_decision_hit", "boundary_truth", "boundary_truth_hit")
_BINS = ("pixels", "probability", "foreground")

Measure = tuple[tuple[str, ...], Callable[..., np.ndarray]]
"""The columns of a record's cases, and the measure from the sums of each."""


def _percent(share: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda *sums: 100 * share(*sums)


def _per_pixel(total: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(total, pixels)


OF_READINGS: dict[str, Measure] = {
    "dice": (COUNTS, _percent(dice)),
    "iou": (COUNTS, _percent(iou)),
    "boundary_dice": (_BOUNDARY, _percent(boundary_dice)),
}
"""In %, of the patch as it is and with test-time augmentation."""

OF_VIEWS: dict[str, Measure] = {
    "deviation_border": (("border_deviation", "border_pixels"), _per_pixel),
    "deviation_interior": (("interior_deviation", "interior_pixels"), _per_pixel),
    "changed_border": (("border_flips", "border_pixels"), _percent(_per_pixel)),
    "changed_interior": (("interior_flips", "interior_pixels"), _percent(_per_pixel)),
}
"""Over the eight roto-reflections: the mean standard deviation of the probability, and the flip rate in %."""


def measure_rows(records: Sequence[dict]) -> pd.DataFrame:
    """One row per model, data regime and reading.

    Test-time augmentation has a row where it makes a difference: not of a network that answers all eight
    roto-reflections alike. With it a network does, by construction: its standard deviation and flip rate are 0.

    Columns: ``model``, ``fraction``, ``reading``, ``seeds``, ``training_cases`` (the median), the names in
    :data:`OF_READINGS`, ``dice_per_case`` (%, the mean over the cases with foreground) and those in :data:`OF_VIEWS`,
    each with ``..._low`` and ``..._high`` (95 % interval over seeds and cases), and ``ece`` (%, over the pixels of all
    seeds). Of several classes, each is the mean over them. What older records lack is NaN.
    """
    rows = []
    for (model, fraction), group in by_cell(records).items():
        trials = trial_rows(group).reindex(columns=["training_cases"])
        for reading in READINGS:
            if reading and not has_use_of_tta(group):
                continue
            row = {"model": model, "fraction": fraction, "reading": reading, "seeds": len(trials)}
            row["training_cases"] = trials.training_cases.median()
            endings = class_endings(group, reading)
            for name, (columns, measure) in OF_READINGS.items():
                names = [f"{reading}{column}{end}" for end in endings for column in columns]
                row |= _with_interval(name, case_sums(group, names), measure, len(endings))
            row |= _with_interval("dice_per_case", _dice_of_cases(group, reading), _percent(_per_pixel), len(endings))
            for name, (columns, measure) in OF_VIEWS.items():
                found = _with_interval(name, case_sums(group, columns), measure)
                row |= dict.fromkeys(found, 0.0) if reading else found
            rows.append(row | {"ece": _ece(group, reading)})
    return pd.DataFrame(rows)


def class_rows(records: Sequence[dict]) -> pd.DataFrame:
    """One row per model, data regime and class but the background, of a study of several classes; else no rows.

    Columns: ``model``, ``fraction``, ``class``, ``seeds``, and ``dice`` (%) with ``dice_low`` and ``dice_high`` (95 %
    interval over seeds and cases).
    """
    rows = []
    for (model, fraction), group in by_cell(records).items():
        names = group[0].get("task", {}).get("classes", [])[1:]
        for name, end in zip(names, class_endings(group) if names else [], strict=True):
            row = {"model": model, "fraction": fraction, "class": name, "seeds": len(group)}
            units = case_sums(group, [f"{column}{end}" for column in COUNTS])
            rows.append(row | _with_interval("dice", units, _percent(dice)))
    return pd.DataFrame(rows)


def has_use_of_tta(records: Sequence[dict]) -> bool:
    """Whether it was measured and the eight views do not all decide alike."""
    measured = [r for r in records if "tta_dice" in r["metrics"]]
    return any(r["metrics"]["changed"] >= FLIPS for r in measured)


def _with_interval(
    name: str, units: pd.DataFrame | None, measure: Callable[..., np.ndarray], classes: int = 1
) -> dict[str, float]:
    """A measure from the sums over all units, and its interval: of several classes, whose columns follow each other,
    the mean.
    """
    estimate = low = high = np.nan
    if units is not None:
        estimate = float(_mean_over_classes(units.sum().to_numpy(float), measure, classes))
        if units.index.unique("case").size > 1:
            sums = bootstrap_weights(tuple(units.index)) @ units.to_numpy(float)  # (draws, units) @ (units, columns)
            draws = _mean_over_classes(sums, measure, classes)
            low, high = interval(draws[np.isfinite(draws)]) if np.isfinite(draws).any() else (np.nan, np.nan)
    return {name: estimate, f"{name}_low": low, f"{name}_high": high}


def _mean_over_classes(sums: np.ndarray, measure: Callable[..., np.ndarray], classes: int) -> np.ndarray:
    """Over those classes that have the measure, of sums ``(..., classes * n)``."""
    each = sums.reshape(*sums.shape[:-1], classes, -1)  # (..., classes, n)
    values = np.ma.masked_invalid(measure(*np.moveaxis(each, -1, 0)))
    return np.ma.filled(values.mean(axis=-1), np.nan)


def _dice_of_cases(records: Sequence[dict], reading: str) -> pd.DataFrame | None:
    """Of each class and case with foreground its Dice, and 1 to count it; of each other one zeros."""
    found = {}
    for end in class_endings(records, reading):
        units = case_sums(records, [f"{reading}{name}{end}" for name in COUNTS])
        tp, fp, fn = units.to_numpy(float).T
        there = tp + fn > 0
        found[f"dice{end}"], found[f"there{end}"] = np.where(there, dice(tp, fp, fn), 0), there.astype(float)
    return pd.DataFrame(found, units.index) if found else None


def _ece(records: Sequence[dict], reading: str) -> float:
    bins = [record["calibration"] for record in records if record.get("calibration")]
    endings = class_endings(records, reading)
    if not bins or not endings:
        return np.nan
    each = [
        calibration_error(*(np.sum([one[f"{reading}{name}{end}"] for one in bins], axis=0) for name in _BINS))
        for end in endings
    ]
    return 100 * float(np.nanmean(each))
