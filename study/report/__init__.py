"""From what was measured to tables and figures, of studies and of benchmarks.

``records`` reads the trials of a study; ``statistics`` has intervals and tests, on counts of pixels. ``summary`` makes
rows of each model and data regime, ``measures`` of all measures and costs, ``contrasts`` of each comparison,
``efficiency`` the factor of sample efficiency, ``worth`` what is gained for what, ``claims`` rows of what the paper
says, whose numbers are in ``published``. ``results`` holds all of these for one study. ``tables/`` and ``figures/``
have a file for each; ``style`` and ``looks`` say how figures look. ``writing`` makes the files of a study,
``benchmarks`` those of a benchmark, ``verdict`` the answer in words.
"""

from study.report.claims import claim_rows
from study.report.contrasts import contrast_rows
from study.report.costs import cost_rows
from study.report.efficiency import sample_efficiency
from study.report.measures import class_rows, measure_rows
from study.report.records import caption, load_records, trial_rows
from study.report.results import StudyResults, read_study
from study.report.summary import has_escnn, implementation_rows, summary_rows
from study.report.tables.claims import claim_table
from study.report.tables.contrasts import contrast_table
from study.report.tables.dice import dice_table
from study.report.tables.implementations import implementation_table
from study.report.tables.stability import stability_table
from study.report.tables.text import markdown
from study.report.verdict import verdict
from study.report.worth import worth_rows
from study.report.writing import contents, draw, make_figures, table

__all__ = [
    "StudyResults",
    "caption",
    "claim_rows",
    "claim_table",
    "class_rows",
    "contents",
    "contrast_rows",
    "contrast_table",
    "cost_rows",
    "dice_table",
    "draw",
    "has_escnn",
    "implementation_rows",
    "implementation_table",
    "load_records",
    "make_figures",
    "markdown",
    "measure_rows",
    "read_study",
    "sample_efficiency",
    "stability_table",
    "summary_rows",
    "table",
    "trial_rows",
    "verdict",
    "worth_rows",
]
