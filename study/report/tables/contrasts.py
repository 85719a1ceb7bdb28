"""The table of contrasts, and the factor of sample efficiency."""

import numpy as np

from study.report.contrasts import MARGIN
from study.report.efficiency import sample_efficiency
from study.report.records import counted
from study.report.results import StudyResults
from study.report.statistics import FEW_SEEDS
from study.report.tables.text import captions, difference_text, markdown, p_text


def contrast_table(study: StudyResults) -> str:
    """Markdown: every contrast with its interval and tests, and the factor of sample efficiency on the study's task."""
    lines = [["Contrast", "Role", "Seeds", "Points of Dice", "Over seeds", "p", "Holm", f"Within ±{MARGIN:g}"]]
    for row in study.contrasts.itertuples():
        lines.append(
            [
                row.contrast if len(study.tasks) == 1 else f"{row.task}, {row.contrast}",
                *(row.role, str(row.seeds), difference_text(row)),
                "–" if np.isnan(row.sd) else f"± {row.sd:.1f}",
                *(p_text(row.p), p_text(row.p_holm)),
                "yes" if row.equivalent else "–",
            ]
        )
    legend = (
        "Differences in pooled Dice, paired by seed and test case, with the 95 % interval over seeds and cases "
        "together (hierarchical bootstrap), and the standard deviation over seeds. The p value is of Student's t on "
        "the standard error of the bootstrap. The primary contrast is not adjusted; the secondary contrasts are "
        "adjusted together (Holm); contrasts that are only described are not tested. "
        "One seed leaves an interval over its cases alone. "
        f"'Within ±{MARGIN:g}' says whether the 90 % interval lies within ±{MARGIN:g} point (TOST), of the bootstrap "
        f"and of Student's t, with at least {FEW_SEEDS} seeds."
    )
    factor = sample_efficiency(study.records)
    if factor:
        regimes = " / ".join(f"{100 * f:g}" for f in factor.regimes)
        legend += (
            "\n\nSample efficiency: all of the data, divided by the share of them on which the P4M U-Net has the Dice "
            f"of the augmented U-Net on all, is {factor} (95 % interval; {counted(factor.seeds, 'seed')}; read off "
            f"between {regimes} % of the data). Above 1, the P4M U-Net needs less."
        )
    return f"{captions(study.tasks)}\n\n{markdown(lines)}\n\n{legend}\n"
