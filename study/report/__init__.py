"""From the records of the trials to tables: what a study found, with intervals over seeds and patients together.

``records`` reads them; ``statistics`` has the intervals and tests, on counts of pixels. ``summary`` makes rows of each
model and data regime, ``contrasts`` of each comparison, ``efficiency`` the factor of sample efficiency, ``claims`` rows
of what the paper says, whose numbers are in ``published``. ``tables`` and ``answers`` are the Markdown,
``writing`` has the files.
"""

from study.report.answers import claim_table, contrast_table
from study.report.claims import claim_rows
from study.report.contrasts import contrast_rows
from study.report.efficiency import sample_efficiency
from study.report.records import caption, load_records, trial_rows
from study.report.summary import has_escnn, implementation_rows, summary_rows
from study.report.tables import dice_table, implementation_table, markdown, stability_table
from study.report.writing import write_answers, write_tables

__all__ = [
    "caption",
    "claim_rows",
    "claim_table",
    "contrast_rows",
    "contrast_table",
    "dice_table",
    "has_escnn",
    "implementation_rows",
    "implementation_table",
    "load_records",
    "markdown",
    "sample_efficiency",
    "stability_table",
    "summary_rows",
    "trial_rows",
    "write_answers",
    "write_tables",
]
