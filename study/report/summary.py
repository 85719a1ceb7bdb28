"""One row per model and data regime: Dice, stability and gain; and what an implementation on escnn changes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from study.experiments.records import Trial
from study.networks.models import ESCNN_MODELS, MODELS, NATIVE_MODELS, PAPER_MODELS, native_counterpart
from study.report.contrasts import BASELINE
from study.report.published import PAPER_DICE
from study.report.records import by_cell, counts, trial_rows
from study.report.statistics import dice_draws, dice_of_seeds, difference, interval, pooled_dice


def summary_rows(records: Sequence[dict]) -> pd.DataFrame:
    """One row per model and data regime.

    Columns: ``model``, ``fraction``, ``seeds``, ``training_patches``, ``dice`` (%, pooled over the test pixels of all
    seeds), ``dice_sd`` (over seeds; empty for one seed), ``dice_low`` and ``dice_high`` (95 % interval over seeds and
    test cases), ``dice_per_patch`` (%, mean over seeds), ``deviation``, ``deviation_max``, ``changed`` (%),
    ``parameters``, ``gain``, ``gain_low``, ``gain_high`` (Dice above the augmented U-Net's on the same data, in points,
    with the paired interval) and ``paper_dice`` (%).
    """
    cells = by_cell(records)
    rows = []
    for (model, fraction), group in cells.items():
        trials, units = trial_rows(group), counts(group)
        low, high = interval(dice_draws(units))
        row = {
            "model": model,
            "fraction": fraction,
            "seeds": len(trials),
            "training_patches": trials.training_patches.iloc[0],
            "dice": pooled_dice(units),
            "dice_sd": dice_of_seeds(units).std(),
            "dice_low": low,
            "dice_high": high,
            "dice_per_patch": 100 * trials.dice_per_patch.astype(float).mean(),
            "deviation": trials.deviation.mean(),
            "deviation_max": trials.deviation_max.max(),
            "changed": 100 * trials.changed.mean(),
            "parameters": trials.parameters.iloc[0],
            "paper_dice": PAPER_DICE.get(model, {}).get(fraction, np.nan),
        }
        rows.append(row | _difference("gain", group, cells.get((BASELINE, fraction))))
    return pd.DataFrame(rows)


def implementation_rows(records: Sequence[dict]) -> pd.DataFrame:
    """One row per model that is on escnn or has a twin there, and data regime: what the implementation changes.

    Columns: ``native`` (the name of the model from scratch), ``layers`` ("native", "escnn" or "escnn, full basis"),
    ``fraction``, ``seeds``, ``dice`` (%, pooled), ``dice_sd``, ``difference``, ``difference_low``, ``difference_high``
    (Dice above the native layers', in points, over the seeds that both have, with the paired interval over seeds and
    cases), ``deviation`` and ``parameters``.
    """
    cells = by_cell(records)
    twins = {native_counterpart(model) for model, _ in cells if model in ESCNN_MODELS}
    rows = []
    for (model, fraction), group in cells.items():
        native = native_counterpart(model)
        if native is None or (model not in ESCNN_MODELS and model not in twins):
            continue
        trials, units = trial_rows(group), counts(group)
        baseline = cells.get((native, fraction)) if model in ESCNN_MODELS else None
        rows.append(
            {
                "native": native,
                "layers": MODELS[model].layers,
                "fraction": fraction,
                "seeds": len(trials),
                "dice": pooled_dice(units),
                "dice_sd": dice_of_seeds(units).std(),
                **_difference("difference", group, baseline),
                "deviation": trials.deviation.mean(),
                "parameters": trials.parameters.iloc[0],
            }
        )
    return pd.DataFrame(rows)


def compared_on_data(rows: pd.DataFrame) -> list[str]:
    """The models from scratch to show against the amount of data: the paper's, and all that are on several regimes.

    Args:
        rows: with ``model`` and ``fraction``.

    Returns:
        All that there are, if they are none of these.
    """
    regimes = rows.groupby("model").fraction.nunique()
    models = [model for model in NATIVE_MODELS if model in regimes]
    return [model for model in models if model in PAPER_MODELS or regimes[model] > 1] or models


def has_escnn(records: Sequence[dict]) -> bool:
    """Whether any trial on escnn has its twin from scratch, on the same data and with the same seed."""
    trials = {Trial(**record["trial"]) for record in records}
    return any(t.model in ESCNN_MODELS and replace(t, model=native_counterpart(t.model)) in trials for t in trials)


def _difference(name: str, records: list[dict], baseline: list[dict] | None) -> dict[str, float]:
    found = difference([counts(records)], [counts(baseline)]) if baseline else None
    if found is None:
        return {name: np.nan, f"{name}_low": np.nan, f"{name}_high": np.nan}
    return {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}
