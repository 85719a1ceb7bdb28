"""Sample efficiency: Dice against the amount of training data."""

import seaborn as sns
from matplotlib.figure import Figure

from study.networks.models import MODELS
from study.report.looks import seaborn_looks
from study.report.results import StudyResults
from study.report.style import COLUMN, INTERVALS, aside, captioned, regime_axis, styled, with_intervals
from study.report.summary import compared_on_data


@styled
def draw(study: StudyResults) -> Figure | None:
    """Sample efficiency: Dice against the amount of training data, for the models from scratch.

    Bars are the 95 % intervals over seeds and cases; each seed is a small point.
    """
    models = compared_on_data(study.summary)
    if not models:
        return None
    labels, step = [MODELS[model].label for model in models], min(0.06, 0.6 / len(models))
    columns = 2 if max(map(len, labels)) < 25 else 1
    figure = Figure(figsize=(COLUMN, 2.8 + 0.15 * -(-len(models) // columns)), layout="constrained")
    axes = figure.subplots()
    rows = aside(study.summary[study.summary.model.isin(models)], "fraction", "model", models, step)
    seeds = aside(study.trials[study.trials.model.isin(models)], "fraction", "model", models, step)
    looks = seaborn_looks(models)
    bars = {"err_kws": {"elinewidth": 0.8, "capsize": 2}, "dashes": False, "lw": 1.2, "mew": 0}
    axes.set_xscale("log", base=2)
    sns.lineplot(with_intervals(rows, "dice"), x="fraction", y="dice", ax=axes, **looks, **bars, **INTERVALS)
    points = {"s": 6, "alpha": 0.5, "lw": 0, "legend": False}
    sns.scatterplot(seeds.assign(dice=100 * seeds.dice), x="fraction", y="dice", ax=axes, **looks, **points)
    regime_axis(axes, study.summary.fraction)
    axes.set_ylabel("Test Dice (%)")
    handles, _ = axes.get_legend_handles_labels()
    axes.get_legend().remove()
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False)
    return captioned(figure, study.caption)
