"""The measurements as files and as tables for people."""

import re
from pathlib import Path

import pandas as pd

from study.bench import plots
from study.errors import StudyError
from study.files import replacing
from study.report import markdown
from study.report.plots import save

COSTS = Path("results/costs")
PITFALLS = Path("results/escnn/pitfalls.csv")
ANGLES = Path("results/escnn/angles.csv")
PIPELINE = Path("results/pipeline")


def device_name(rows: pd.DataFrame) -> str:
    """The hardware of a table of costs, as the name of its file."""
    return re.sub(r"[^a-z0-9]+", "-", rows.hardware.iloc[0].lower()).strip("-")


def read_costs(root: Path) -> dict[str, pd.DataFrame]:
    """The tables of costs by device.

    Raises:
        StudyError: if there are none.
    """
    files = sorted((root / COSTS).glob("*.csv"))
    if not files:
        raise StudyError(f"no tables in {root / COSTS}; make one with `python -m study bench models`")
    return {file.stem: pd.read_csv(file) for file in files}


def write_costs(root: Path, rows: pd.DataFrame) -> Path:
    """Write ``results/costs/<device>.csv``, and the table and the figure in ``figures/costs/``.

    Returns:
        The path of the results.

    Raises:
        StudyError: if a file cannot be written.
    """
    name, figures = device_name(rows), root / "figures" / "costs"
    path = root / COSTS / f"{name}.csv"
    rows = write_csv(path, rows)
    write_text(figures / f"{name}.md", costs_table(rows))
    save(plots.costs(rows, costs_caption(rows)), figures / name)
    return path


def write_pipeline(root: Path, name: str, rows: pd.DataFrame) -> Path:
    """Write ``results/pipeline/<device>-<name>.csv``, and return its path.

    Raises:
        StudyError: if it cannot be written.
    """
    path = root / PIPELINE / f"{device_name(rows)}-{name}.csv"
    write_csv(path, rows)
    return path


def write_pitfalls(root: Path, rows: pd.DataFrame) -> Path:
    """Write ``results/escnn/pitfalls.csv``, and return its path.

    Raises:
        StudyError: if it cannot be written.
    """
    path = root / PITFALLS
    write_text(path, rows.to_csv(index=False))
    return path


def write_angles(root: Path, rows: pd.DataFrame) -> Path:
    """Write ``results/escnn/angles.csv`` and the figure in ``figures/escnn/``, and return the path of the results.

    Raises:
        StudyError: if a file cannot be written.
    """
    path = root / ANGLES
    rows = write_csv(path, rows)
    save(plots.angles(rows, angles_caption(rows)), root / "figures" / "escnn" / "angles")
    return path


def angles_caption(rows: pd.DataFrame) -> str:
    """Which networks were turned, and on what data."""
    row = rows.iloc[0]
    return (
        f"Networks of {row['study']} trained on 100 % of the data, seed 0; {row['patches']} test patches of "
        f"{row['source']}, data {row['fingerprint']}. Turns other than by 90° interpolate, which has a part in the "
        "difference."
    )


def costs_caption(rows: pd.DataFrame) -> str:
    """What was measured, and on what."""
    row = rows.iloc[0]
    return f"{network_sizes(row)}, {conditions(row, 'float32')} in which all networks took turns"


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


def costs_cells(rows: pd.DataFrame) -> list[list[str]]:
    """The table of costs as text, its head first."""
    lines = [["Network", "Layers", "Parameters", "Products", "Build", "Training", "Inference", "Memory", "File"]]
    for _, row in rows.iterrows():
        own = f" + {row.escnn_init_seconds:.0f}" if pd.notna(row.escnn_init_seconds) else ""
        lines.append(
            [
                row.network,
                row.implementation,
                f"{row.parameters / 1e6:.2f} M",
                f"{row.multiplications / 1e3:.2f} G",
                f"{row.build_seconds:.1f}{own} s",
                times(row, "training"),
                times(row, "inference"),
                f"{row.peak_mb:.0f} MB",
                f"{row.checkpoint_mb:.1f} MB",
            ]
        )
    return lines


def costs_legend(rows: pd.DataFrame) -> str:
    """What the columns of the table of costs mean."""
    plain = rows.iloc[0]
    return (
        "Products: multiplications in a forward pass of one image. Build: in a fresh process; the second number is "
        "what escnn's own initialisation would add. Training, inference: the time of a batch, as a multiple of the "
        f"plain U-Net's in the same round ({plain.training_ms:.0f} and {plain.inference_ms:.0f} ms). Memory: the peak "
        "of training, beyond the bare process. File: the state dict as saved."
    )


def costs_table(rows: pd.DataFrame) -> str:
    """Markdown: one line per network."""
    return f"{costs_caption(rows)}.\n\n{markdown(costs_cells(rows))}\n\n{costs_legend(rows)}\n"


def pitfalls_cells(rows: pd.DataFrame) -> list[list[str]]:
    """What was tried, and what happened here and on escnn; the head first."""
    return [["Tried", "Here", "escnn"], *([row.probe, row.native, row.escnn] for row in rows.itertuples())]


def pitfalls_table(rows: pd.DataFrame) -> str:
    """Markdown: what did not go as a torch user expects is bold."""
    head, *lines = pitfalls_cells(rows)
    fine = rows[["native_fine", "escnn_fine"]].to_numpy()
    marked = [
        [tried, *(text if good else f"**{text}**" for text, good in zip(outcomes, row, strict=True))]
        for (tried, *outcomes), row in zip(lines, fine, strict=True)
    ]
    return f"{markdown([head, *marked])}\n"


def write_csv(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Write a table, and return it as it can be read again: what is drawn must not know more digits."""
    write_text(path, rows.to_csv(index=False, float_format="%.6g"))
    return pd.read_csv(path)


def write_text(path: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text)
