"""The tables of every measure beside the pooled Dice, and of what each network costs."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from study.networks.models import MODELS
from study.report.measures import cost_rows, measure_rows
from study.report.records import caption, class_endings
from study.report.tables.text import INTERVAL, interval_text, markdown

_HEAD = [
    *("Network", "Seeds", "Dice", "Dice of patients", "IoU", "Boundary Dice", "ECE"),
    *("Deviation, border / interior", "Flip rate, border / interior"),
]


def measures_table(records: Sequence[dict]) -> str:
    """Markdown: every measure by data regime, model and reading."""
    rows, parts = measure_rows(records), [caption(records)]
    for fraction, cells in rows.groupby("fraction"):
        cases = cells.training_cases.median()
        people = "" if np.isnan(cases) else f" (about {cases:.0f} patients)"
        parts.append(f"**{100 * fraction:g} % of the data**{people}")
        parts.append(markdown([_HEAD, *(_line(cell) for cell in cells.itertuples())]))
    several = "Each measure is the mean over the classes. " if len(class_endings(records)) > 1 else ""
    legend = (
        f"{several}Dice, Dice of patients (the mean over those with foreground), IoU and boundary Dice (within 2 px) "
        f"in %, with the {INTERVAL}; ECE (calibration error over 15 bins) in %. Deviation is the mean standard "
        "deviation of the probability over the eight roto-reflections, and the flip rate the share of pixels (%) that "
        "the eight do not decide alike: within 2 px of the true border, and elsewhere. TTA: the mean probability over "
        "the eight, which is the same for all of them by construction; it is left out where the network is so by "
        "itself. Networks with different numbers of seeds may have been tested on different patients: compare them by "
        "the contrasts."
    )
    return "\n\n".join([*parts, legend]) + "\n"


def costs_of_study_table(records: Sequence[dict]) -> str:
    """Markdown: parameters, multiplications and seconds of every network."""
    rows = cost_rows(records)
    plain = rows.iloc[0]
    lines = [["Network", "Parameters", "Multiplications of a prediction", "Seconds of training"]]
    for row in rows.itertuples():
        lines.append(
            [
                _name(row),
                f"{row.parameters:,}",
                _with_ratio(f"{row.multiplications / 1e6:,.0f} M", row.multiplications, plain.multiplications),
                _with_ratio(f"{row.seconds:,.0f}", row.seconds, plain.seconds),
            ]
        )
    legend = (
        "In brackets: as multiples of the first line. TTA takes eight predictions. Seconds: the number of epochs "
        "times the fastest epoch on record; every data regime has as many updates. Trials of one study may have run on "
        "machines of different speed, so the seconds are comparable within a factor of two only; "
        "`python -m study bench training-step` compares networks in turn on one machine."
    )
    return f"{caption(records)}\n\n{markdown(lines)}\n\n{legend}\n"


def _line(cell) -> list[str]:
    return [
        *(_name(cell), f"{cell.seeds}"),
        *(_interval(cell, name) for name in ("dice", "dice_per_case", "iou", "boundary_dice")),
        _number(cell.ece, "{:.1f}"),
        _pair(cell.deviation_border, cell.deviation_interior, _deviation),
        _pair(cell.changed_border, cell.changed_interior, "{:.2f}".format),
    ]


def _name(row) -> str:
    return MODELS[row.model].label + (", TTA" if row.reading else "")


def _interval(cell, name: str) -> str:
    value, low, high = (getattr(cell, f"{name}{end}") for end in ("", "_low", "_high"))
    return _number(value, "{:.1f}") + interval_text(low, high)


def _deviation(value: float) -> str:
    return "0" if value == 0 else f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def _pair(border: float, interior: float, text) -> str:
    return "–" if np.isnan(border) and np.isnan(interior) else f"{text(border)} / {text(interior)}"


def _number(value: float, text: str) -> str:
    return "–" if np.isnan(value) else text.format(value)


def _with_ratio(text: str, value: float, plain: float) -> str:
    return "–" if pd.isna(value) else f"{text} ({value / plain:.2g} ×)"
