"""The style of all figures: sizes for one column (3.5 inches) or two (7.2) of a paper, axes, captions, files."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from study.files import replacing

COLUMN, PAGE = 3.5, 7.2  # inches
_STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "lines.markersize": 4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "study",  # the same figure gives the same file
}

INTERVALS = {"estimator": "median", "errorbar": ("pi", 100), "err_style": "bars"}
"""For :func:`seaborn.lineplot` of rows that :func:`with_intervals` made."""


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw with the study's style, and leave matplotlib's global settings as they were."""

    def wrapper(*args, **kwargs) -> Figure:
        with sns.axes_style("ticks"), matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    wrapper.__doc__, wrapper.__name__ = draw.__doc__, draw.__name__
    return wrapper


def save(figure: Figure, path: Path | str) -> None:
    """Write a figure as ``path.png`` (300 dpi) and ``path.svg``.

    Raises:
        StudyError: if a file cannot be written.
    """
    for suffix, options in [("png", {"dpi": 300}), ("svg", {"metadata": {"Date": None}})]:
        with replacing(Path(f"{path}.{suffix}")) as temporary, matplotlib.rc_context(_STYLE):
            figure.savefig(temporary, format=suffix, **options)
        figure.set_layout_engine("none")  # both files have the layout of the first


def captioned(figure: Figure, caption: str) -> Figure:
    """The caption below, each of its paragraphs wrapped to the figure's width, small."""
    lines = []
    for paragraph in caption.split("\n\n"):
        lines.append("")
        for word in paragraph.split():
            if len(lines[-1]) + len(word) > 24 * figure.get_figwidth():
                lines.append("")
            lines[-1] += f"{word} "
    figure.supxlabel("\n".join(lines), fontsize=5.5, color="0.35", x=0.01, ha="left")
    return figure


def with_intervals(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Rows from which seaborn draws an estimate and our own interval, in place of one that it would compute.

    Each row comes three times, with the estimate and with both ends of its interval (columns ``<value>_low`` and
    ``<value>_high``) as its ``value``. Their median is the estimate and their range the interval. Where there is no
    interval, there is no bar.
    """
    ends = [
        rows[value],
        rows[[value, f"{value}_low"]].min(axis=1),  # a percentile interval need not reach its estimate
        rows[[value, f"{value}_high"]].max(axis=1),
    ]
    return pd.concat([rows.assign(**{value: end}) for end in ends], ignore_index=True)


def error_bars(rows: pd.DataFrame, value: str) -> np.ndarray:
    """The interval of each row as lengths of its two bars, ``(2, rows)``, for matplotlib; 0 where there is none."""
    bars = [rows[value] - rows[f"{value}_low"], rows[f"{value}_high"] - rows[value]]
    return np.nan_to_num(np.clip(bars, 0, None))


def aside(rows: pd.DataFrame, x: str, by: str, order: Sequence, step: float = 0.06) -> pd.DataFrame:
    """Rows whose ``x``, on a logarithmic axis, is moved a little to the side, in the order of ``by``, so that what has
    the same ``x`` stands around it.
    """
    ordered = rows.assign(place=rows[by].map({name: place for place, name in enumerate(order)})).sort_values("place")
    same = ordered.groupby(x)[by]
    names = same.transform("nunique")
    place = same.transform(lambda group: pd.factorize(group)[0]) - (names - 1) / 2
    return ordered.assign(**{x: ordered[x] * 2 ** (step * place)}).drop(columns="place").loc[rows.index]


def regime_axis(axes: Axes, fractions: Sequence[float], label: str = "Training data (%)") -> None:
    """An axis of shares of the training data, which grow by factors of two."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(sorted(set(fractions)))
    axes.set_xlim(min(fractions) / 1.3, max(fractions) * 1.3)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g}"))
    axes.set_xlabel(label)


def factor_axis(axis) -> None:
    """A logarithmic axis of multiples."""
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×"))
    axis.set_minor_locator(NullLocator())
