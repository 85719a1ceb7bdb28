"""The tables of a study in Markdown: Dice, stability, implementations."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from study.networks.models import LAYERS, MODELS
from study.report.published import PAPER_DICE
from study.report.records import caption
from study.report.statistics import FEW_SEEDS
from study.report.summary import implementation_rows, summary_rows

_INTERVAL = "95 % interval over seeds and test cases together (hierarchical bootstrap)"


def dice_table(records: Sequence[dict]) -> str:
    """Table 1 in Markdown: Dice (%) by model and data regime, the paper's numbers in a column of their own."""
    summary = summary_rows(records)
    fractions = sorted(summary.fraction.unique())
    columns = [f"{100 * fraction:g} % of the data" for fraction in fractions]
    paper = f"Paper, Camelyon16 ({' / '.join(f'{100 * fraction:g}' for fraction in fractions)} %)"
    lines = [["Model", *columns, paper]]
    for model in summary.model.unique():
        rows = summary[summary.model == model].set_index("fraction")
        published = [PAPER_DICE.get(model, {}).get(fraction) for fraction in fractions]
        lines.append(
            [
                MODELS[model].label,
                *(_dice_text(rows.loc[f]) if f in rows.index else "–" for f in fractions),
                " / ".join("–" if p is None else f"{p:.1f}" for p in published) if any(published) else "–",
            ]
        )
    legend = (
        "Dice in %, pooled over the test pixels of all seeds, ± standard deviation over seeds (where there are "
        f"several) and the {_INTERVAL} in brackets. The paper's U-Net was trained with roto-reflections, so that its "
        f"numbers stand beside our augmented one.{_few_seeds(summary.seeds)}"
    )
    return f"{caption(records)}\n\n{markdown(lines)}\n\n{legend}\n"


def stability_table(records: Sequence[dict]) -> str:
    """Markdown: what the eight roto-reflections of a patch do to the output, on the largest data regime."""
    summary = summary_rows(records)
    largest = summary[summary.fraction == summary.fraction.max()]
    lines = [["Model", "Mean deviation", "Largest deviation", "Pixels whose decision changes", "Parameters"]]
    for row in largest.itertuples():
        lines.append(
            [
                MODELS[row.model].label,
                f"{row.deviation:.1e}",
                f"{row.deviation_max:.1e}",
                f"{row.changed:.2f} %",
                f"{row.parameters:,}",
            ]
        )
    legend = (
        "Standard deviation of the foreground probability over the eight roto-reflections of each test patch, in "
        f"float32; models trained on {100 * summary.fraction.max():g} % of the data."
    )
    return f"{caption(records)}\n\n{markdown(lines)}\n\n{legend}\n"


def implementation_table(records: Sequence[dict]) -> str:
    """Markdown: Dice on escnn above the same network from scratch, by data regime."""
    rows = implementation_rows(records)
    fractions = sorted(rows.fraction.unique())
    lines = [["Model", "Layers", *(f"{100 * f:g} % of the data" for f in fractions), "Deviation", "Parameters"]]
    for native, layers in sorted(set(zip(rows.native, rows.layers, strict=True)), key=_layers_order):
        cells = rows[(rows.native == native) & (rows.layers == layers)]
        by_fraction = cells.set_index("fraction")
        largest = by_fraction.loc[by_fraction.index.max()]
        lines.append(
            [
                MODELS[native].label,
                layers,
                *(_difference_text(by_fraction.loc[f]) if f in by_fraction.index else "–" for f in fractions),
                f"{largest.deviation:.1e}",
                f"{largest.parameters:,.0f}",
            ]
        )
    legend = (
        "Dice in % of the native layers, and on escnn the difference to them in points, over the seeds that both have, "
        f"with the paired {_INTERVAL}. Deviation over the eight roto-reflections, on the largest data regime. Seeds on "
        f"escnn: {_seeds_text(rows)}.{_few_seeds(rows.seeds)}"
    )
    return f"{caption(records)}\n\n{markdown(lines)}\n\n{legend}\n"


def _layers_order(key: tuple[str, str]) -> tuple[int, int]:
    native, layers = key
    return list(MODELS).index(native), LAYERS.index(layers)


def _few_seeds(seeds: pd.Series) -> str:
    return " So few seeds leave the interval too narrow, if anything." if seeds.max() < FEW_SEEDS else ""


def _seeds_text(rows: pd.DataFrame) -> str:
    seeds = rows[rows.layers != "native"].seeds
    return f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"


def _difference_text(row: pd.Series) -> str:
    if row.layers == "native":
        return f"{row.dice:.1f}"
    if np.isnan(row.difference):
        return "–"
    return f"{row.difference:+.1f} [{row.difference_low:+.1f}, {row.difference_high:+.1f}]"


def _dice_text(row: pd.Series) -> str:
    spread = f" ± {row.dice_sd:.1f}" if row.seeds > 1 else ""
    interval = f" [{row.dice_low:.1f}, {row.dice_high:.1f}]" if np.isfinite(row.dice_low) else ""
    return f"{row.dice:.1f}{spread}{interval}"


def markdown(lines: list[list[str]]) -> str:
    """A table in Markdown; the first line is its head."""
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|" + " --- |" * len(lines[0]), *body])
