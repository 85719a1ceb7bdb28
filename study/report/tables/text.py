"""Tables in Markdown, and numbers for people."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from study.report.records import caption
from study.report.statistics import FEW_SEEDS

INTERVAL = "95 % interval over seeds and test cases together (hierarchical bootstrap)"


def markdown(lines: list[list[str]]) -> str:
    """A table in Markdown; the first line is its head."""
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|" + " --- |" * len(lines[0]), *body])


def interval_text(low: float, high: float, form: str = ".1f") -> str:
    """An interval behind its estimate; empty where there is none, as of one test case."""
    return f" [{low:{form}}, {high:{form}}]" if np.isfinite(low) else ""


def difference_text(row) -> str:
    """Estimate and interval of a row of contrasts, in points, for people."""
    return f"{row.estimate:+.1f}{interval_text(row.low, row.high, '+.1f')}"


def p_text(p: float) -> str:
    """A p value for people."""
    if np.isnan(p):
        return "–"
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def few_seeds(seeds: pd.Series) -> str:
    """What a legend adds where some cells have only few."""
    return (
        f" Fewer than {FEW_SEEDS} seeds leave the interval too narrow, if anything." if seeds.min() < FEW_SEEDS else ""
    )


def captions(studies: Mapping[str, Sequence[dict]]) -> str:
    """The captions of all tasks."""
    if len(studies) == 1:
        (records,) = studies.values()
        return caption(records)
    return "\n\n".join(f"{task}: {caption(records)}" for task, records in studies.items())
