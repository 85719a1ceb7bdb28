"""The table of group convolutions, one by one, in all their forms."""

import pandas as pd

from study.report.tables.conditions import GROUPS, conditions
from study.report.tables.text import markdown

_CASE = ["group", "layer", "inputs", "outputs", "grid", "batch"]
_LAYERS = {"GroupConv2d": "3x3", "GroupConvTranspose2d": "4x4, up"}


def layers_caption(rows: pd.DataFrame) -> str:
    """What was measured, and on what."""
    row = rows.iloc[0]
    images = f"images of {row['size']} x {row['size']}"
    return f"Layers of U-Nets on {images}, {conditions(row, row.precision)} in which all forms took turns"


def layers_cells(rows: pd.DataFrame) -> list[list[str]]:
    """One line per layer, the head first; the speed-ups over the dense form in the same rounds."""
    forms = [form for form in rows.form.unique() if form != "dense"]
    head = ["Group", "Layer", "Fields", "Input", "Dense, ms"]
    head += [f"{form}{part}" for form in forms for part in (", forward", ", with backward")]
    lines = [[*head, "auto", "Memory, MB", "Of the limit"]]
    for _, case in rows.groupby(_CASE, sort=False):
        case = case.set_index("form")
        dense = case.loc["dense"]
        line = [GROUPS[dense.group], _LAYERS[dense.layer], f"{dense.inputs} to {dense.outputs}", _input(dense)]
        line.append(f"{dense.forward_ms:.3g}, {dense.both_ms:.3g}")
        line += [_speed_up(case.loc[form], kind) for form in forms for kind in ("forward", "both")]
        memory = " / ".join(f"{case.peak_mb[form]:.0f}" for form in ("dense", *forms))
        limit = " / ".join(f"{100 * case.both_roofline[form]:.0f} %" for form in ("dense", "fourier"))
        lines.append([*line, dense.auto, memory, limit])
    return lines


def layers_legend(rows: pd.DataFrame) -> str:
    """What the columns mean."""
    row = rows.iloc[0]
    escnn = " / escnn" if "escnn" in set(rows.form) else ""
    return (
        "Input: images and their size. Dense: an ordinary convolution of planes, with the expansion of its filter, "
        "forward and with backward. The other forms: how many times as fast, with quartiles. Plain: torch's own one "
        "with as many parameters. auto: what the layer takes unasked. Memory: the peak of forward and backward beyond "
        f"layer and input, dense / Fourier{escnn} / plain. Of the limit: the time that the products alone, at "
        f"{row.peak_gflops:.0f} GFLOP/s, or reading and writing everything once, at {row.peak_gb_per_second:.0f} GB/s "
        "(both measured here), would take, as a share of the time taken, dense / Fourier."
    )


def layers_table(rows: pd.DataFrame) -> str:
    """Markdown."""
    return f"{layers_caption(rows)}.\n\n{markdown(layers_cells(rows))}\n\n{layers_legend(rows)}\n"


def layers_brief(rows: pd.DataFrame) -> list[list[str]]:
    """The same for a terminal: the speed-ups of forward and backward together, and what "auto" takes."""
    forms = [form for form in rows.form.unique() if form != "dense"]
    lines = [["Layer", "Dense, ms", *forms, "auto"]]
    for _, case in rows.groupby(_CASE, sort=False):
        case = case.set_index("form")
        dense = case.loc["dense"]
        fields = f"{dense.inputs} to {dense.outputs}, {_input(dense)}"
        line = [f"{GROUPS[dense.group]} {_LAYERS[dense.layer]}, {fields}", f"{dense.both_ms:.3g}"]
        lines.append([*line, *(f"{1 / case.both_ratio[form]:.2f}" for form in forms), dense.auto])
    return lines


def _input(case: pd.Series) -> str:
    return f"{case.batch} x {case.grid}²"


def _speed_up(row: pd.Series, kind: str) -> str:
    ratio, low, high = (row[f"{kind}_ratio{suffix}"] for suffix in ("", "_low", "_high"))
    return f"{1 / ratio:.2f} [{1 / high:.2f}, {1 / low:.2f}]"
