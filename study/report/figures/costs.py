"""What every network costs, as multiples of the plain U-Net."""

import pandas as pd
from matplotlib.figure import Figure

from study.report.looks import LAYERS
from study.report.style import PAGE, captioned, factor_axis, styled
from study.report.tables.costs import costs_caption

_COSTS = {"training_ratio": "Training step", "inference_ratio": "Inference", "peak_ratio": "Peak memory of training"}
"""Columns of the table of costs, as multiples of the plain U-Net's."""


@styled
def draw(rows: pd.DataFrame) -> Figure:
    """Training step, inference and memory of every network, as multiples of the plain U-Net's.

    Args:
        rows: of :func:`study.bench.models.measure`.
    """
    networks = list(rows.network.unique())
    rows = rows.assign(peak_ratio=rows.peak_mb / rows.peak_mb.iloc[0])
    figure = Figure(figsize=(PAGE, 1.0 + 0.28 * len(networks)), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (column, title) in zip(panels, _COSTS.items(), strict=True):
        for layers, look in LAYERS.items():
            chosen = rows[rows.implementation == layers]
            if chosen.empty:
                continue
            y = chosen.network.map(networks.index) + 0.22 * (list(LAYERS).index(layers) - 1)
            value = chosen[column]
            if f"{column}_low" in chosen:
                spread = [value - chosen[f"{column}_low"], chosen[f"{column}_high"] - value]
                axes.errorbar(value, y, xerr=spread, fmt="none", elinewidth=0.8, color=look.colour)
            axes.scatter(value, y, s=14, color=look.colour, marker=look.marker, label=layers, zorder=3)
        axes.axvline(1, color="0.7", lw=0.8, zorder=0)
        axes.set_xscale("log", base=2)
        factor_axis(axes.xaxis)
        axes.set_xlabel(title)
    panels[0].set_yticks(range(len(networks)), networks)
    panels[0].set_ylim(len(networks) - 0.5, -0.5)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=3, frameon=False)
    return captioned(figure, costs_caption(rows))
