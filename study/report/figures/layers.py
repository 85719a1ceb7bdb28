"""How fast each form of a group convolution is, layer by layer."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from study.report.looks import FORMS
from study.report.style import PAGE, captioned, factor_axis, styled
from study.report.tables.layers import layers_caption

_PANELS = {
    "forward_speed": ("Forward", ("fourier", "escnn", "plain")),
    "both_speed": ("Forward and backward", ("fourier", "escnn", "plain")),
    "both_roofline": ("Share of the limit", ("dense", "fourier")),
}
"""Columns, their titles, and the forms that are shown."""

_LABELS = {"dense": "Dense", "fourier": "Fourier", "escnn": "escnn", "plain": "Plain, equal parameters"}


@styled
def draw(rows: pd.DataFrame) -> Figure:
    """Speed-up over the dense form against the number of fields, and how near the machine's limit each form comes.

    Args:
        rows: of :func:`study.bench.layers.measure`.
    """
    figure = Figure(figsize=(PAGE, 5.0), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True)
    speeds = {"forward_speed": 1 / rows.forward_ratio, "both_speed": 1 / rows.both_ratio}
    points = rows.assign(fields=np.sqrt(rows.inputs * rows.outputs), **speeds)
    for line, group in zip(panels, ("p4m", "p4"), strict=True):
        for axes, (column, (title, forms)) in zip(line, _PANELS.items(), strict=True):
            _panel(axes, points[(points.group == group) & points.form.isin(forms)], column)
            if group == "p4m":
                axes.set_title(title)
        line[0].set_ylabel(f"{group.upper()}, against the dense form")
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, lw=0.9, label=_LABELS[form])
        for form, look in FORMS.items()
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=4, frameon=False)
    return captioned(
        figure,
        "Filled, solid: 3 x 3; hollow, dotted: transposed 4 x 4; points: sizes of the input; lines: their medians. "
        f"1× is the dense form. Share of the limit: of forward and backward. {layers_caption(rows)}",
    )


def _panel(axes: Axes, points: pd.DataFrame, column: str) -> None:
    for form, look in FORMS.items():
        for layer, style, face in [("GroupConv2d", "-", look.colour), ("GroupConvTranspose2d", ":", "none")]:
            part = points[(points.form == form) & (points.layer == layer)]
            if part.empty:
                continue
            hollow = {"facecolors": face, "edgecolors": look.colour, "linewidths": 0.7}
            axes.scatter(part.fields, part[column], s=12, marker=look.marker, **hollow)
            middle = {"estimator": "median", "errorbar": None, "color": look.colour, "ls": style, "lw": 0.9}
            sns.lineplot(part, x="fields", y=column, ax=axes, **middle)
    axes.set(xlabel="Fields", ylabel="")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    if column == "both_roofline":
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f} %"))
    else:
        axes.axhline(1, color="0.7", lw=0.8, zorder=0)
        axes.set_yscale("log", base=2)
        factor_axis(axes.yaxis)
