"""The tables of extraction and loading: patches per second, and memory."""

import pandas as pd

from study.report.tables.text import markdown


def extraction_table(rows: pd.DataFrame) -> str:
    """Markdown: patches per second of the extraction, beside OpenSlide alone."""
    columns = {"extraction": "Extraction", "openslide": "OpenSlide alone", "share": "Share"}
    cells = [_median(rows.extraction), _median(rows.openslide), _median(100 * rows.share, " %")]
    text = "OpenSlide alone only reads the same regions. In brackets are the slowest and the fastest round."
    return f"{_caption(rows)}.\n\n{markdown([[*columns.values()], cells])}\n\n{text}\n"


def memory_table(rows: pd.DataFrame) -> str:
    """Markdown: the peak memory of a process against the patches that it extracts from one slide."""
    lines = [[f"{row.patches:,}", f"{row.peak_mb:.0f} MB"] for row in rows.itertuples()]
    return f"{markdown([['Patches of one slide', 'Peak memory of the process'], *lines])}\n"


def loading_table(rows: pd.DataFrame) -> str:
    """Markdown: patches per second into training from each format, and the size of a patch on disk."""
    medians = rows.groupby("format", sort=False)[["rate", "kb"]].median()
    lines = [[name, f"{row.rate:,.0f}", f"{row.kb:.0f} kB"] for name, row in medians.iterrows()]
    return f"{_caption(rows)}.\n\n{markdown([['Format', 'Patches per second', 'Size of a patch'], *lines])}\n"


def _caption(rows: pd.DataFrame) -> str:
    """What was measured, and on what."""
    row = rows.iloc[0]
    side, rounds = row.patch_size, rows["round"].nunique()
    return (
        f"Patches of {side} x {side} per second, {row.processes} processes; {row.hardware}; medians of {rounds} rounds"
    )


def _median(values: pd.Series, unit: str = "") -> str:
    return f"{values.median():.0f}{unit} [{values.min():.0f}{unit}, {values.max():.0f}{unit}]"
