"""The records of trials, as they are in ``results/<study>/trials/``: reading them needs no torch."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from study.data.datasets.registry import source_today
from study.errors import StudyError, notice
from study.files import replacing
from study.networks.models import MODELS

SECTIONS = ("trial", "settings", "data", "metrics", "cases", "provenance")
"""The sections of every record; each maps names to values. There are also ``history``, a row per epoch, and
``case_columns``, the names of the numbers in ``cases``; records that have more than the counts for the Dice have
``calibration`` too, and those of several classes have their names in ``task``."""

CHECKSUM = "sha256"
"""The last entry of a record: the SHA-256 of all others, by which damage is noticed."""

COUNTS = ("tp", "fp", "fn")
"""What the Dice is made of, for each case: pixels that are true and false positives, and false negatives."""

READINGS = ("", "tta_")
"""The prefix of a sum or a measure: of the patch as it is, and with test-time augmentation."""


@dataclass(frozen=True)
class Trial:
    """One model on one data regime with one seed."""

    model: str
    fraction: float
    seed: int

    @property
    def name(self) -> str:
        """The name in files: ``p4m-12.5-0`` is the P4M U-Net on 12.5 % of the data with seed 0."""
        return f"{self.model}-{100 * self.fraction:g}-{self.seed}"

    def __str__(self) -> str:
        return f"{MODELS[self.model].label} on {100 * self.fraction:g} % of the data, seed {self.seed}"


_OLDER_SETTINGS = {"design": "stored", "schedule": "plateau"}
"""Of records from before there was a choice."""


def as_today(found: dict, task: str | None) -> dict:
    """The settings and the data of a record or a checkpoint, as they would be written today.

    Args:
        found: the record or the checkpoint; older ones lack settings of which there was one value, and may call their
            data by a former name.
        task: of one that does not name it, which the name of its data tells.
    """
    settings, data = (dict(found.get(section, {})) for section in ("settings", "data"))
    if "source" in data:
        data["source"] = source_today(data["source"])
    return {"settings": _OLDER_SETTINGS | {"task": task} | settings, "data": data}


def is_diverged(record: dict) -> bool:
    """Whether a record is of a training that ended worse than a constant prediction; False for older records."""
    return record["metrics"].get("diverged", False)


def results_folder(root: Path, study: str) -> Path:
    return root / "results" / study


def record_files(folder: Path) -> list[Path]:
    """The files of all records in a study's results folder, sorted."""
    return sorted((folder / "trials").glob("*.json"))


def read_record(path: Path) -> dict | None:
    """A trial's record, or None if there is none.

    Raises:
        StudyError: if the file is damaged.
    """
    try:
        record = read_verified(path)
        trial = Trial(**record["trial"])
        for section in SECTIONS:
            record[section].keys()
        record["history"]
        record.setdefault("case_columns", list(COUNTS))  # records from before there were more
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudyError(f"{path} is damaged or no record of a trial; remove it to run the trial again") from error
    if trial.model not in MODELS:
        raise StudyError(f"{path} is of the unknown model {trial.model!r}; remove it")
    return record


def read_records(folder: Path) -> list[dict]:
    """The records of a study, in the order of their names, without those of trials that diverged.

    Raises:
        StudyError: if there are none, or one is damaged.
    """
    records = [read_record(file) for file in record_files(folder)]
    if not records:
        raise StudyError(f"no results in {folder}; make them with `python -m study reproduce`")
    sound = [record for record in records if not is_diverged(record)]
    if not sound:
        raise StudyError(f"all trials in {folder} diverged; lower learning_rate (--set, and a --name)")
    return sound


def diverged_trials(folder: Path) -> list[Trial]:
    """The trials that :func:`read_records` leaves out."""
    records = (read_record(file) for file in record_files(folder))
    return [Trial(**record["trial"]) for record in records if is_diverged(record)]


def write_record(path: Path, record: dict) -> None:
    """Write a record, of a trial or of a tuning run, with its checksum.

    Raises:
        StudyError: see :func:`~study.files.replacing`.
    """
    with replacing(path) as temporary:
        temporary.write_text(_compact(record | {CHECKSUM: _checksum(record)}))


def read_verified(path: Path) -> dict:
    """What :func:`write_record` wrote. Records from before there were checksums are read with a notice.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is damaged.
    """
    record = json.loads(path.read_text())
    if CHECKSUM not in record:
        notice(f"there are records without a checksum in {path.parent}: a damaged number in them would not be noticed")
    elif record.pop(CHECKSUM) != _checksum(record):
        raise ValueError("the checksum is wrong")
    return record


def _checksum(record: dict) -> str:
    """The SHA-256 of a record's content, however it is laid out in lines."""
    content = json.dumps(json.loads(json.dumps(record)), sort_keys=True)  # twice: tuples are lists in the file
    return hashlib.sha256(content.encode()).hexdigest()


def _compact(record: dict) -> str:
    """JSON with one line per entry of each section: short, and a diff shows what changed."""
    sections = []
    for key, value in record.items():
        if isinstance(value, list):
            rows = ",\n".join(f"  {json.dumps(row)}" for row in value)
            sections.append(f"{json.dumps(key)}: [\n{rows}\n]")
        elif isinstance(value, str):
            sections.append(f"{json.dumps(key)}: {json.dumps(value)}")
        else:
            rows = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
            sections.append(f"{json.dumps(key)}: {{\n{rows}\n}}")
    return "{\n" + ",\n".join(sections) + "\n}\n"
