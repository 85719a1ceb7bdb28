"""What tests of the grid share: who watches it, and what of a record may differ from run to run."""

import copy
from pathlib import Path

from study.experiments.records import Trial, read_record
from study.experiments.trials import Study

TIMES = {"seconds", "training_seconds", "evaluation_seconds"}


def numbers(record: dict) -> dict:
    """A record without provenance and times: what may not depend on where and when it was made."""
    record = copy.deepcopy(record)
    del record["provenance"]
    for row in (record["metrics"], *record["history"]):
        for name in TIMES & row.keys():
            del row[name]
    return record


def records(study: Study) -> dict[str, dict]:
    """The numbers of all trials of a study that have a record."""
    found = {trial.name: read_record(study.record_path(trial)) for trial in study.trials()}
    return {name: numbers(record) for name, record in found.items() if record}


def figures(root: Path) -> dict[str, bytes]:
    """The content of every figure and table, and of the maps."""
    files = [*(root / "figures").rglob("*.*"), *(root / "results").rglob("*.npz")]
    return {str(file.relative_to(root)): file.read_bytes() for file in files if not file.name.startswith(".")}


class Notes:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.epochs: list[tuple[Trial, int | None]] = []
        self.records: dict[Trial, dict] = {}
        self.failures: dict[Trial, str] = {}

    def progress(self, trial: Trial, row: dict | None) -> None:
        self.epochs.append((trial, row and row["epoch"]))

    def finished(self, trial: Trial, record: dict) -> None:
        self.records[trial] = record

    def failed(self, trial: Trial, why: str) -> None:
        self.failures[trial] = why
