"""The table of the paper's claims, each with a verdict."""

import pandas as pd

from study.report.claims import DEVIATION, FLIPS
from study.report.contrasts import MARGIN
from study.report.results import StudyResults
from study.report.statistics import FEW_SEEDS
from study.report.tables.text import captions, markdown


def claim_table(study: StudyResults) -> str:
    """Markdown: the paper's claims, its numbers, ours, and a verdict for each task."""
    lines = [["Claim of the paper", "Paper", *(f"Ours: {task}" for task in study.tasks)]]
    for claim, cells in study.claims.groupby("claim", sort=False):
        ours = ["–" if pd.isna(c.verdict) else f"**{c.verdict}**: {c.ours}" for c in cells.itertuples()]
        lines.append([claim, cells.paper.iloc[0], *ours])
    legend = (
        "The paper's U-Net is our augmented one; its data are Camelyon16. Ours: difference in pooled Dice, in points, "
        "with the 95 % interval over seeds and test cases together (of 'as good as', the 90 % one). A claim holds if "
        f"the whole interval lies on its side of zero (of -{MARGIN:g} for 'as good as'). It does not if the whole "
        f"interval lies on the other side, or within ±{MARGIN:g} of zero where one is said to be better. It is "
        f"undecided otherwise, and with fewer than {FEW_SEEDS} seeds, or where Student's t on the bootstrap's standard "
        "error, which is wider with few seeds, leaves it open. One seed leaves an interval over its cases alone. "
        "Verdicts are not adjusted for the number of claims. "
        "An answer is the same if, in every trained network, no probability deviates by "
        f"{DEVIATION:.0e} over the eight roto-reflections and fewer than {FLIPS:.0e} of the pixels change their "
        "decision."
    )
    return f"{captions(study.tasks)}\n\n{markdown(lines)}\n\n{legend}\n"
