"""What whole networks cost against their width."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from study.report.looks import FORMS, LAYERS, look
from study.report.style import PAGE, captioned, factor_axis, styled
from study.report.tables.training_step import step_labels, steps_caption

_COLOURS = {form: one.colour for form, one in (FORMS | LAYERS).items() if form != "native"}

_PANELS = {
    "training_ratio": "Training step",
    "deployed_ratio": "Inference, deployed",
    "memory": "Peak memory of training",
}


@styled
def draw(rows: pd.DataFrame) -> Figure:
    """Training step, inference and memory of whole networks against their width, as multiples of the plain U-Net's.

    Args:
        rows: of :func:`study.bench.steps.measure`.
    """
    plain = rows[rows.group == "z2"].groupby("width").peak_mb.first()
    lines = rows.assign(memory=rows.peak_mb / rows.width.map(plain), label=step_labels(rows))
    lines = lines[lines.group != "z2"]
    figure = Figure(figsize=(PAGE, 2.9), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, (column, title) in zip(panels, _PANELS.items(), strict=True):
        for label, line in lines.groupby("label", sort=False):
            own = look(line.group.iloc[0])  # a group is called as its model
            colour = _COLOURS.get(line.form.iloc[0], own.colour)
            axes.plot(line.width, line[column], label=label, color=colour, marker=own.marker, lw=1.2)
        axes.axhline(1, color="0.7", lw=0.8, zorder=0)
        if column != "memory":
            axes.axhline(1.5, color="0.7", lw=0.8, ls=":", zorder=0)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(sorted(lines.width.unique()))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        factor_axis(axes.yaxis)
        axes.set_xlabel("Width of the plain U-Net")
        axes.set_title(title)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    legend = "1× is the plain U-Net; dotted: what the products alone would take."
    return captioned(figure, f"{legend} {steps_caption(rows)}")
