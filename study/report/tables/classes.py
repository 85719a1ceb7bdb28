"""The table of the Dice of each class."""

from collections.abc import Sequence

import pandas as pd

from study.networks.models import MODELS
from study.report.measures import class_rows
from study.report.records import caption
from study.report.tables.text import INTERVAL, few_seeds, markdown


def class_table(records: Sequence[dict]) -> str | None:
    """Markdown: the Dice (%) of each class but the background; None for a study of two classes."""
    rows = class_rows(records)
    if rows.empty:
        return None
    names = list(rows["class"].unique())
    lines = [["Model", "Share of the data", *names]]
    for (model, fraction), group in rows.groupby(["model", "fraction"], sort=False):
        lines.append([MODELS[model].label, f"{100 * fraction:g} %", *map(_dice_text, group.itertuples())])
    legend = f"Dice in %, pooled over the test pixels of all seeds, with the {INTERVAL}.{few_seeds(rows.seeds)}"
    return f"{caption(records)}\n\n{markdown(lines)}\n\n{legend}\n"


def _dice_text(row) -> str:
    return f"{row.dice:.1f}" + ("" if pd.isna(row.dice_low) else f" [{row.dice_low:.1f}, {row.dice_high:.1f}]")
