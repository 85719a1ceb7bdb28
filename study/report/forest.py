"""The forest plot: every contrast of a study, with its interval, between what counts as equal."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from study.report.answers import difference_text, p_text
from study.report.contrasts import MARGIN
from study.report.plots import PAGE, captioned, styled

_ROLES = {
    "primary": {"color": "#D55E00", "marker": "D"},
    "secondary": {"color": "#0072B2", "marker": "s"},
    "described": {"color": "#777777", "marker": "o", "mfc": "white"},
}
"""How the markers of each role look."""


@styled
def forest(rows: pd.DataFrame, caption: str) -> Figure:
    """Differences in Dice with their 95 % intervals over seeds and cases; the band is the margin of equivalence.

    Args:
        rows: of :func:`study.report.contrast_rows`; the p values are its, those of secondary contrasts by Holm.
        caption: of :func:`study.report.caption`.
    """
    figure = Figure(figsize=(PAGE, 1.1 + 0.17 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(-MARGIN, MARGIN, color="0.92", lw=0)
    axes.axvline(0, color="0.4", lw=0.8, ls=":")
    places = np.arange(len(rows))
    for role, look in _ROLES.items():
        here = (rows.role == role).to_numpy()
        some = rows[here]
        spread = [some.estimate - some.low, some.high - some.estimate]
        spread = np.nan_to_num(np.clip(spread, 0, None))  # no bar where there is no interval
        axes.errorbar(some.estimate, places[here], xerr=spread, fmt="none", elinewidth=0.8, ecolor=look["color"])
        axes.plot(some.estimate, places[here], ls="", label=role, **look)
    several = len(set(rows.task)) > 1
    axes.set_yticks(places, [f"{r.task}, {r.contrast}" if several else r.contrast for r in rows.itertuples()])
    axes.set_ylim(len(rows) - 0.4, -0.6)  # from above
    axes.set_xlabel("Difference in Dice (points)")
    beside = axes.twinx()
    beside.set_yticks(places, [_numbers(row) for row in rows.itertuples()])
    beside.set_ylim(axes.get_ylim())
    for one in (axes, beside):
        one.tick_params(axis="y", length=0)
        one.spines[["left", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=len(_ROLES), frameon=False)
    return captioned(figure, caption)


def _numbers(row) -> str:
    p = row.p_holm if row.role == "secondary" else row.p
    name = "Holm p" if row.role == "secondary" else "p"
    return difference_text(row) + ("" if np.isnan(p) else f", {name} {p_text(p)}")
