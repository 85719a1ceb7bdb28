"""The figures of the measurements."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from study.networks.models import MODELS
from study.report.plots import COLOURS, LAYERS, MARKERS, PAGE, captioned, look, styled

_COSTS = {"training_ratio": "Training step", "inference_ratio": "Inference", "peak_ratio": "Peak memory of training"}
"""Columns of the table of costs, as multiples of the plain U-Net's."""


@styled
def costs(rows: pd.DataFrame, caption: str) -> Figure:
    """Training step, inference and memory of every network, as multiples of the plain U-Net's.

    Args:
        rows: of :func:`study.bench.models.measure`.
        caption: of :func:`study.bench.report.costs_caption`.
    """
    networks = list(rows.network.unique())
    rows = rows.assign(peak_ratio=rows.peak_mb / rows.peak_mb.iloc[0])
    figure = Figure(figsize=(PAGE, 1.0 + 0.28 * len(networks)), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (column, title) in zip(panels, _COSTS.items(), strict=True):
        for layers, (colour, marker) in LAYERS.items():
            chosen = rows[rows.implementation == layers]
            if chosen.empty:
                continue
            y = chosen.network.map(networks.index) + 0.22 * (list(LAYERS).index(layers) - 1)
            value = chosen[column]
            if f"{column}_low" in chosen:
                spread = [value - chosen[f"{column}_low"], chosen[f"{column}_high"] - value]
                axes.errorbar(value, y, xerr=spread, fmt="none", elinewidth=0.8, color=colour)
            axes.scatter(value, y, s=14, color=colour, marker=marker, label=layers, zorder=3)
        axes.axvline(1, color="0.7", lw=0.8, zorder=0)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(title)
    panels[0].set_yticks(range(len(networks)), networks)
    panels[0].set_ylim(len(networks) - 0.5, -0.5)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=3, frameon=False)
    return captioned(figure, caption)


@styled
def layers(rows: pd.DataFrame, caption: str) -> Figure:
    """Speed-up over the dense form against the number of fields, and how near the machine's limit each form comes.

    Args:
        rows: of :func:`study.bench.layers.measure`.
        caption: of :func:`study.bench.speed.layers_caption`.
    """
    figure = Figure(figsize=(PAGE, 5.0), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True)
    columns = {"forward_speed": "Forward", "both_speed": "Forward and backward", "both_roofline": "Share of the limit"}
    rows = rows.assign(
        fields=np.sqrt(rows.inputs * rows.outputs), forward_speed=1 / rows.forward_ratio, both_speed=1 / rows.both_ratio
    )
    for line, group in zip(panels, ("p4m", "p4"), strict=True):
        chosen = rows[rows.group == group]
        for axes, (column, title) in zip(line, columns.items(), strict=True):
            for form, (_, colour, marker) in _FORMS.items():
                part = chosen[chosen.form == form]
                shown = ("dense", "fourier") if column == "both_roofline" else ("fourier", "escnn", "plain")
                if form not in shown:
                    continue
                for layer, line_style, face in [("GroupConv2d", "-", colour), ("GroupConvTranspose2d", ":", "none")]:
                    points = part[part.layer == layer]
                    look = {"s": 12, "marker": marker, "facecolors": face, "edgecolors": colour, "linewidths": 0.7}
                    axes.scatter(points.fields, points[column], **look)
                    middle = points.groupby("fields")[column].median()
                    axes.plot(middle.index, middle, line_style, color=colour, lw=0.9)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            if column == "both_roofline":
                axes.set_ylim(0, 1)
                axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f} %"))
            else:
                axes.axhline(1, color="0.7", lw=0.8, zorder=0)
                axes.set_yscale("log", base=2)
                axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}×"))
            if group == "p4m":
                axes.set_title(title)
            else:
                axes.set_xlabel("Fields")
        line[0].set_ylabel(f"{group.upper()}, against the dense form")
    handles = [
        Line2D([], [], color=colour, marker=marker, lw=0.9, label=label) for label, colour, marker in _FORMS.values()
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=4, frameon=False)
    return captioned(
        figure,
        "Filled, solid: 3 x 3; hollow, dotted: transposed 4 x 4; points: sizes of the input; lines: their medians. "
        f"1× is the dense form. Share of the limit: of forward and backward. {caption}",
    )


_FORMS = {
    "dense": ("Dense", "#000000", "o"),
    "fourier": ("Fourier", "#0072B2", "D"),
    "escnn": ("escnn", "#D55E00", "s"),
    "plain": ("Plain, equal parameters", "#009E73", "^"),
}


@styled
def steps(rows: pd.DataFrame, caption: str) -> Figure:
    """Training step, inference and memory of whole networks against their width, as multiples of the plain U-Net's.

    Args:
        rows: of :func:`study.bench.steps.measure`, with a ``label``.
        caption: of :func:`study.bench.speed.steps_caption`.
    """
    plain = rows[rows.group == "z2"].groupby("width").peak_mb.first()
    rows = rows.assign(memory=rows.peak_mb / rows.width.map(plain))
    rows = rows[rows.group != "z2"]
    figure = Figure(figsize=(PAGE, 2.9), layout="constrained")
    panels = figure.subplots(1, 3)
    titles = {
        "training_ratio": "Training step",
        "deployed_ratio": "Inference, deployed",
        "memory": "Peak memory of training",
    }
    colours = {"native": None, "dense": "#56B4E9", "escnn": "#D55E00", "escnn, full basis": "#CC79A7"}
    for axes, (column, title) in zip(panels, titles.items(), strict=True):
        for label, line in rows.groupby("label", sort=False):
            group, form = line.group.iloc[0], line.form.iloc[0]
            style = {"color": colours[form] or COLOURS[group], "marker": MARKERS[group], "ms": 4, "lw": 1.2}
            axes.plot(line.width, line[column], label=label, **style)
        axes.axhline(1, color="0.7", lw=0.8, zorder=0)
        if column != "memory":
            axes.axhline(1.5, color="0.7", lw=0.8, ls=":", zorder=0)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_locator(NullLocator())
        axes.set_xticks(sorted(rows.width.unique()))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}×"))
        axes.set_xlabel("Width of the plain U-Net")
        axes.set_title(title)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return captioned(figure, f"1× is the plain U-Net; dotted: what the products alone would take. {caption}")


@styled
def angles(rows: pd.DataFrame, caption: str) -> Figure:
    """How much the output of every model changes with the angle by which its input is turned.

    Args:
        rows: of :func:`study.bench.angles.measure`.
        caption: says which networks and what data.
    """
    figure = Figure(figsize=(PAGE, 2.7), layout="constrained")
    panels = figure.subplots(1, 2)
    for model in MODELS:
        line = rows[rows.model == model]
        if line.empty:
            continue
        for axes, column, unit in zip(panels, ("difference", "changed"), (1, 100), strict=True):
            axes.plot(line.degrees, unit * line[column], lw=1.2, **look(model))
    panels[0].set_ylabel("Mean difference of the probability")
    panels[1].set_ylabel("Pixels whose decision changes (%)")
    for axes in panels:
        axes.set_xticks([0, 22.5, 45, 67.5, 90], ["0°", "22.5°", "45°", "67.5°", "90°"])
        axes.set_xlabel("Angle of the turn")
        axes.set_ylim(bottom=0)
    panels[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return captioned(figure, caption)
