"""The comparisons of the study: which there are, what was found, and which tests are adjusted together."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import pandas as pd

from study.networks.models import MODELS, NATIVE_MODELS
from study.report.records import by_cell, counts
from study.report.statistics import Difference, difference, holm

BASELINE = "unet-aug"
"""What gains are measured from: the paper's U-Net was trained with roto-reflections (section 3.4)."""

MARGIN = 1.0
"""Two Dice closer than this, in points, count as equal."""

_READINGS = {"": "", "tta_": " with TTA"}


@dataclass(frozen=True)
class Cell:
    """A model on a data regime, and how it is read: one of :data:`~study.experiments.records.READINGS`."""

    model: str
    fraction: float
    reading: str = ""

    @property
    def network(self) -> str:
        """For people."""
        return f"{MODELS[self.model].label}{_READINGS[self.reading]}"


@dataclass(frozen=True)
class Contrast:
    """The Dice of one cell less that of another."""

    ours: Cell
    theirs: Cell

    def __str__(self) -> str:
        ours, theirs = (f"{100 * cell.fraction:g} %" for cell in (self.ours, self.theirs))
        if ours == theirs:
            return f"{ours}: {self.ours.network} − {self.theirs.network}"
        return f"{self.ours.network} ({ours}) − {self.theirs.network} ({theirs})"


def _at(fraction: float, ours: str, theirs: str, reading: str = "") -> Contrast:
    return Contrast(Cell(ours, fraction), Cell(theirs, fraction, reading))


PRIMARY = _at(0.125, "p4m", BASELINE)
"""What the study is about. Its p value is not adjusted."""

SECONDARY = (
    _at(1.0, "p4m", BASELINE),
    _at(0.125, "p4m", "p4"),
    _at(0.125, "p4m", "unet-sym"),
    _at(0.125, "p4m", "unet-time"),
    _at(0.125, "p4m", BASELINE, "tta_"),
    _at(0.125, "p4", BASELINE),
    _at(0.125, BASELINE, "unet"),
)
"""Tested too, and adjusted together, with the primary one on every further task (Holm)."""

QUARTER = Contrast(Cell("p4m", 0.25), Cell(BASELINE, 1.0))
"""The paper's quarter of the data: described, and judged as a claim, by its 90 % interval."""

CONTROL = Contrast(Cell(BASELINE, 0.25), QUARTER.theirs)
"""What a quarter of the data costs the U-Net itself."""


def contrast_rows(studies: Mapping[str, Sequence[dict]]) -> pd.DataFrame:
    """One row per contrast that the records allow.

    Args:
        studies: the records by task. The first is the primary one; of the others there is the primary contrast alone.

    Returns:
        A table with ``task``, ``contrast``, ``role`` ("primary", "secondary" or "described"), the attributes of
        :class:`~study.report.statistics.Difference` (``p`` of what is tested only), ``p_holm`` (of the secondary ones)
        and ``equivalent`` (within :data:`MARGIN`). Described are, on the primary task, P4M against every other model
        from scratch, P4 against the augmented U-Net and both against the plain one, on all regimes.

    Raises:
        StudyError: if networks of one seed were tested on different cases.
    """
    rows = []
    for number, (task, records) in enumerate(studies.items()):
        for contrast, role in _roles(first=number == 0, fractions=_fractions(records)).items():
            found = find(records, [contrast.ours], [contrast.theirs])
            if found:
                row = {"task": task, "contrast": str(contrast), "role": role, **asdict(found)}
                rows.append(row | {"equivalent": found.equivalent(MARGIN)})
    columns = ["task", "contrast", "role", *(field.name for field in fields(Difference)), "equivalent"]
    table = pd.DataFrame(rows, columns=columns).assign(p_holm=np.nan)
    table.loc[table.role == "described", "p"] = np.nan
    tested = (table.role == "secondary") & table.p.notna()
    table.loc[tested, "p_holm"] = holm(table.p[tested].to_numpy())
    return table


def find(records: Sequence[dict], ours: Sequence[Cell], theirs: Sequence[Cell]) -> Difference | None:
    """The difference in Dice, of cells that are added up on each side; None if a cell or a common seed is missing.

    Raises:
        StudyError: if networks of one seed were tested on different cases.
    """
    groups = by_cell(records)
    sides = [[counts(groups.get((c.model, c.fraction), []), c.reading) for c in side] for side in (ours, theirs)]
    if any(units is None for side in sides for units in side):
        return None
    return difference(*sides)


def _fractions(records: Sequence[dict]) -> list[float]:
    return sorted({record["trial"]["fraction"] for record in records})


def _roles(*, first: bool, fractions: Sequence[float]) -> dict[Contrast, str]:
    """Every contrast once, the tested ones first."""
    if not first:
        return {PRIMARY: "secondary"}
    others = [model for model in NATIVE_MODELS if model != "p4m"]
    described = [QUARTER, CONTROL]
    for fraction in fractions:
        described += [_at(fraction, "p4m", model) for model in others]
        described += [_at(fraction, "p4m", BASELINE, "tta_"), _at(fraction, "p4", BASELINE)]
        described += [_at(fraction, "p4", "unet"), _at(fraction, BASELINE, "unet")]
    roles = {PRIMARY: "primary"} | dict.fromkeys(SECONDARY, "secondary")
    return roles | {contrast: "described" for contrast in described if contrast not in roles}
