"""The table of the Dice of each class."""

import pandas as pd

from study.networks.models import MODELS
from study.report.tables.text import INTERVAL, few_seeds, interval_text, markdown


def class_table(rows: pd.DataFrame, caption: str) -> str | None:
    """Markdown: the Dice (%) of each class but the background; None for a study of two classes.

    Args:
        rows: of :func:`~study.report.measures.class_rows`.
        caption: what the numbers are about.
    """
    if rows.empty:
        return None
    lines = [["Model", "Share of the data", *rows["class"].unique()]]
    for (model, fraction), group in rows.groupby(["model", "fraction"], sort=False):
        each = [f"{row.dice:.1f}{interval_text(row.dice_low, row.dice_high)}" for row in group.itertuples()]
        lines.append([MODELS[model].label, f"{100 * fraction:g} %", *each])
    legend = f"Dice in %, pooled over the test pixels of all seeds, with the {INTERVAL}.{few_seeds(rows.seeds)}"
    return f"{caption}\n\n{markdown(lines)}\n\n{legend}\n"
