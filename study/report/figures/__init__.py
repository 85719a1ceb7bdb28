"""The figures, each in a file of its own.

A figure of a study is a function of its :class:`~study.report.results.StudyResults` that returns None where there is
nothing to draw; the first line of its docstring says what it shows. It is drawn, listed and available to notebooks once
it is in :data:`FIGURES`. Figures of benchmarks are functions of the rows that were measured, and are entries in
:data:`study.report.benchmarks.BENCHMARKS`.
"""

from collections.abc import Callable

from matplotlib.figure import Figure

from study.report.figures import (
    contrasts,
    dice_against_data,
    flip_rate,
    implementations,
    is_it_worth_it,
    learning_curves,
    p4_against_p4m,
    stability,
)
from study.report.results import StudyResults

FIGURES: dict[str, Callable[[StudyResults], Figure | None]] = {
    "dice_against_data": dice_against_data.draw,
    "contrasts": contrasts.draw,
    "is_it_worth_it": is_it_worth_it.draw,
    "p4_against_p4m": p4_against_p4m.draw,
    "stability": stability.draw,
    "flip_rate": flip_rate.draw,
    "learning_curves": learning_curves.draw,
    "implementations": implementations.draw,
}
"""Of a study, by the names of their files."""
