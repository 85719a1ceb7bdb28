"""The one picture that answers the question: what equivariance gains, against what it costs."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from study.data.datasets.registry import cases_of
from study.networks.models import MODELS, NATIVE_MODELS
from study.report.contrasts import BASELINE, MARGIN
from study.report.costs import about_seconds
from study.report.efficiency import sample_efficiency
from study.report.looks import look
from study.report.records import counted
from study.report.results import StudyResults
from study.report.style import PAGE, aside, captioned, error_bars, regime_axis, styled
from study.report.summary import compared_on_data
from study.report.worth import TTA

_COSTS = {
    "seconds": "Seconds of training",
    "multiplications": "Multiplications of a prediction",
    "parameters": "Parameters",
}

Network = tuple[str, str]
"""A model and how it is read."""


@styled
def draw(study: StudyResults) -> Figure | None:
    """Is it worth it: Dice above the augmented U-Net's, against patients, seconds, multiplications and parameters.

    Bars are the paired 95 % intervals over seeds and cases. The grey band is what counts as equal. Against patients are
    the paper's networks and those on several data regimes, against the costs all on the smallest one.
    """
    rows = study.worth
    if len(rows) < 2:
        return None
    rows = rows.assign(network=list(zip(rows.model, rows.reading, strict=True)))
    networks = [(m, r) for m in NATIVE_MODELS for r in ("", TTA) if (m, r) in set(rows.network)]
    smallest = rows.fraction.min()
    fewest = rows[rows.fraction == smallest]
    costs = {cost: label for cost, label in _COSTS.items() if fewest[cost].notna().any()}
    figure = Figure(figsize=(PAGE, 5.0), layout="constrained")
    below = [*costs, *("." * (3 - len(costs)))]
    panels = figure.subplot_mosaic([["cases", "cases", "."], below])
    _against_cases(panels["cases"], rows, networks, cases_of(study.records[0]["data"]["source"]))
    panels["cases"].set_title(f"a   {_less_data(study)}".rstrip(), loc="left")
    for letter, (cost, label) in zip("bcd", costs.items(), strict=False):
        axes = panels[cost]
        axes.sharey(panels[below[0]])
        _against_cost(axes, fewest[fewest[cost].notna()], networks, cost)
        axes.set_xlabel(label)
        axes.set_title(f"{letter}   {_ratio(fewest, cost)}".rstrip(), loc="left")
        axes.tick_params(labelleft=letter == "b")
    for axes in panels.values():
        axes.axhspan(-MARGIN, MARGIN, color="0.93", lw=0, zorder=0)
        axes.axhline(0, color=look(BASELINE).colour, lw=0.8, ls=":", zorder=0)
    for axes in (panels["cases"], panels[below[0]]):
        axes.set_ylabel(f"Dice above the augmented\nU-Net's on {100 * smallest:g} % (points)")
    shown = {}
    for axes in panels.values():
        handles, labels = axes.get_legend_handles_labels()
        shown |= dict(zip(labels, handles, strict=True))
    labels = [label for label in map(_label, networks) if label in shown]
    place = {
        "loc": "upper left",
        "bbox_to_anchor": (1.01, 1.08),
        "handlelength": 1.4,
        "bbox_transform": panels["cases"].transAxes,
    }
    legend = panels["cases"].legend([shown[label] for label in labels], labels, frameon=False, **place)
    legend.set_in_layout(False)  # the free place beside the panel is its
    return captioned(
        figure,
        f"Paired differences over the same {counted(rows.seeds.max(), 'seed')}, with 95 % intervals over seeds and "
        "test cases together; within the band two networks count as equal. "
        f"a: the paper's, and those on several data regimes. {', '.join('bcd'[: len(costs)])}: all on "
        f"{100 * smallest:g} % of the data, moved apart where they coincide. {about_seconds(study.updates)} "
        f"{study.caption}",
    )


def _against_cases(axes: Axes, rows: pd.DataFrame, networks: list[Network], name: str) -> None:
    rows = rows[rows.model.isin(compared_on_data(rows))]
    for network, line in aside(rows, "fraction", "network", networks).groupby("network", sort=False):
        _points(axes, line.sort_values("fraction"), "fraction", network)
    fractions, cases = sorted(rows.fraction.unique()), rows.groupby("fraction").training_cases.median()
    regime_axis(axes, fractions)
    if cases.notna().all():
        axes.set_xticks(fractions, [f"{cases[f]:.0f} ({100 * f:g} %)" for f in fractions])
        axes.set_xlabel(f"Training {name} (share of all)")


def _less_data(study: StudyResults) -> str:
    found = sample_efficiency(study.records)
    text = f"P4M: factor of sample efficiency {found}"
    return text.replace("at least", "≥").replace("less than 1", "< 1") if found else ""


def _ratio(rows: pd.DataFrame, cost: str) -> str:
    ours, theirs = (rows[rows.network == (model, "")][cost] for model in ("p4m", BASELINE))
    return f"P4M: {ours.iloc[0] / theirs.iloc[0]:.1f} × the augmented" if len(ours) and len(theirs) else ""


def _against_cost(axes: Axes, rows: pd.DataFrame, networks: list[Network], cost: str) -> None:
    for network in networks:
        _points(axes, _apart(rows, cost)[rows.network == network], cost, network)
    middle, span = np.sqrt(rows[cost].min() * rows[cost].max()), max(2, rows[cost].max() / rows[cost].min())
    low, high = middle / np.sqrt(span) / 1.4, middle * np.sqrt(span) * 1.4
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(_ticks(low, high))
    axes.xaxis.set_major_formatter(FuncFormatter(_short))


def _apart(rows: pd.DataFrame, cost: str) -> pd.DataFrame:
    """Rows whose costs, where several are within 4 %, are moved to the sides of their mean by 4 % each."""
    ordered = rows.sort_values(cost, kind="stable")
    cluster = (ordered[cost].pct_change() > 0.04).cumsum()
    place = cluster.groupby(cluster).cumcount() - (cluster.groupby(cluster).transform("size") - 1) / 2
    mean = ordered[cost].groupby(cluster).transform("mean")
    return ordered.assign(**{cost: mean.where(place != 0, ordered[cost]) * 1.04**place}).loc[rows.index]


def _points(axes: Axes, rows: pd.DataFrame, x: str, network: Network) -> None:
    model, reading = network
    style = {"color": look(model).colour, "marker": look(model).marker, "label": _label(network)}
    hollow = {"mfc": "white", "ls": "--"} if reading else {}
    if rows.empty:
        return
    axes.errorbar(rows[x], rows.gain, error_bars(rows, "gain"), capsize=0, lw=1.1, elinewidth=0.8, **style, **hollow)


def _label(network: Network) -> str:
    model, reading = network
    return f"{MODELS[model].label}{', TTA' if reading else ''}"


def _ticks(low: float, high: float) -> list[float]:
    """At most five round numbers between two, in even steps of a logarithmic axis."""
    for steps in ((1, 1.5, 2, 3, 4, 6), (1, 2, 5), (1, 3), (1,)):
        exponents = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        ticks = [step * 10.0**e for e in exponents for step in steps if low <= step * 10.0**e <= high]
        if len(ticks) <= 5:
            return ticks
    return ticks


def _short(number: float, _) -> str:
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:g}{letter}"
    return f"{number:g}"
