"""How often the answer of each network depends on how the patch lies, at the border of the truth and elsewhere."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from study.networks.models import MODELS
from study.report.results import StudyResults
from study.report.style import COLUMN, captioned, styled, with_intervals

_REGIONS = {"border": ("Within 2 px of the border", "#D55E00", "D"), "interior": ("Elsewhere", "#56B4E9", "o")}


@styled
def draw(study: StudyResults) -> Figure | None:
    """The flip rate of every network: pixels that its eight roto-reflections do not decide alike, and where they are.

    On the smallest data regime, with 95 % intervals over seeds and cases.
    """
    rows = study.measures
    rows = rows[(rows.reading == "") & rows.changed_border.notna()]
    if rows.empty:
        return None
    smallest = rows.fraction.min()
    rows = rows[rows.fraction == smallest].assign(network=rows.model.map(lambda model: MODELS[model].label))
    parts = []
    for region, (label, *_) in _REGIONS.items():
        names = {f"changed_{region}{end}": f"flips{end}" for end in ("", "_low", "_high")}
        parts.append(rows[["network", *names]].rename(columns=names).assign(region=label))
    figure = Figure(figsize=(COLUMN, 1.3 + 0.2 * len(rows)), layout="constrained")
    axes = figure.subplots()
    labels, colours, markers = zip(*_REGIONS.values(), strict=True)
    looks = {"palette": dict(zip(labels, colours, strict=True)), "markers": list(markers), "markersize": 4}
    # our intervals: see with_intervals
    bars = {"estimator": "median", "errorbar": ("pi", 100), "err_kws": {"lw": 0.8}, "linestyle": "none", "dodge": 0.3}
    sns.pointplot(
        with_intervals(pd.concat(parts), "flips"), x="flips", y="network", hue="region", ax=axes, **looks, **bars
    )
    axes.set(xlabel="Flip rate (% of the pixels)", ylabel="")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color="0.92")
    handles, _ = axes.get_legend_handles_labels()
    axes.get_legend().remove()
    figure.legend(handles, labels, loc="outside upper left", ncols=2, frameon=False)
    return captioned(figure, f"Networks on {100 * smallest:g} % of the data. {study.caption}")
