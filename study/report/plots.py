"""Every figure of the study, each drawn from tables or arrays that were saved before.

Colours are from the Okabe-Ito palette and Tol's muted one, and every model has a marker of its own, so that the figures
can be read without colour. Sizes are for one column (3.5 inches) or two (7.2) of a paper.
"""

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from study.files import replacing
from study.networks.models import MODELS, NATIVE_MODELS
from study.report.contrasts import BASELINE

COLOURS = {
    **{"unet": "#000000", "unet-aug": "#E69F00", "unet-time": "#888888", "unet-sym": "#882255"},
    **{"p2": "#56B4E9", "pm": "#D55E00", "pmm": "#CC79A7", "p4": "#009E73", "p4m": "#0072B2"},
    **{"p4m-max": "#332288", "p4m-mean": "#44AA99", "p4m-equal-width": "#999933", "p4m-literal": "#CC6677"},
    **{"p4-escnn": "#009E73", "p4-escnn-full": "#009E73", "p4m-escnn": "#0072B2", "p4m-escnn-full": "#0072B2"},
    **{"p8-escnn": "#CC79A7", "p8m-escnn": "#D55E00"},
}
"""Of every model; those on escnn have that of their twin, or of one that they never stand beside."""
MARKERS = {
    **{"unet": "o", "unet-aug": "s", "unet-time": "p", "unet-sym": "*"},
    **{"p2": "<", "pm": ">", "pmm": "X", "p4": "^", "p4m": "D"},
    **{"p4m-max": (4, 1, 0), "p4m-mean": "h", "p4m-equal-width": "d", "p4m-literal": "8"},
    **{"p4-escnn": "1", "p4-escnn-full": "2", "p4m-escnn": "+", "p4m-escnn-full": "x"},
    **{"p8-escnn": "v", "p8m-escnn": "P"},
}
LAYERS = {"native": ("#0072B2", "o"), "escnn": ("#D55E00", "s"), "escnn, full basis": ("#CC79A7", "D")}
"""Colour and marker of each implementation."""

COLUMN, PAGE = 3.5, 7.2  # inches
_STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "lines.markersize": 4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "study",  # the same figure gives the same file
}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw with the study's style, and leave matplotlib's global settings as they were."""

    def wrapper(*args, **kwargs) -> Figure:
        with sns.axes_style("ticks"), matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    wrapper.__doc__, wrapper.__name__ = draw.__doc__, draw.__name__
    return wrapper


@styled
def dice_against_data(summary: pd.DataFrame, trials: pd.DataFrame, caption: str) -> Figure:
    """Sample efficiency: Dice against the amount of training data, for every model.

    Args:
        summary: of :func:`study.report.summary_rows`; bars are its 95 % intervals over seeds and cases.
        trials: of :func:`study.report.trial_rows`; each is a small point.
        caption: of :func:`study.report.caption`.
    """
    figure = Figure(figsize=(COLUMN, 3.2), layout="constrained")
    axes = figure.subplots()
    for model, offset in _present(summary):
        rows = summary[summary.model == model].sort_values("fraction")
        seeds = trials[trials.model == model]
        spread = np.nan_to_num(np.clip([rows.dice - rows.dice_low, rows.dice_high - rows.dice], 0, None))
        axes.errorbar(rows.fraction * offset, rows.dice, spread, capsize=2, lw=1.2, elinewidth=0.8, **look(model))
        axes.scatter(seeds.fraction * offset, 100 * seeds.dice, s=5, color=COLOURS[model], alpha=0.5, lw=0)
    _data_axis(axes, summary)
    axes.set_ylabel("Test Dice (%)")
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    return captioned(figure, caption)


@styled
def p4_against_p4m(summary: pd.DataFrame, caption: str) -> Figure:
    """The ablation: what rotations gain over the augmented U-Net, and what reflections add; and how steady each is.

    Args:
        summary: of :func:`study.report.summary_rows`; bars are its 95 % intervals over seeds and cases.
        caption: of :func:`study.report.caption`.
    """
    figure = Figure(figsize=(PAGE, 2.7), layout="constrained")
    gain_axes, deviation_axes = figure.subplots(1, 2)
    for model, offset in _present(summary):
        rows = summary[summary.model == model]
        x = rows.fraction * offset
        if model != BASELINE:
            interval = [rows.gain - rows.gain_low, rows.gain_high - rows.gain]
            gain_axes.errorbar(
                x, rows.gain, np.clip(interval, 0, None), capsize=2, lw=1.2, elinewidth=0.8, **look(model)
            )
        # an exact zero has no place on a logarithmic axis
        deviation_axes.plot(x, rows.deviation.clip(lower=1e-12), lw=1.2, **look(model))
    gain_axes.axhline(0, color=COLOURS[BASELINE], lw=0.8, ls=":")
    gain_axes.set_ylabel("Dice above the augmented\nU-Net's (points)")
    deviation_axes.set_yscale("log")
    deviation_axes.set_ylabel("Mean deviation over the\neight roto-reflections")
    for axes in (gain_axes, deviation_axes):
        _data_axis(axes, summary)
    deviation_axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return captioned(figure, caption)


@styled
def implementations(rows: pd.DataFrame, caption: str) -> Figure:
    """Dice of the same networks on escnn, above the layers from scratch, for P4 and P4M.

    Args:
        rows: of :func:`study.report.implementation_rows`; bars are its paired 95 % intervals over seeds and cases.
        caption: of :func:`study.report.caption`.
    """
    compared = rows[rows.difference.notna()]
    models = list(compared.native.unique())
    figure = Figure(figsize=(PAGE, 2.7), layout="constrained")
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for axes, model in zip(panels, models, strict=True):
        cells = compared[compared.native == model]
        for layers, offset in _aside(list(cells.layers.unique())):
            line = cells[cells.layers == layers].sort_values("fraction")
            spread = [line.difference - line.difference_low, line.difference_high - line.difference]
            colour, marker = LAYERS[layers]
            axes.errorbar(
                line.fraction * offset,
                line.difference,
                np.clip(spread, 0, None),
                color=colour,
                marker=marker,
                label=layers,
                capsize=2,
                lw=1.2,
                elinewidth=0.8,
            )
        axes.axhline(0, color=LAYERS["native"][0], lw=0.8, ls=":")
        axes.set_title(MODELS[model].label)
        _data_axis(axes, cells)
    panels[0].set_ylabel("Dice above the native layers' (points)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
    return captioned(figure, caption)


@styled
def stability_panel(maps: dict[str, np.ndarray], caption: str) -> Figure:
    """Fig. 2: patch with the mask's border, mean maps of P4M and U-Net over the eight roto-reflections, deviation of
    U-Net.

    Args:
        maps: of :func:`study.experiments.maps.load_stability_maps`.
        caption: says which networks and what data.
    """
    patches = len(maps["image"])
    figure = Figure(figsize=(PAGE, 0.8 + 1.95 * patches), layout="constrained")
    grid = figure.subplots(patches, 4, squeeze=False)
    figure.get_layout_engine().set(w_pad=0.02, wspace=0.02)
    largest = max(0.05, float(maps["unet_deviation"].max()))
    for row, axes in enumerate(grid):
        axes[0].imshow(maps["image"][row])
        foreground = (maps["mask"][row] > 0) & (maps["mask"][row] < 255)  # 255 is what nobody labelled
        if 0 < foreground.mean() < 1:
            axes[0].contour(foreground, [0.5], colors="yellow", linewidths=1)
        mean = axes[1].imshow(maps["p4m_mean"][row], vmin=0, vmax=1, cmap="viridis")
        axes[2].imshow(maps["unet_mean"][row], vmin=0, vmax=1, cmap="viridis")
        deviation = axes[3].imshow(maps["unet_deviation"][row], vmin=0, vmax=largest, cmap="magma")
        axes[1].set_xlabel(f"P4M deviation: at most {maps['p4m_deviation_max'][row]:.0e}")
        axes[3].set_xlabel(f"U-Net deviation: at most {maps['unet_deviation'][row].max():.2f}")
        for panel in axes:
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(False)
    titles = ("Patch, border of the mask", "P4M U-Net, mean", "U-Net, mean", "U-Net, standard deviation")
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title)
    figure.colorbar(mean, ax=grid[:, 1:3], location="bottom", shrink=0.5, aspect=40, label="Foreground probability")
    figure.colorbar(deviation, ax=grid[:, 3], location="bottom", shrink=0.9, aspect=20, label="Standard deviation")
    return captioned(figure, caption)


def save(figure: Figure, path: Path | str) -> None:
    """Write a figure as ``path.png`` (300 dpi) and ``path.svg``.

    Raises:
        StudyError: if a file cannot be written.
    """
    for suffix, options in [("png", {"dpi": 300}), ("svg", {"metadata": {"Date": None}})]:
        with replacing(Path(f"{path}.{suffix}")) as temporary, matplotlib.rc_context(_STYLE):
            figure.savefig(temporary, format=suffix, **options)


def _present(rows: pd.DataFrame) -> list[tuple[str, float]]:
    """The models from scratch in the table, each with a factor that moves its points aside from the others'."""
    return _aside([model for model in NATIVE_MODELS if model in set(rows.model)])


def _aside(names: list[str]) -> list[tuple[str, float]]:
    return [(name, 2 ** (0.06 * (n - (len(names) - 1) / 2))) for n, name in enumerate(names)]


def look(model: str) -> dict:
    """Colour, marker and label of a model, for matplotlib."""
    return {"color": COLOURS[model], "marker": MARKERS[model], "label": MODELS[model].label}


def _data_axis(axes, rows: pd.DataFrame) -> None:
    fractions = sorted(rows.fraction.unique())
    axes.set_xscale("log", base=2)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(fractions)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g}"))
    axes.set_xlabel("Training data (%)")


def captioned(figure: Figure, caption: str) -> Figure:
    """The caption below, wrapped to the figure's width, small."""
    words, lines = caption.split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) > 24 * figure.get_figwidth():
            lines.append("")
        lines[-1] += f"{word} "
    figure.supxlabel("\n".join(lines), fontsize=5.5, color="0.35", x=0.01, ha="left")
    return figure
