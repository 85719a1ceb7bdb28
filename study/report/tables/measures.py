"""The tables of every measure beside the pooled Dice, and of what each network costs."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from study.data.datasets.registry import cases_of
from study.networks.models import MODELS
from study.report.costs import about_seconds
from study.report.records import class_endings
from study.report.results import StudyResults
from study.report.tables.text import INTERVAL, interval_text, markdown


def measures_table(study: StudyResults) -> str:
    """Markdown: every measure by data regime, model and reading."""
    parts, each = [study.caption], cases_of(study.records[0]["data"]["source"])
    head = ["Network", "Seeds", "Dice", f"Dice of {each}", "IoU", "Boundary Dice", "ECE"]
    head += ["Deviation, border / interior", "Flip rate, border / interior"]
    for fraction, cells in study.measures.groupby("fraction"):
        cases = cells.training_cases.median()
        about = "" if np.isnan(cases) else f" (about {cases:.0f} {each})"
        parts.append(f"**{100 * fraction:g} % of the data**{about}")
        parts.append(markdown([head, *(_line(cell) for cell in cells.itertuples())]))
    several = "Each measure is the mean over the classes. " if len(class_endings(study.records)) > 1 else ""
    legend = (
        f"{several}Dice, Dice of {each} (the mean over those with foreground), IoU and boundary Dice (within 2 px) "
        f"in %, with the {INTERVAL}; ECE (calibration error over 15 bins) in %. Deviation is the mean standard "
        "deviation of the probability over the eight roto-reflections, and the flip rate the share of pixels (%) that "
        "the eight do not decide alike: within 2 px of the true border, and elsewhere. TTA: the mean probability over "
        "the eight, which is the same for all of them by construction; it is left out where the network is so by "
        "itself. Networks with different numbers of seeds may have been tested on different cases: compare them by "
        "the contrasts."
    )
    return "\n\n".join([*parts, legend]) + "\n"


def costs_of_study_table(study: StudyResults) -> str:
    """Markdown: parameters, multiplications and seconds of every network."""
    rows, plain = study.costs, study.costs.iloc[0]
    columns = {
        "multiplications": ("Multiplications of a prediction", lambda value: f"{value / 1e6:,.0f} M"),
        "prediction_ms": ("Time of a prediction", lambda value: f"{value:.3g} ms"),
        "seconds": ("Seconds of training", lambda value: f"{value:,.0f}"),
    }
    if study.updates is None:
        del columns["prediction_ms"]
    lines = [["Network", "Parameters", *(head for head, _ in columns.values())]]
    for row in rows.itertuples():
        values = ((getattr(row, name), getattr(plain, name), text) for name, (_, text) in columns.items())
        lines.append([_name(row), f"{row.parameters:,}", *(_with_ratio(*value) for value in values)])
    legend = (
        "In brackets: as multiples of the first line. TTA takes eight predictions. Every data regime has as many "
        f"updates. {about_seconds(study.updates)}"
    )
    return f"{study.caption}\n\n{markdown(lines)}\n\n{legend}\n"


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


def _with_ratio(value: float, plain: float, text: Callable[[float], str]) -> str:
    return "–" if pd.isna(value) else f"{text(value)} ({value / plain:.2g} ×)"
