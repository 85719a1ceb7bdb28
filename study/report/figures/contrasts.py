"""The forest plot: every contrast of a study, with its interval, between what counts as equal."""

import numpy as np
from matplotlib.figure import Figure

from study.report.contrasts import MARGIN
from study.report.looks import ROLES
from study.report.records import counted
from study.report.results import StudyResults
from study.report.style import PAGE, captioned, error_bars, styled
from study.report.tables.text import captions, difference_text, p_text


@styled
def draw(study: StudyResults) -> Figure | None:
    """Every difference in Dice with its 95 % interval over seeds and cases; the band is the margin of equivalence.

    The p values are those of :func:`study.report.contrast_rows`, those of secondary contrasts by Holm.
    """
    rows = study.contrasts
    if rows.empty:
        return None
    figure = Figure(figsize=(PAGE, 1.1 + 0.17 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(-MARGIN, MARGIN, color="0.92", lw=0)
    axes.axvline(0, color="0.4", lw=0.8, ls=":")
    places, intervals = np.arange(len(rows)), rows.rename(columns={"low": "estimate_low", "high": "estimate_high"})
    for role, look in ROLES.items():
        here = (rows.role == role).to_numpy()
        some = intervals[here]
        face = "white" if role == "described" else look.colour
        bars = {"elinewidth": 0.8, "ecolor": look.colour, "fmt": "none"}
        axes.errorbar(some.estimate, places[here], xerr=error_bars(some, "estimate"), **bars)
        axes.plot(some.estimate, places[here], ls="", marker=look.marker, color=look.colour, mfc=face, label=role)
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
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=len(ROLES), frameon=False)
    return captioned(figure, captions(study.tasks))


def _numbers(row) -> str:
    p = row.p_holm if row.role == "secondary" else row.p
    name = "Holm p" if row.role == "secondary" else "p"
    return f"{difference_text(row)}, {counted(row.seeds, 'seed')}" + ("" if np.isnan(p) else f", {name} {p_text(p)}")
