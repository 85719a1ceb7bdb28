"""The tables in Markdown, each in a file of its own, and of which rows their CSV is made.

A table of a study is drawn, listed and available to notebooks once it is in :data:`TABLES`. Those of benchmarks are
entries in :data:`study.report.benchmarks.BENCHMARKS`.
"""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from study.report.results import StudyResults
from study.report.tables.claims import claim_table
from study.report.tables.classes import class_table
from study.report.tables.contrasts import contrast_table
from study.report.tables.dice import dice_table
from study.report.tables.implementations import implementation_table
from study.report.tables.measures import costs_of_study_table, measures_table
from study.report.tables.stability import stability_table


class Table(NamedTuple):
    """What a table shows, its text in Markdown (None where there is nothing to show), and the rows of its CSV."""

    about: str
    text: Callable[[StudyResults], str | None]
    rows: Callable[[StudyResults], pd.DataFrame] | None = None


TABLES = {
    "dice_table": Table(
        "Table 1: Dice by model and data regime, beside the paper's numbers.",
        lambda study: dice_table(study.records),
        lambda study: study.summary,
    ),
    "contrasts": Table(
        "Every comparison with its interval and tests, and the factor of sample efficiency.",
        lambda study: contrast_table(study) if len(study.contrasts) else None,
        lambda study: study.contrasts,
    ),
    "claims": Table(
        "The claims of the paper, its numbers, ours, and a verdict for each task.",
        lambda study: claim_table(study) if len(study.claims) else None,
        lambda study: study.claims,
    ),
    "measures": Table(
        "Dice of patients, IoU, boundary Dice, calibration error, deviation and flip rate, with and without TTA.",
        measures_table,
        lambda study: study.measures,
    ),
    "class_table": Table(
        "Dice of each class, where there are several.",
        lambda study: class_table(study.classes, study.caption),
        lambda study: study.classes,
    ),
    "costs": Table(
        "Parameters, multiplications and seconds of every network.",
        costs_of_study_table,
        lambda study: study.costs,
    ),
    "stability_table": Table(
        "What the eight roto-reflections of a patch do to the output, on the largest data regime.",
        lambda study: stability_table(study.records),
    ),
    "implementation_table": Table(
        "Dice on escnn above the same network from scratch, by data regime.",
        lambda study: None if study.implementations is None else implementation_table(study.records),
    ),
}
"""Of a study, by the names of their files."""
