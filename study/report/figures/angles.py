"""How steady trained networks are under turns by any angle."""

import pandas as pd
from matplotlib.figure import Figure

from study.networks.models import MODELS
from study.report.looks import labelled
from study.report.style import PAGE, captioned, styled

_PANELS = {"difference": "Mean difference of the probability", "changed": "Pixels whose decision changes (%)"}


@styled
def draw(rows: pd.DataFrame) -> Figure:
    """How much the output of every model changes with the angle by which its input is turned.

    Args:
        rows: of :func:`study.bench.angles.measure`, with what :func:`angles_caption` tells.
    """
    figure = Figure(figsize=(PAGE, 2.7), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, (column, label) in zip(panels, _PANELS.items(), strict=True):
        for model in MODELS:
            line = rows[rows.model == model]
            if len(line):
                values = line[column] * (100 if column == "changed" else 1)
                axes.plot(line.degrees, values, lw=1.2, **labelled(model))
        axes.set(xlabel="Angle of the turn", ylabel=label)
        axes.set_xticks([0, 22.5, 45, 67.5, 90], ["0°", "22.5°", "45°", "67.5°", "90°"])
        axes.set_ylim(bottom=0)
    panels[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return captioned(figure, angles_caption(rows))


def angles_caption(rows: pd.DataFrame) -> str:
    """Which networks were turned, and on what data."""
    row = rows.iloc[0]
    return (
        f"Networks of {row['study']} trained on 100 % of the data, seed 0; {row['patches']} test patches of "
        f"{row['source']}, data {row['fingerprint']}. Turns other than by 90° interpolate, which has a part in the "
        "difference."
    )
