"""Each model's learning rate, chosen on validation patches; test patches are not used.

A tuning run is a training like a trial's, of a seed that no trial has, with one of a few learning rates for all models.
It leaves a record at ``results/<study>/tuning/<run>.json``; the chosen rates are in the preset.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
from lightning_fabric import Fabric

from study.data.patches.splits import split
from study.errors import StudyError
from study.experiments.records import read_verified, results_folder, write_record
from study.experiments.training import train
from study.experiments.trials import Study
from study.networks.models import MODELS
from study.provenance import provenance

RATES = (3e-4, 1e-3, 3e-3)
"""The candidates."""


@dataclass(frozen=True)
class TuningRun:
    """One model with one learning rate, on one data regime with one seed."""

    model: str
    fraction: float
    seed: int
    learning_rate: float

    @property
    def name(self) -> str:
        return f"{self.model}-{100 * self.fraction:g}-{self.seed}-{self.learning_rate:g}"


def tune(study: Study, run: TuningRun, fabric: Fabric) -> dict:
    """Train one run, unless its record exists, and write the record.

    Returns:
        The record: ``run``, ``settings``, ``data``, ``history`` (a row per epoch) and ``provenance``.
    """
    path = results_folder(study.root, study.name) / "tuning" / f"{run.name}.json"
    identity = {
        "run": asdict(run),
        "settings": study.preset.trial_settings(run.model) | {"learning_rate": run.learning_rate},
        "data": {"source": study.store.source, "fingerprint": study.store.fingerprint},
    }
    if path.is_file() and (found := read_run(path)).items() >= identity.items():
        return found
    folder = study.root / "runs" / study.name / "tuning" / run.name
    trained = train(
        replace(study.preset.recipe, learning_rate=run.learning_rate),
        run.model,
        study.store,
        split(study.preset.design, study.store, run.fraction, run.seed),
        seed=run.seed,
        fabric=fabric,
        folder=folder,
        workers=study.preset.workers,
        task=study.task,
    )
    record = identity | {"history": trained.history, "provenance": provenance(fabric.device, fabric.world_size)}
    write_record(path, record)
    (folder / "last.pt").unlink(missing_ok=True)
    return record


def read_run(path: Path) -> dict:
    """The record of a tuning run.

    Raises:
        StudyError: if the file is damaged.
    """
    try:
        record = read_verified(path)
        TuningRun(**record["run"])
        record["history"][-1]["validation_dice"]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise StudyError(f"{path} is damaged or no record of a tuning run; remove it and tune again") from error
    return record


def tuning_rows(folder: Path) -> pd.DataFrame:
    """One row per tuning run in a study's results folder.

    Columns: ``model``, ``fraction``, ``seed``, ``learning_rate``; of the validation patches ``dice`` and ``loss`` at
    the end, and ``best_dice`` at the epoch of the lowest loss; ``train_loss`` at the end.
    """
    rows = []
    for path in sorted((folder / "tuning").glob("*.json")):
        record = read_run(path)
        history = pd.DataFrame(record["history"])
        last, best = history.iloc[-1], history.loc[history.validation_loss.idxmin()]
        losses = {"loss": last.validation_loss, "train_loss": last.train_loss}
        rows.append(record["run"] | {"dice": last.validation_dice, "best_dice": best.validation_dice, **losses})
    return pd.DataFrame(rows)


def chosen_rates(rows: pd.DataFrame) -> dict[str, float]:
    """For each model the learning rate of the highest mean validation Dice over its runs; the smaller one of equals.

    Raises:
        StudyError: if a model lacks a run that another rate of it has.
    """
    chosen = {}
    for model, own in rows.groupby("model", sort=False):
        table = own.pivot_table(index="learning_rate", columns=["fraction", "seed"], values="dice")
        if table.isna().any(axis=None):
            raise StudyError(f"the tuning of {model} is not complete; run `python -m study tune {model}` again")
        chosen[model] = float(table.mean(axis=1).idxmax())
    return dict(sorted(chosen.items(), key=lambda item: list(MODELS).index(item[0])))


def runs(models: Sequence[str], fractions: Sequence[float], seeds: Sequence[int]) -> list[TuningRun]:
    """All runs, seed by seed, so that an interrupted tuning has complete comparisons."""
    return [
        TuningRun(model, fraction, seed, rate)
        for seed in seeds
        for fraction in fractions
        for model in models
        for rate in RATES
    ]
