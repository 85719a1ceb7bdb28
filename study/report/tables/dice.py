"""Table 1 of the paper: Dice by model and data regime."""

from collections.abc import Sequence

import pandas as pd

from study.networks.models import MODELS
from study.report.published import PAPER_DICE
from study.report.records import caption, class_endings, counted
from study.report.summary import summary_rows
from study.report.tables.text import INTERVAL, few_seeds, interval_text, markdown


def dice_table(records: Sequence[dict]) -> str:
    """Table 1 in Markdown: Dice (%) by model and data regime, the paper's numbers in a column of their own."""
    summary = summary_rows(records)
    fractions = sorted(summary.fraction.unique())
    columns = [f"{100 * fraction:g} % of the data" for fraction in fractions]
    paper = f"Paper, Camelyon16 ({' / '.join(f'{100 * fraction:g}' for fraction in fractions)} %)"
    differing = (summary.seeds != summary.seeds.iloc[0]).any()
    lines = [["Model", *columns, paper]]
    for model in summary.model.unique():
        rows = summary[summary.model == model].set_index("fraction")
        published = [PAPER_DICE.get(model, {}).get(fraction) for fraction in fractions]
        lines.append(
            [
                MODELS[model].label,
                *(_dice_text(rows.loc[f], differing) if f in rows.index else "–" for f in fractions),
                " / ".join("–" if p is None else f"{p:.1f}" for p in published) if any(published) else "–",
            ]
        )
    other = " Other seeds have other test cases: compare networks by the contrasts." if differing else ""
    several = "the mean over the classes, " if len(class_endings(records)) > 1 else ""
    legend = (
        f"Dice in %, {several}pooled over the test pixels of all seeds, ± standard deviation over seeds (where there "
        f"are several) and the {INTERVAL} in brackets. The paper's U-Net was trained with roto-reflections, so that "
        f"its numbers stand beside our augmented one.{other}{few_seeds(summary.seeds)}"
    )
    return f"{caption(records)}\n\n{markdown(lines)}\n\n{legend}\n"


def _dice_text(row: pd.Series, differing: bool) -> str:
    """With the number of seeds, where it is not the same in every cell."""
    spread = f" ± {row.dice_sd:.1f}" if row.seeds > 1 else ""
    seeds = f" ({counted(row.seeds, 'seed')})" if differing else ""
    return f"{row.dice:.1f}{spread}{interval_text(row.dice_low, row.dice_high)}{seeds}"
