"""What a study answers, in Markdown: its contrasts, the factor of sample efficiency, the paper's claims."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from study.report.claims import DEVIATION, FLIPS, claim_rows
from study.report.contrasts import MARGIN, contrast_rows
from study.report.efficiency import sample_efficiency
from study.report.records import caption
from study.report.statistics import FEW_SEEDS
from study.report.tables import markdown


def contrast_table(studies: Mapping[str, Sequence[dict]]) -> str:
    """Markdown: every contrast with its interval and tests, and the factor of sample efficiency on the first task.

    Args:
        studies: records by task, see :func:`~study.report.contrasts.contrast_rows`.
    """
    lines = [["Contrast", "Role", "Seeds", "Points of Dice", "Over seeds", "p", "Holm", f"Within ±{MARGIN:g}"]]
    for row in contrast_rows(studies).itertuples():
        lines.append(
            [
                row.contrast if len(studies) == 1 else f"{row.task}, {row.contrast}",
                *(row.role, str(row.seeds), difference_text(row)),
                "–" if np.isnan(row.sd) else f"± {row.sd:.1f}",
                *(p_text(row.p), p_text(row.p_holm)),
                "yes" if row.equivalent else "–",
            ]
        )
    legend = (
        "Differences in pooled Dice, paired by seed and test case, with the 95 % interval over seeds and cases "
        "together (hierarchical bootstrap), and the standard deviation over seeds. The p value is of Student's t on "
        "the standard error of the bootstrap. The primary contrast is not adjusted, the secondary ones are together "
        f"(Holm), and what is only described is not tested. Within ±{MARGIN:g}: the 90 % interval is (TOST)."
    )
    factor = sample_efficiency(next(iter(studies.values())))
    if factor:
        regimes = " / ".join(f"{100 * f:g}" for f in factor.regimes)
        legend += (
            "\n\nSample efficiency: for the Dice of the augmented U-Net on all of the data, the P4M U-Net needs less "
            f"data by a factor of {factor} (95 % interval; {factor.seeds} seeds; read off between {regimes} % of the "
            "data)."
        )
    return f"{_captions(studies)}\n\n{markdown(lines)}\n\n{legend}\n"


def claim_table(studies: Mapping[str, Sequence[dict]]) -> str:
    """Markdown: the paper's claims, its numbers, ours, and a verdict for each task.

    Args:
        studies: records by task.
    """
    rows = claim_rows(studies)
    lines = [["Claim of the paper", "Paper", *(f"Ours: {task}" for task in studies)]]
    for claim, cells in rows.groupby("claim", sort=False):
        ours = ["–" if pd.isna(c.verdict) else f"**{c.verdict}**: {c.ours}" for c in cells.itertuples()]
        lines.append([claim, cells.paper.iloc[0], *ours])
    legend = (
        "The paper's U-Net is our augmented one; its data are Camelyon16. Ours: difference in pooled Dice, in points, "
        "with the 95 % interval over seeds and test cases together (of 'as good as', the 90 % one). A claim holds if "
        f"the whole interval lies on its side of zero (of -{MARGIN:g} for 'as good as'). It does not if the whole "
        f"interval lies on the other side, or within ±{MARGIN:g} of zero where one is said to be better. It is "
        f"undecided otherwise, and with fewer than {FEW_SEEDS} seeds. "
        "An answer is the same if, in every trained network, no probability deviates by "
        f"{DEVIATION:.0e} over the eight roto-reflections and fewer than {FLIPS:.0e} of the pixels change their "
        "decision."
    )
    return f"{_captions(studies)}\n\n{markdown(lines)}\n\n{legend}\n"


def _captions(studies: Mapping[str, Sequence[dict]]) -> str:
    if len(studies) == 1:
        (records,) = studies.values()
        return caption(records)
    return "\n\n".join(f"{task}: {caption(records)}" for task, records in studies.items())


def difference_text(row) -> str:
    """Estimate and interval of a row of contrasts, in points, for people."""
    return f"{row.estimate:+.1f}" + ("" if np.isnan(row.low) else f" [{row.low:+.1f}, {row.high:+.1f}]")


def p_text(p: float) -> str:
    """A p value for people."""
    if np.isnan(p):
        return "–"
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"
