"""The records of a study: read, named in a caption, and turned into rows of trials and counts of pixels."""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from study.data.datasets.registry import caption_of
from study.errors import StudyError
from study.experiments.records import COUNTS, Trial, as_today, read_records
from study.networks.models import MODELS
from study.report.statistics import FEW_SEEDS


def load_records(folder: Path | str) -> list[dict]:
    """The records of a study's results folder, in the order of models, data regimes and seeds.

    Raises:
        StudyError: if there are none, one is damaged, or they are not of one study: of other settings or data.
    """
    order = list(MODELS)
    records = sorted(
        read_records(Path(folder)),
        key=lambda r: (order.index(r["trial"]["model"]), r["trial"]["fraction"], r["trial"]["seed"]),
    )
    for record in records:
        if _study_of(record) != _study_of(records[0]):
            names = [Trial(**r["trial"]).name for r in (records[0], record)]
            raise StudyError(
                f"{folder}: the trials {names[0]} and {names[1]} differ in settings or data; run `reproduce` to its "
                "end, or remove one of them"
            )
    return records


def _study_of(record: dict) -> tuple[dict, dict]:
    """What the records of one study agree in: all settings but the learning rate, which models may differ in, and the
    task, which older records do not name and the data tell.
    """
    today = as_today(record, task=None)
    return today["settings"] | {"learning_rate": None, "task": None}, today["data"]


def trial_rows(records: Sequence[dict]) -> pd.DataFrame:
    """One row per trial: what it was, its numbers, its settings, its data, and its provenance."""
    sections = ("trial", "metrics", "settings", "data", "provenance")
    return pd.DataFrame([{k: v for name in sections for k, v in record[name].items()} for record in records])


def by_cell(records: Sequence[dict]) -> dict[tuple[str, float], list[dict]]:
    """The records of each model and data regime, which differ in the seed alone."""
    cells: dict[tuple[str, float], list[dict]] = {}
    for record in records:
        cells.setdefault((record["trial"]["model"], record["trial"]["fraction"]), []).append(record)
    return cells


def on_same_seeds(records: Sequence[dict]) -> list[dict]:
    """The records to show side by side: all cells on the same seeds.

    Each seed has a draw of the data and, in a nested design, test cases of its own, some of them hard: networks of
    different seeds are not comparable, even by their differences to the same third one. Cells of fewer than
    :data:`FEW_SEEDS` seeds are left out where others have as many.
    """
    seeds = {cell: {record["trial"]["seed"] for record in group} for cell, group in by_cell(records).items()}
    some_have_enough = any(len(own) >= FEW_SEEDS for own in seeds.values())
    shown = {cell: own for cell, own in seeds.items() if len(own) >= FEW_SEEDS or not some_have_enough}
    common = set.intersection(*shown.values()) if shown else set()
    return [
        r for r in records if (r["trial"]["model"], r["trial"]["fraction"]) in shown and r["trial"]["seed"] in common
    ]


def epoch_rows(records: Sequence[dict]) -> pd.DataFrame:
    """One row per epoch of each trial: ``model``, ``fraction``, ``seed``, and what the history has of it."""
    return pd.DataFrame([record["trial"] | row for record in records for row in record["history"]])


def class_endings(records: Sequence[dict], reading: str = "") -> list[str]:
    """What the names of columns of one class end with, as in ``tp_2``: of two classes there is one without an ending.

    Empty if no record has this one of the :data:`~study.experiments.records.READINGS`.
    """
    for record in records:
        found = [re.fullmatch(rf"{reading}tp(|_\d+)", name) for name in record["case_columns"]]
        if any(found):
            return [match[1] for match in found if match]
    return []


def case_sums(records: Sequence[dict], names: Sequence[str]) -> pd.DataFrame | None:
    """Sums over the pixels of each test case, of one model and data regime; indexed and sorted by ``seed``, ``case``.

    Args:
        records: of the seeds.
        names: the columns, see :func:`~study.experiments.evaluation.case_columns`.

    Returns:
        None if no record has these columns; otherwise of those that have them.
    """
    rows = {}
    for record in records:
        columns = record["case_columns"]
        if names and set(names) <= set(columns):
            places = [columns.index(name) for name in names]
            for case, sums in record["cases"].items():
                rows[record["trial"]["seed"], case] = [sums[place] for place in places]
    if not rows:
        return None
    index = pd.MultiIndex.from_tuples(rows, names=["seed", "case"])
    return pd.DataFrame(list(rows.values()), index, columns=list(names)).sort_index()


def counts(records: Sequence[dict], reading: str = "") -> pd.DataFrame | None:
    """Pixels of one model and data regime: columns ``tp``, ``fp``, ``fn``; indexed and sorted by ``seed``, ``case``.

    Of several classes there are these three columns of each.

    Args:
        records: of the seeds.
        reading: one of :data:`~study.experiments.records.READINGS`.

    Returns:
        None if no record has this reading; otherwise of those that have it.
    """
    names = [f"{name}{end}" for end in class_endings(records, reading) for name in COUNTS]
    units = case_sums(records, [f"{reading}{name}" for name in names])
    return None if units is None else units.set_axis(names, axis=1)


def caption(records: Sequence[dict]) -> str:
    """What the numbers are about, so that nobody takes a synthetic or reduced study for the paper's."""
    settings, data = records[0]["settings"], records[0]["data"]
    reduced = settings["size"] < 320 or settings["batches_per_epoch"] * settings["batch_size"] < 468 * 64
    tested = {record["trial"]["seed"]: record for record in records}
    cases = len({case for record in tested.values() for case in record["cases"]})
    patches = [record["metrics"]["test_patches"] for record in tested.values()]
    each_its_own = cases > len(records[0]["cases"])  # every seed has test cases of its own
    return (
        f"{caption_of(data['source'])}, {settings['size']} x {settings['size']} px, "
        f"{_network(settings)}, {settings['epochs']} epochs of {settings['batches_per_epoch']} batches "
        f"of {settings['batch_size']}{' (REDUCED from the paper)' * reduced}, {counted(len(tested), 'seed')}; "
        f"{sum(patches) if each_its_own else patches[0]} test patches of {counted(cases, 'case')}; "
        f"data {data['fingerprint']}"
    )


def counted(number: int, noun: str) -> str:
    """A number of things, for people."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _network(settings: dict) -> str:
    """What the models are made of: the network, where it is not the U-Net, and its width, where it has one."""
    parts = (settings.get("network"), f"width {settings['width']}" if "width" in settings else None)
    return ", ".join(part for part in parts if part)
