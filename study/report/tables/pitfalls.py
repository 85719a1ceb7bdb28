"""The table of what users of escnn trip over."""

import pandas as pd

from study.report.tables.text import markdown


def pitfalls_cells(rows: pd.DataFrame) -> list[list[str]]:
    """What was tried, and what happened here and on escnn; the head first."""
    return [["Tried", "Here", "escnn"], *([row.probe, row.native, row.escnn] for row in rows.itertuples())]


def pitfalls_table(rows: pd.DataFrame) -> str:
    """Markdown: what did not go as a torch user expects is bold."""
    head, *lines = pitfalls_cells(rows)
    fine = rows[["native_fine", "escnn_fine"]].to_numpy()
    marked = [
        [tried, *(text if good else f"**{text}**" for text, good in zip(outcomes, row, strict=True))]
        for (tried, *outcomes), row in zip(lines, fine, strict=True)
    ]
    return f"{markdown([head, *marked])}\n"
