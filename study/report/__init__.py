"""From the records of the trials to tables: what a study found, with intervals over seeds and patients together.

``records`` reads them; ``statistics`` has the intervals and tests, on counts of pixels; ``summary`` makes rows of each
model and data regime; ``tables`` is the Markdown.
"""

from study.report.records import caption, load_records, trial_rows
from study.report.summary import has_escnn, implementation_rows, summary_rows
from study.report.tables import dice_table, implementation_table, markdown, stability_table, write_tables

__all__ = [
    "caption",
    "dice_table",
    "has_escnn",
    "implementation_rows",
    "implementation_table",
    "load_records",
    "markdown",
    "stability_table",
    "summary_rows",
    "trial_rows",
    "write_tables",
]
