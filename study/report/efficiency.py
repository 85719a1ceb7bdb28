"""The factor of sample efficiency: with how many times less data a model gets as good as another on all of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

from study.report.contrasts import BASELINE
from study.report.records import by_cell, counts
from study.report.statistics import dice_draws, on_common_seeds, pooled_dice

LESS, MORE = 0.0, np.inf
"""A factor that is below 1, or above the largest that was measured: the Dice is reached outside the regimes."""


@dataclass(frozen=True)
class Factor:
    """How many times less data a model needs.

    Attributes:
        estimate: 1 to ``largest``, or :data:`LESS` or :data:`MORE`.
        low, high: 95 % interval over seeds and cases, likewise; NaN if there is one case alone.
        largest: the whole over the smallest regime.
        regimes: between which it is read off.
        seeds: that all of them have.
    """

    estimate: float
    low: float
    high: float
    largest: float
    regimes: tuple[float, ...]
    seeds: int

    def text(self, value: float) -> str:
        """A factor for people."""
        if value == MORE:
            return f"at least {self.largest:g}"
        return "less than 1" if value == LESS else f"{value:.1f}"

    def __str__(self) -> str:
        interval = f" [{self.text(self.low)}, {self.text(self.high)}]" if not np.isnan(self.low) else ""
        return self.text(self.estimate) + interval


def sample_efficiency(records: Sequence[dict], model: str = "p4m", other: str = BASELINE) -> Factor | None:
    """The factor by which ``model`` needs less data for the Dice of ``other`` on all of the data.

    The Dice of ``model`` is interpolated between the data regimes, linearly in the logarithm of their size, after it
    was made non-decreasing (isotonic regression): more data does not harm. Where each doubling of the data gains less
    than the one before, as is usual, the line lies below the truth, and so does the factor; with two regimes it is
    rough. Outside the regimes nothing is extrapolated. The bootstrap draws all regimes alike.

    Returns:
        None if the largest regime lacks one of the models, or there is no other regime with the seeds that both have
        there; regimes that lack some of these seeds are left out.

    Raises:
        StudyError: if networks of one seed were tested on different cases.
    """
    groups = by_cell(records)
    largest = max(fraction for _, fraction in groups)
    target, curve = counts(groups.get((other, largest), [])), counts(groups.get((model, largest), []))
    if target is None or curve is None:
        return None
    seeds = target.index.unique("seed").intersection(curve.index.unique("seed"))
    cells = {f: counts(group) for (name, f), group in sorted(groups.items()) if name == model}
    cells = {f: units for f, units in cells.items() if seeds.isin(units.index.unique("seed")).all()}
    if seeds.empty or len(cells) < 2:
        return None
    regimes = tuple(cells)
    *curve, target = on_common_seeds([*cells.values(), target])
    draws = np.stack([dice_draws(units) for units in (*curve, target)], axis=1)  # (draws, regimes + 1)
    low = high = np.nan
    if not np.isnan(draws).any():
        factors = [factor(regimes, draw[:-1], draw[-1]) for draw in draws]
        low, high = np.quantile(
            factors, [0.025, 0.975], method="inverted_cdf"
        )  # of no values in between: some are MORE
    estimate = factor(regimes, [pooled_dice(units) for units in curve], pooled_dice(target))
    return Factor(estimate, float(low), float(high), regimes[-1] / regimes[0], regimes, len(seeds))


def factor(regimes: Sequence[float], curve: Sequence[float], target: float) -> float:
    """The whole over the data at which ``curve``, the Dice on each of the regimes (ascending), reaches ``target``."""
    curve = isotonic_regression(curve).x
    reached = np.flatnonzero(curve >= target)
    if not reached.size:
        return LESS
    end = reached[0]
    if end == 0:
        return MORE
    start = end - 1
    share = (target - curve[start]) / (curve[end] - curve[start])
    data = regimes[start] * (regimes[end] / regimes[start]) ** share
    return regimes[-1] / data
