"""The table of what an implementation on escnn changes."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from study.networks.models import LAYERS, MODELS
from study.report.records import caption
from study.report.summary import implementation_rows
from study.report.tables.text import INTERVAL, few_seeds, interval_text, markdown


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
        f"with the paired {INTERVAL}. Deviation over the eight roto-reflections, on the largest data regime. Seeds on "
        f"escnn: {_seeds_text(rows)}.{few_seeds(rows.seeds)}"
    )
    return f"{caption(records)}\n\n{markdown(lines)}\n\n{legend}\n"


def _layers_order(key: tuple[str, str]) -> tuple[int, int]:
    native, layers = key
    return list(MODELS).index(native), LAYERS.index(layers)


def _seeds_text(rows: pd.DataFrame) -> str:
    seeds = rows[rows.layers != "native"].seeds
    return f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"


def _difference_text(row: pd.Series) -> str:
    if row.layers == "native":
        return f"{row.dice:.1f}"
    if np.isnan(row.difference):
        return "–"
    return f"{row.difference:+.1f}{interval_text(row.difference_low, row.difference_high, '+.1f')}"
