"""What a benchmark was measured on, in words."""

import pandas as pd

GROUPS = {"p4": "P4", "p4m": "P4M", "z2": "U-Net"}
"""What a network of each group is called."""


def network_sizes(row: pd.Series, *, width: bool = True) -> str:
    """The networks and images that were measured."""
    networks = f"Width {row['width']}, depth {row['depth']}" if width else f"Depth {row['depth']}"
    return f"{networks}, batches of {row['batch']} images of {row['size']} x {row['size']}"


def conditions(row: pd.Series, precision: str) -> str:
    """On what it was measured, and how often."""
    threads = f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}"
    return f"{precision}; {row['hardware']}, {threads}, torch {row['torch']}; medians of {row['rounds']} rounds"


def times(row: pd.Series, kind: str) -> str:
    """The multiple of the baseline's time with its quartiles; nothing where that was not measured."""
    ratio, low, high = (row[f"{kind}_ratio{suffix}"] for suffix in ("", "_low", "_high"))
    return f"{ratio:.2f} [{low:.2f}, {high:.2f}]" if pd.notna(ratio) else ""
