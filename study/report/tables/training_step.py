"""The table of whole networks: a training step, and inference."""

import pandas as pd

from study.report.tables.conditions import GROUPS, conditions, network_sizes, times
from study.report.tables.text import markdown


def steps_caption(rows: pd.DataFrame) -> str:
    """What was measured, and on what."""
    row = rows.iloc[0]
    return f"{network_sizes(row, width=False)}, {conditions(row, row.precision)} in which all of a width took turns"


def step_labels(rows: pd.DataFrame) -> list[str]:
    """What each row is, in words."""
    forms = {"native": "Fourier where faster"}
    labels = []
    for row in rows.itertuples():
        words = [GROUPS[row.group] if row.group == "z2" else f"{GROUPS[row.group]} U-Net"]
        words += [forms.get(row.form, row.form)] if row.group != "z2" else []
        words += ["channels last"] if row.channels_last else []
        words += ["compiled"] if row.compiled else []
        labels.append(", ".join(words))
    return labels


def steps_cells(rows: pd.DataFrame) -> list[list[str]]:
    """One line per network, the head first."""
    lines = [
        ["Width", "Network", "Parameters", "Products", "Build", "Training step", "Inference", "Deployed", "Memory"]
    ]
    for label, (_, row) in zip(step_labels(rows), rows.iterrows(), strict=True):
        own = f" + {row.escnn_init_seconds:.0f}" if pd.notna(row.escnn_init_seconds) else ""
        lines.append(
            [
                f"{row.width}",
                label,
                f"{row.parameters / 1e6:.2f} M",
                f"{row.multiplications / 1e3:.2f} G",
                f"{row.build_seconds:.2f}{own} s",
                *(times(row, kind) for kind in ("training", "inference", "deployed")),
                f"{row.peak_mb:.0f} MB",
            ]
        )
    return lines


def steps_legend(rows: pd.DataFrame) -> str:
    """What the columns mean."""
    plain = rows[(rows.group == "z2") & ~rows.channels_last & ~rows.compiled]
    times = [" / ".join(f"{x:.0f}" for x in plain[f"{kind}_ms"]) for kind in ("training", "inference", "deployed")]
    return (
        "Products: multiplications in a forward pass of one image. Build: in a fresh process; the second number is "
        "what escnn's own initialisation would add. Training step, inference, deployed (batch norm folded, filters "
        "prepared): the time of a batch as a multiple of that of the U-Net of the same width in the same round "
        f"({times[0]} ms, {times[1]} ms and {times[2]} ms), with quartiles. Memory: the peak of training, beyond the "
        "bare process."
    )


def steps_table(rows: pd.DataFrame) -> str:
    """Markdown."""
    return f"{steps_caption(rows)}.\n\n{markdown(steps_cells(rows))}\n\n{steps_legend(rows)}\n"


def steps_brief(rows: pd.DataFrame) -> list[list[str]]:
    """The same for a terminal, without the quartiles."""
    lines = [["Width", "Network", "Training step", "Inference", "Deployed", "Memory"]]
    for label, row in zip(step_labels(rows), rows.itertuples(), strict=True):
        ratios = (row.training_ratio, row.inference_ratio, row.deployed_ratio)
        lines.append(
            [f"{row.width}", label, *(f"{x:.2f}" if pd.notna(x) else "" for x in ratios), f"{row.peak_mb:.0f} MB"]
        )
    return lines
