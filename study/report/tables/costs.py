"""The table of what every network costs."""

import pandas as pd

from study.report.tables.conditions import conditions, network_sizes, times
from study.report.tables.text import markdown


def costs_caption(rows: pd.DataFrame) -> str:
    """What was measured, and on what."""
    row = rows.iloc[0]
    return f"{network_sizes(row)}, {conditions(row, 'float32')} in which all networks took turns"


def costs_cells(rows: pd.DataFrame) -> list[list[str]]:
    """The table of costs as text, its head first."""
    lines = [["Network", "Layers", "Parameters", "Products", "Build", "Training", "Inference", "Memory", "File"]]
    for _, row in rows.iterrows():
        own = f" + {row.escnn_init_seconds:.0f}" if pd.notna(row.escnn_init_seconds) else ""
        lines.append(
            [
                row.network,
                row.implementation,
                f"{row.parameters / 1e6:.2f} M",
                f"{row.multiplications / 1e3:.2f} G",
                f"{row.build_seconds:.1f}{own} s",
                times(row, "training"),
                times(row, "inference"),
                f"{row.peak_mb:.0f} MB",
                f"{row.checkpoint_mb:.1f} MB",
            ]
        )
    return lines


def costs_legend(rows: pd.DataFrame) -> str:
    """What the columns of the table of costs mean."""
    plain = rows.iloc[0]
    return (
        "Products: multiplications in a forward pass of one image. Build: in a fresh process; the second number is "
        "what escnn's own initialisation would add. Training, inference: the time of a batch, as a multiple of the "
        f"plain U-Net's in the same round ({plain.training_ms:.0f} and {plain.inference_ms:.0f} ms). Memory: the peak "
        "of training, beyond the bare process. File: the state dict as saved."
    )


def costs_table(rows: pd.DataFrame) -> str:
    """Markdown: one line per network."""
    return f"{costs_caption(rows)}.\n\n{markdown(costs_cells(rows))}\n\n{costs_legend(rows)}\n"
