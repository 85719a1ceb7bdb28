"""The same networks on escnn and from scratch."""

from matplotlib.figure import Figure

from study.networks.models import LAYERS as ORDER
from study.networks.models import MODELS
from study.report.looks import LAYERS
from study.report.results import StudyResults
from study.report.style import PAGE, aside, captioned, error_bars, regime_axis, styled


@styled
def draw(study: StudyResults) -> Figure | None:
    """Dice of the same networks on escnn, above the layers from scratch, for P4 and P4M.

    Bars are the paired 95 % intervals over seeds and cases.
    """
    if study.implementations is None:
        return None
    compared = study.implementations[study.implementations.difference.notna()]
    models, layers = list(compared.native.unique()), [name for name in ORDER if name in set(compared.layers)]
    figure = Figure(figsize=(PAGE, 2.7), layout="constrained")
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for axes, model in zip(panels, models, strict=True):
        cells = aside(compared[compared.native == model], "fraction", "layers", layers)
        for name in layers:
            line = cells[cells.layers == name].sort_values("fraction")
            style = {"color": LAYERS[name].colour, "marker": LAYERS[name].marker, "label": name}
            bars = {"yerr": error_bars(line, "difference"), "capsize": 2, "elinewidth": 0.8}
            axes.errorbar(line.fraction, line.difference, lw=1.2, **style, **bars)
        axes.axhline(0, color=LAYERS["native"].colour, lw=0.8, ls=":")
        axes.set_title(MODELS[model].label)
        regime_axis(axes, compared[compared.native == model].fraction)
    panels[0].set_ylabel("Dice above the native\nlayers' (points)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
    return captioned(figure, study.caption)
