"""The ablation: what rotations and reflections gain, and how steady they make a network."""

import seaborn as sns
from matplotlib.figure import Figure

from study.networks.models import MODELS, NATIVE_MODELS, PAPER_MODELS, SUBGROUP_MODELS
from study.report.contrasts import BASELINE
from study.report.looks import look, seaborn_looks
from study.report.records import counted, on_same_seeds
from study.report.results import StudyResults
from study.report.style import INTERVALS, PAGE, aside, captioned, regime_axis, styled, with_intervals
from study.report.summary import summary_rows


@styled
def draw(study: StudyResults) -> Figure | None:
    """The ablation: what rotations gain over the augmented U-Net, and what reflections add; and how steady each is.

    Bars are the paired 95 % intervals over seeds and cases, of which all networks have the same.
    """
    groups = [model for model in NATIVE_MODELS if model in PAPER_MODELS | SUBGROUP_MODELS]
    summary = summary_rows(on_same_seeds([record for record in study.records if record["trial"]["model"] in groups]))
    models = [model for model in groups if model in set(summary.get("model", ()))]
    if not models:
        return None
    figure = Figure(figsize=(PAGE, max(2.7, 0.9 + 0.17 * len(models))), layout="constrained")
    gain_axes, deviation_axes = figure.subplots(1, 2)
    rows = aside(summary, "fraction", "model", models)
    # an exact zero has no place on a logarithmic axis
    rows = rows.assign(deviation=rows.deviation.clip(lower=1e-12))
    line = {**seaborn_looks(models), "dashes": False, "lw": 1.2, "mew": 0}
    bars = {"err_kws": {"elinewidth": 0.8, "capsize": 2}, "legend": False}
    for axes in (gain_axes, deviation_axes):
        axes.set_xscale("log", base=2)
    deviation_axes.set_yscale("log")
    gains = with_intervals(rows[(rows.model != BASELINE) & rows.gain.notna()], "gain")
    if len(gains):
        sns.lineplot(gains, x="fraction", y="gain", ax=gain_axes, **line, **bars, **INTERVALS)
    sns.lineplot(rows, x="fraction", y="deviation", ax=deviation_axes, **line, errorbar=None)
    gain_axes.axhline(0, color=look(BASELINE).colour, lw=0.8, ls=":")
    gain_axes.set_ylabel("Dice above the augmented\nU-Net's (points)")
    deviation_axes.set_ylabel("Mean deviation over the\neight roto-reflections")
    for axes in (gain_axes, deviation_axes):
        regime_axis(axes, summary.fraction)
    handles, _ = deviation_axes.get_legend_handles_labels()
    labels = [MODELS[model].label for model in models]
    deviation_axes.legend(handles, labels, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return captioned(figure, f"All on the same {counted(summary.seeds.max(), 'seed')}. {study.caption}")
