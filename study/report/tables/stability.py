"""The table of stability under the eight roto-reflections."""

from collections.abc import Sequence

from study.networks.models import MODELS
from study.report.records import caption
from study.report.summary import summary_rows
from study.report.tables.text import markdown


def stability_table(records: Sequence[dict]) -> str:
    """Markdown: what the eight roto-reflections of a patch do to the output, on the largest data regime."""
    summary = summary_rows(records)
    largest = summary[summary.fraction == summary.fraction.max()]
    lines = [["Model", "Mean deviation", "Largest deviation", "Pixels whose decision changes", "Parameters"]]
    for row in largest.itertuples():
        lines.append(
            [
                MODELS[row.model].label,
                f"{row.deviation:.1e}",
                f"{row.deviation_max:.1e}",
                f"{row.changed:.2f} %",
                f"{row.parameters:,}",
            ]
        )
    legend = (
        "Standard deviation of the foreground probability over the eight roto-reflections of each test patch, in "
        f"float32; models trained on {100 * summary.fraction.max():g} % of the data."
    )
    return f"{caption(records)}\n\n{markdown(lines)}\n\n{legend}\n"
