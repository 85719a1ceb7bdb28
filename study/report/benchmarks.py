"""The measurements of the benchmarks: their files in ``results/``, and the tables and figures that are made of them.

:mod:`study.bench` measures. A new benchmark is an entry of :data:`BENCHMARKS`; its table or figure, if it has one,
is a file in ``tables/`` or ``figures/``.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from study.errors import StudyError
from study.files import replacing
from study.report.costs import UPDATES
from study.report.figures import angles, costs, layers, training_step
from study.report.style import save
from study.report.tables.costs import costs_table
from study.report.tables.export import export_table
from study.report.tables.layers import layers_table
from study.report.tables.pipeline import extraction_table, loading_table, memory_table
from study.report.tables.pitfalls import pitfalls_table
from study.report.tables.training_step import steps_table

NAMES = ("device", "backend", "precision", "study")
"""What a file may be named after, beside the benchmark."""


@dataclass(frozen=True)
class Benchmark:
    """What becomes of the rows of a measurement.

    Attributes:
        file: its path below ``results/`` and, with another suffix, ``figures/``; ``{device}``, ``{backend}``,
            ``{precision}`` and ``{study}`` are filled in from the rows.
        table: a text in Markdown.
        draw: a figure.
    """

    file: str
    table: Callable[[pd.DataFrame], str] | None = None
    draw: Callable[[pd.DataFrame], Figure] | None = None

    def name(self, rows: pd.DataFrame) -> str:
        """The path of these rows, without a suffix."""
        about = {"device": device_name(rows)} if "hardware" in rows else {}
        return self.file.format(**about, **{key: rows[key].iloc[0] for key in NAMES[1:] if key in rows})


BENCHMARKS = {
    "models": Benchmark("costs/{device}", costs_table, costs.draw),
    "layers": Benchmark("speed/{device}-layers-{backend}-{precision}", layers_table, layers.draw),
    "training-step": Benchmark("speed/{device}-training-step-{precision}", steps_table, training_step.draw),
    "updates": Benchmark(f"{{study}}/{UPDATES}"),
    "pitfalls": Benchmark("escnn/pitfalls", pitfalls_table),
    "angles": Benchmark("escnn/angles", draw=angles.draw),
    "export": Benchmark("export/{device}", export_table),
    "extraction": Benchmark("pipeline/{device}-extraction", extraction_table),
    "memory": Benchmark("pipeline/{device}-memory", memory_table),
    "loading": Benchmark("pipeline/{device}-loading", loading_table),
}
"""By the name of their command, ``python -m study bench NAME``; "memory" is measured with "extraction"."""


def device_name(rows: pd.DataFrame) -> str:
    """The hardware of a table, as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", rows.hardware.iloc[0].lower()).strip("-")


def read_benchmark(root: Path, name: str) -> dict[str, pd.DataFrame]:
    """All measurements of a benchmark, by the names of their files.

    Raises:
        StudyError: if there are none.
    """
    files = _results(root, name)
    if not files:
        folder = (root / "results" / BENCHMARKS[name].file).parent
        raise StudyError(f"no tables of {name} in {folder}; make one with `python -m study bench {name}`")
    return {file.stem: pd.read_csv(file) for file in files}


def write_benchmark(root: Path, name: str, rows: pd.DataFrame) -> Path:
    """Write the measurements to ``results/``, and what is made of them to ``figures/``.

    Returns:
        The path of the results.

    Raises:
        StudyError: if a file cannot be written.
    """
    path = root / "results" / f"{BENCHMARKS[name].name(rows)}.csv"
    _write(path, rows.to_csv(index=False, float_format="%.6g"))
    draw_benchmark(root, name, pd.read_csv(path))  # what is drawn must not know more digits than can be read again
    return path


def draw_benchmark(root: Path, name: str, rows: pd.DataFrame) -> list[Path]:
    """Write the table and the figure of some measurements, and return their paths.

    Raises:
        StudyError: if a file cannot be written.
    """
    benchmark = BENCHMARKS[name]
    path, written = root / "figures" / benchmark.name(rows), []
    if benchmark.table:
        written.append(path.with_name(f"{path.name}.md"))
        _write(written[-1], benchmark.table(rows))
    if benchmark.draw:
        save(benchmark.draw(rows), path)
        written += [path.with_name(f"{path.name}.{suffix}") for suffix in ("png", "svg")]
    return written


def draw_benchmarks(root: Path) -> list[Path]:
    """The tables and figures of all measurements in ``results/``, again; see :func:`draw_benchmark`."""
    written = []
    for name, benchmark in BENCHMARKS.items():
        if benchmark.table or benchmark.draw:
            for file in _results(root, name):
                written += draw_benchmark(root, name, pd.read_csv(file))
    return written


def _results(root: Path, name: str) -> list[Path]:
    pattern = re.sub(r"{\w+}", "*", BENCHMARKS[name].file)
    return sorted((root / "results").glob(f"{pattern}.csv"))


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)
