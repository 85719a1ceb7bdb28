"""Learning curves: whether every network was trained to its end, and how far its seeds differ on the way."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from study.networks.models import MODELS
from study.report.results import StudyResults
from study.report.style import PAGE, captioned, styled

COLUMNS = 4

_CURVES = {"validation_dice": "Validation\nDice (%)", "train_loss": "Training\nloss"}


@styled
def draw(study: StudyResults) -> Figure | None:
    """Validation Dice and training loss of every epoch: a pair of panels for each model, a colour for each regime.

    Thin lines are seeds, the strong one is their mean.
    """
    if study.epochs.empty:
        return None
    epochs = study.epochs.assign(validation_dice=100 * study.epochs.validation_dice, epoch=study.epochs.epoch + 1)
    models = [model for model in MODELS if model in set(epochs.model)]
    fractions = sorted(epochs.fraction.unique())
    shades = np.linspace(0, 0.8, len(fractions))[::-1]  # from light to dark
    colours = {fraction: colormaps["viridis"](shade) for fraction, shade in zip(fractions, shades, strict=True)}
    lines, columns = -(-len(models) // COLUMNS), min(COLUMNS, len(models))
    figure = Figure(figsize=(0.8 + (PAGE - 0.8) * max(2, columns) / COLUMNS, 0.9 + 2.2 * lines), layout="constrained")
    panels = figure.subplots(2 * lines, columns, sharex=True, squeeze=False)
    limits = {curve: _limits(epochs[curve]) for curve in _CURVES}
    for place in range(lines * columns):
        line, column = divmod(place, columns)
        for axes, (curve, label) in zip(panels[2 * line : 2 * line + 2, column], _CURVES.items(), strict=True):
            if place >= len(models):
                axes.set_axis_off()
                continue
            rows = epochs[epochs.model == models[place]]
            of_regime = {"x": "epoch", "y": curve, "hue": "fraction", "palette": colours, "ax": axes, "legend": False}
            sns.lineplot(rows, **of_regime, units="seed", estimator=None, lw=0.5, alpha=0.45)
            sns.lineplot(rows, **of_regime, errorbar=None, lw=1.3)
            axes.set(xlabel="", ylabel=label if column == 0 else "", ylim=limits[curve])
            axes.tick_params(labelleft=column == 0)
        if place < len(models):
            panels[2 * line, column].set_title(_title(models[place]))
    for column in range(columns):
        _last(panels[:, column]).set_xlabel("Epoch")
    handles = [Line2D([], [], color=colours[f], lw=1.3, label=f"{100 * f:g} % of the data") for f in fractions]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(fractions), frameon=False)
    return captioned(figure, f"Thin: seeds; strong: their mean. {study.caption}")


def _title(model: str) -> str:
    """The label, in two lines where it is long."""
    return MODELS[model].label.replace(", ", ",\n", 1)


def _limits(values: pd.Series) -> tuple[float, float]:
    """The same for all panels: the middle 99 % of the values, so that one bad start does not flatten the others."""
    low, high = values.quantile([0.005, 0.995])
    space = 0.05 * (high - low) or 1
    return low - space, high + space


def _last(column: np.ndarray) -> Axes:
    """The lowest panel of a column that is used."""
    used = [axes for axes in column if axes.axison]
    used[-1].tick_params(labelbottom=True)
    return used[-1]
