"""Intervals and tests on counts of pixels, over seeds and patients together.

The unit is a test case of a seed, with the counts of true positives, false positives and false negatives that one
network left there. **The Dice of a model is pooled over the pixels of all its units**, and a difference between models
is one between two such numbers, over the seeds that both have. Of several classes it is the mean of each one's.

Two designs occur. *Nested*: every seed has test cases of its own. *Crossed*: the seeds share their test cases. The
bootstrap (Davison & Hinkley 1997, section 3.8) draws seeds with replacement, and then, in a nested design, cases with
replacement within each drawn seed; in a crossed one it draws the cases independently of the seeds, the same for all.
The draws depend on seeds and cases alone, so that all models see the same ones: differences are paired. Drawing at both
stages counts the cases twice (once with their seeds). So it is careful where each is tested once, and right where each
is tested twice, in two partitions into folds; cases in more than two seeds are drawn as in a crossed design.

What the 95 % interval covers, simulated: with ten seeds of 34 cases 94 to 97 % where what seeds and cases leave to
chance is alike (within a factor of four), 90 % if it were all the seeds', 98 % if all the cases'; with twenty seeds in
two partitions 92 to 94 %. With few seeds it is too narrow where they decide: in the limit some 75 % with three and 83 %
with five.

The p value is of Student's t with one degree of freedom less than there are seeds, of the estimate over the bootstrap's
standard error. So it stays honest with few seeds, where it asks for more than the interval does. (An exact test, which
exchanges the networks within each seed, cannot get below 0.06 with five seeds, nor below 0.03 with six.) Verdicts ask
for both, see :meth:`Difference.bounds`: with five seeds these cover 93 % in the limit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy import stats

from study.errors import StudyError
from study.tasks.ratios import mean_dice

DRAWS = 10_000

FEW_SEEDS = 5
"""With fewer, an interval may be far too narrow, and decides nothing."""


@dataclass(frozen=True)
class Difference:
    """A difference in Dice, in points.

    Attributes:
        estimate: of the Dice pooled over all units.
        low, high: 95 % interval over seeds and cases; NaN if there is one case alone.
        low_90, high_90: the 90 % interval, for two one-sided tests at 5 %.
        error: the bootstrap's standard error; NaN if there is one case alone.
        p: two-sided, of no difference; NaN for one seed.
        sd: standard deviation over seeds; NaN for one seed.
        seeds, cases: how many of each.
    """

    estimate: float
    low: float
    high: float
    low_90: float
    high_90: float
    error: float
    p: float
    sd: float
    seeds: int
    cases: int

    def equivalent(self, margin: float) -> bool:
        """Whether two one-sided tests (TOST, Schuirmann 1987) place it within ``margin`` points of zero, at 5 %."""
        low, high = self.bounds(0.9)
        return -margin < low and high < margin

    def percentiles(self, level: float) -> tuple[float, float]:
        """The bootstrap's interval at 0.95 or 0.9."""
        return {0.95: (self.low, self.high), 0.9: (self.low_90, self.high_90)}[level]

    def bounds(self, level: float) -> tuple[float, float]:
        """The interval that a verdict asks: from the lower to the upper end of the bootstrap's and of Student's t on
        its standard error, which is wider with few seeds.

        Args:
            level: 0.95 or 0.9.

        Returns:
            Everything with fewer than :data:`FEW_SEEDS` seeds, which decide nothing; else NaN for one case alone.
        """
        if self.seeds < FEW_SEEDS:
            return -np.inf, np.inf
        low, high = self.percentiles(level)
        reach = self.error * stats.t.ppf((1 + level) / 2, self.seeds - 1)
        return min(low, self.estimate - reach), max(high, self.estimate + reach)


def pooled_dice(units: pd.DataFrame) -> float:
    """Dice in %, pooled over all units: a table of :func:`~study.report.records.counts`."""
    return 100 * float(mean_dice(units.sum()))


def dice_of_seeds(units: pd.DataFrame) -> pd.Series:
    """Dice in % of each seed, pooled over its cases."""
    sums = units.groupby("seed").sum()
    return pd.Series(100 * mean_dice(sums), sums.index)


def dice_draws(units: pd.DataFrame) -> np.ndarray:
    """The pooled Dice in % of every draw of the bootstrap, ``(draws,)``.

    One case alone says nothing about other cases: its only draw is NaN.
    """
    if units.index.unique("case").size == 1:
        return np.array([np.nan])
    sums = bootstrap_weights(tuple(units.index)) @ units.to_numpy(float)  # (draws, units) @ (units, 3 * K)
    return 100 * mean_dice(sums)


def interval(draws: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The middle ``level`` of the draws: a percentile interval."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def difference(ours: Sequence[pd.DataFrame], theirs: Sequence[pd.DataFrame]) -> Difference | None:
    """The Dice of ``ours`` less that of ``theirs``, over the seeds that all have; None if there is none.

    Args:
        ours, theirs: tables of :func:`~study.report.records.counts`. Of several on a side the Dice is added up: with
            two on each, it is a difference of differences.

    Raises:
        StudyError: if two networks of one seed were tested on different cases.
    """
    tables = on_common_seeds([*ours, *theirs])
    if tables[0].empty:
        return None
    ours, theirs = tables[: len(ours)], tables[len(ours) :]

    def over(measure):
        return sum(map(measure, ours)) - sum(map(measure, theirs))

    draws, estimate = over(dice_draws), over(pooled_dice)
    error = float(draws.std())
    return Difference(
        estimate,
        *interval(draws),
        *interval(draws, 0.9),
        error=error,
        p=_p_value(estimate, error, seeds := tables[0].index.unique("seed").size),
        sd=float(over(dice_of_seeds).std()),
        seeds=seeds,
        cases=ours[0].index.unique("case").size,
    )


def on_common_seeds(tables: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """Tables of :func:`~study.report.records.counts`, each on the seeds that all of them have; perhaps there is none.

    Raises:
        StudyError: if two networks of one seed were tested on different cases.
    """
    seeds = sorted(set.intersection(*(set(units.index.unique("seed")) for units in tables)))
    tables = [units[units.index.get_level_values("seed").isin(seeds)] for units in tables]
    for units in tables:
        differing = units.index.symmetric_difference(tables[0].index)
        if len(differing):
            seed, case = differing[0]
            raise StudyError(
                f"seed {seed}: not every network was tested on case {case}; remove the records that other data made"
            )
    return tables


@lru_cache(maxsize=8)
def bootstrap_weights(units: tuple[tuple[int, str], ...]) -> np.ndarray:
    """How often each unit, a (seed, case), is in each draw of the bootstrap, float ``(draws, units)``."""
    generator = np.random.default_rng(0)
    seed, seeds = pd.factorize(np.array([unit[0] for unit in units]))  # of each unit; all
    case, cases = pd.factorize(np.array([unit[1] for unit in units]))
    drawn = generator.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), size=DRAWS)  # (draw, seed)
    if len(units) < len(seeds) * len(cases) and np.bincount(case).max() <= 2:  # nested
        weights = np.empty((DRAWS, len(units)))
        for number in range(len(seeds)):
            own = seed == number
            size = own.sum()
            weights[:, own] = generator.multinomial(drawn[:, number] * size, np.full(size, 1 / size))
        return weights
    share = np.full(len(cases), 1 / len(cases))
    weights = drawn[:, seed] * generator.multinomial(len(cases), share, size=DRAWS)[:, case]
    return weights[weights.any(axis=1)].astype(float)  # without draws of seeds that have none of the drawn cases


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p values (1979): below 0.05 where all of the tests together err with at most that probability."""
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(np.sort(p) * np.arange(len(p), 0, -1)).clip(max=1)
    return adjusted


def _p_value(estimate: float, error: float, seeds: int) -> float:
    if seeds == 1:
        return np.nan
    if error == 0:
        return float(estimate == 0)
    return float(2 * stats.t.sf(abs(estimate) / error, seeds - 1))
