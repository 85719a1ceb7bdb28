"""The measurable claims of the paper, each with its number, what tests it here, and a verdict.

A claim about the Dice has a value that its difference must lie above: 0 for "better", minus :data:`MARGIN` for "as
good as". It **holds** if the whole interval lies above that value. It **does not** if the whole interval lies below it
or, for "better", within :data:`MARGIN` of 0: a difference that is shown to be nothing. It is **undecided** otherwise,
and with fewer than :data:`FEW_SEEDS` seeds. So the rule is symmetric: exchanging the two networks turns a clear win
into a clear loss. It asks for a sign and not for the paper's size, which another tissue need not have and which stands
beside it. The interval is the 95 % one; for "as good as" it is the 90 % one, which makes it a one-sided test at 5 %.
The bootstrap's interval stands in the table; of a difference the verdict asks Student's too, see
:meth:`~study.report.statistics.Difference.bounds`. Verdicts are of one claim each, not adjusted for their number.

A claim about every network of a kind, that it turns with the image or does not, is refuted by a single one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from study.report.contrasts import BASELINE, CONTROL, MARGIN, QUARTER, Cell, find
from study.report.efficiency import factor, sample_efficiency
from study.report.published import PAPER_DICE
from study.report.records import counted
from study.report.statistics import FEW_SEEDS, Difference

HOLDS, FAILS, UNDECIDED = "holds", "does not", "undecided"

DEVIATION, FLIPS = 1e-5, 1e-5
"""What float32 rounding may do to an answer that is the same: the largest deviation of a probability over the eight
roto-reflections, and the share of pixels that it may take across 0.5."""


@dataclass(frozen=True)
class Outcome:
    """What a study says about a claim: for people and as numbers (NaN where there is no interval), and the verdict."""

    text: str
    verdict: str
    estimate: float
    low: float = np.nan
    high: float = np.nan


def verdict_of_better(low: float, high: float) -> str:
    """On "better", from the interval of a difference; see the rule at the head of this module."""
    if low > 0:
        return HOLDS
    return FAILS if high < 0 or -MARGIN < low <= high < MARGIN else UNDECIDED


@dataclass(frozen=True)
class Better:
    """The Dice of some cells is above that of others; with two on each side, a difference is above another one."""

    sentence: str
    ours: tuple[Cell, ...]
    theirs: tuple[Cell, ...]

    @property
    def paper(self) -> str:
        ours, theirs = (sum(PAPER_DICE[c.model][c.fraction] for c in side) for side in (self.ours, self.theirs))
        return f"{ours - theirs:+.1f} points"

    def outcome(self, records: Sequence[dict]) -> Outcome | None:
        """None if the records do not allow one."""
        found = find(records, self.ours, self.theirs)
        return self._judged(found, 0.95) if found else None

    def verdict(self, low: float, high: float) -> str:
        """From an interval."""
        return verdict_of_better(low, high)

    def _judged(self, found: Difference, level: float) -> Outcome:
        low, high = found.percentiles(level)
        interval = "" if np.isnan(low) else f" [{low:+.1f}, {high:+.1f}]"
        text = f"{found.estimate:+.1f}{interval}, {counted(found.seeds, 'seed')}"
        return Outcome(text, self.verdict(*found.bounds(level)), found.estimate, low, high)


class AsGoodOnAQuarter(Better):
    """P4M on a quarter of the data is not more than :data:`MARGIN` below the U-Net on all of them.

    Beside it stands what a quarter costs the U-Net itself: where that is nothing, the claim says little.
    """

    def outcome(self, records: Sequence[dict]) -> Outcome | None:
        found, control = (find(records, [c.ours], [c.theirs]) for c in (QUARTER, CONTROL))
        if not found or not control:
            return None
        outcome, control = self._judged(found, 0.9), self._judged(control, 0.9)
        return replace(outcome, text=f"{outcome.text}; the U-Net itself {control.text}")

    def verdict(self, low: float, high: float) -> str:
        if low > -MARGIN:
            return HOLDS
        return FAILS if high < -MARGIN else UNDECIDED


@dataclass(frozen=True)
class NeedsLess:
    """P4M reaches the Dice of the augmented U-Net with less data: by a factor above 1."""

    sentence: str

    @property
    def paper(self) -> str:
        curve = PAPER_DICE["p4m"]
        return f"a factor of {factor(list(curve), list(curve.values()), PAPER_DICE[BASELINE][1.0]):.1f} (interpolated)"

    def outcome(self, records: Sequence[dict]) -> Outcome | None:
        found = sample_efficiency(records)
        if found is None:
            return None
        verdict = HOLDS if found.low > 1 else FAILS if found.high < 1 else UNDECIDED
        if found.seeds < FEW_SEEDS:
            verdict = UNDECIDED
        text = f"{found}, {counted(found.seeds, 'seed')}"
        return Outcome(text, verdict, found.estimate, found.low, found.high)


@dataclass(frozen=True)
class SameAnswer:
    """Every network of a model gives the same answer whichever way the image lies, or none does."""

    sentence: str
    model: str
    same: bool
    paper: str

    def outcome(self, records: Sequence[dict]) -> Outcome | None:
        metrics = pd.DataFrame([r["metrics"] for r in records if r["trial"]["model"] == self.model])
        metrics = metrics.reindex(columns=["deviation_max", "changed"]).astype(float).dropna()
        if metrics.empty:
            return None
        same = (metrics.deviation_max < DEVIATION) & (metrics.changed < FLIPS)
        flips = metrics.changed.mean()
        text = f"flip rate {100 * flips:.2g} %, deviation at most {metrics.deviation_max.max():.1g}, "
        text += counted(len(metrics), "network")
        return Outcome(text, HOLDS if (same == self.same).all() else FAILS, flips)


_P4M, _UNET = ({f: Cell(model, f) for f in PAPER_DICE["p4m"]} for model in ("p4m", BASELINE))

CLAIMS = (
    Better("On all of the data P4M is better than the U-Net of equal parameters", (_P4M[1.0],), (_UNET[1.0],)),
    Better("On 50 % too", (_P4M[0.5],), (_UNET[0.5],)),
    Better("On 25 % too", (_P4M[0.25],), (_UNET[0.25],)),
    Better("On 12.5 % too", (_P4M[0.125],), (_UNET[0.125],)),
    Better(
        "Its advantage grows as the data shrink (12.5 % against all)",
        (_P4M[0.125], _UNET[1.0]),
        (_UNET[0.125], _P4M[1.0]),
    ),
    AsGoodOnAQuarter("On a quarter of the data P4M is as good as the U-Net on all", (QUARTER.ours,), (QUARTER.theirs,)),
    NeedsLess("P4M needs less data for the Dice of the U-Net on all of it"),
    Better("Rotations help: P4 is better than the U-Net", (Cell("p4", 1.0),), (_UNET[1.0],)),
    Better("Reflections help further: P4M is better than P4", (_P4M[1.0],), (Cell("p4", 1.0),)),
    SameAnswer("P4M gives the same answer whichever way the slide lies", "p4m", True, "no deviation (Fig. 2)"),
    SameAnswer("The augmented U-Net answers otherwise when the slide is turned", BASELINE, False, "deviates (Fig. 2)"),
)
"""Of Linmans et al. 2018. Its U-Net is the augmented one."""


def claim_rows(studies: Mapping[str, Sequence[dict]]) -> pd.DataFrame:
    """One row per claim and task.

    Args:
        studies: records by task.

    Returns:
        A table with ``claim``, ``paper``, ``task``, ``ours`` (for people), ``estimate``, ``low``, ``high`` and
        ``verdict``; the last five are empty where the records do not allow them.

    Raises:
        StudyError: if networks of one seed were tested on different cases.
    """
    rows = []
    for claim in CLAIMS:
        for task, records in studies.items():
            row = {"claim": claim.sentence, "paper": claim.paper, "task": task}
            outcome = claim.outcome(records)
            if outcome:
                row |= {"ours": outcome.text, "estimate": outcome.estimate, "low": outcome.low, "high": outcome.high}
                row |= {"verdict": outcome.verdict}
            rows.append(row)
    return pd.DataFrame(rows, columns=["claim", "paper", "task", "ours", "estimate", "low", "high", "verdict"])
