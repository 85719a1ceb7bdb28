"""The table of exported networks."""

import pandas as pd

from study.report.tables.text import markdown

FORMATS = {
    "checkpoint": "the checkpoint, in this package",
    "plain": "plain torch",
    "torch": "torch.export",
    "onnx": "ONNX, in onnxruntime",
}
"""The formats for people."""


def export_cells(rows: pd.DataFrame) -> list[list[str]]:
    """Size, time and difference of each network and format; the head first."""
    head = ["Network", "Format", "Size", f"One image of {rows.side[0]} x {rows.side[0]}", "Largest difference"]
    return [
        head,
        *(
            [row.network, FORMATS[row.format], f"{row.mb:.1f} MB", f"{row.ms:.0f} ms", f"{row.difference:.1e}"]
            for row in rows.itertuples()
        ),
    ]


def export_caption(rows: pd.DataFrame) -> str:
    """What was measured, and on what."""
    row = rows.iloc[0]
    return (
        f"Width {row.width}, depth {row.depth}, float32; {row.hardware}, {row.threads} of them used; medians of "
        f"{row.rounds} rounds. The difference is that of probabilities, over the eight roto-reflections of an image"
    )


def export_table(rows: pd.DataFrame) -> str:
    """Markdown: the same, with its caption."""
    return f"{export_caption(rows)}.\n\n{markdown(export_cells(rows))}\n"
