"""A trial is one model on one data regime with one seed; this module runs a trial and keeps its record.

Its weights are at ``runs/<study>/<trial>/best.pt`` (ignored by git), and its record, which has everything that tables
and figures need, at ``results/<study>/trials/<trial>.json`` (committed).
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric

from study.data.patches.loading import PatchDataset
from study.data.patches.splits import Split, split
from study.data.patches.store import PatchStore
from study.errors import StudyError
from study.experiments.evaluation import calibration, case_columns, evaluate, summarise
from study.experiments.presets import Preset
from study.experiments.records import (
    Trial,
    as_today,
    is_diverged,
    read_record,
    record_files,
    results_folder,
    write_record,
)
from study.experiments.training import Trained, shared_loader, train
from study.files import remove_half_written
from study.gconv.fast.dispatch import forms
from study.locks import only_one
from study.networks.checkpoint import load_checkpoint, save_checkpoint
from study.networks.cost import multiplications
from study.networks.models import MODELS
from study.provenance import provenance
from study.tasks.losses import LOSSES
from study.tasks.registry import FOREGROUND, find_task
from study.tasks.task import Task


@dataclass(frozen=True)
class Study:
    """A preset with a name, its data, and the folders that it writes to.

    Before its data are prepared (``store`` is None) only its trials and its folders are known.
    """

    name: str
    preset: Preset
    store: PatchStore | None
    root: Path = field(default_factory=Path)

    @property
    def task(self) -> Task:
        """What the networks learn: the preset's task, or the classes that the store names, with the recipe's loss."""
        task = find_task(self.preset.task, None if self.store is None else self.store.classes)
        return replace(task, loss=LOSSES[self.preset.recipe.loss])

    def trials(self) -> list[Trial]:
        """All trials, each once; grid by grid and seed by seed, so that an interrupted study has whole comparisons."""
        cells = (
            Trial(model, fraction, seed)
            for models, fractions, seeds in self.preset.grids
            for seed in seeds
            for fraction in fractions
            for model in models
        )
        return list(dict.fromkeys(cells))

    def split(self, trial: Trial) -> Split:
        """The training, validation and test patches of a trial."""
        return split(self.preset.design, self.store, trial.fraction, trial.seed)

    def record_path(self, trial: Trial) -> Path:
        return results_folder(self.root, self.name) / "trials" / f"{trial.name}.json"

    def run_folder(self, trial: Trial) -> Path:
        return self.root / "runs" / self.name / trial.name

    def checkpoint_path(self, trial: Trial) -> Path:
        return self.run_folder(trial) / "best.pt"

    def identity(self, trial: Trial) -> dict:
        """The sections that a record of this trial must have equal; without the data's while they are not prepared."""
        sections = {"trial": asdict(trial), "settings": self.preset.trial_settings(trial.model)}
        if self.store is None:
            return sections
        return sections | {"data": {"source": self.store.source, "fingerprint": self.store.fingerprint}}

    def has_weights(self, trial: Trial) -> bool:
        """Whether the weights of this trial exist.

        Raises:
            StudyError: if the weights are of other data or settings; running the trial would destroy them.
        """
        path = self.checkpoint_path(trial)
        if not path.is_file():
            return False
        if not self._fits(load_checkpoint(path), trial):
            raise StudyError(
                f"{path} was trained on other data or settings; give this study another --name, "
                f"or delete {self.run_folder(trial).parent} to start over"
            )
        return True

    def is_done(self, trial: Trial, *, trust_results: bool = False) -> bool:
        """Whether a trial is complete: its record fits, and its weights exist (or ``trust_results``).

        Raises:
            StudyError: see :meth:`has_weights`; or if the record is damaged.
        """
        here = self.has_weights(trial)
        record = read_record(self.record_path(trial))
        return self._fits(record, trial) and (here or trust_results)

    def has_diverged(self, trial: Trial) -> bool:
        """Whether a trial ended worse than a constant (:class:`~study.experiments.training.Trained`)."""
        record = read_record(self.record_path(trial))
        return record is not None and is_diverged(record)

    def check_company(self, todo: list[Trial]) -> None:
        """Check that the records that ``todo`` will not replace are of this study, so that one table can hold all.

        Raises:
            StudyError: naming a record of other data or settings.
        """
        replaced = {self.record_path(trial) for trial in todo}
        for path in set(record_files(results_folder(self.root, self.name))) - replaced:
            record = read_record(path)
            if not self._fits(record, Trial(**record["trial"])):
                raise StudyError(f"{path} is of other data or settings; give this study a --name, or remove the file")

    def tidy(self, trial: Trial) -> None:
        """Remove the leftovers of killed runs: half-written files, and the state of a finished training.

        No other process may be running this trial.
        """
        record, last = self.record_path(trial), self.run_folder(trial) / "last.pt"
        remove_half_written(self.run_folder(trial))
        remove_half_written(record.parent, record.name)
        if last.is_file() and self.is_done(trial):
            last.unlink(missing_ok=True)

    def seeds_here(self) -> list[int]:
        """The seeds that have weights in ``runs/``, of this call or of earlier ones."""
        checkpoints = (self.root / "runs" / self.name).glob("*/best.pt")
        endings = {path.parent.name.rpartition("-")[2] for path in checkpoints}
        return sorted(int(ending) for ending in endings if ending.isdigit())

    def _fits(self, found: dict | None, trial: Trial) -> bool:
        """Whether a record or a checkpoint is of this trial."""
        if found is None:
            return False
        found = found | as_today(found, self.preset.task)
        return all(found.get(key) == value for key, value in self.identity(trial).items())


def run_trial(
    study: Study,
    trial: Trial,
    fabric: Fabric,
    *,
    log: Callable[[dict], None] | None = None,
    command: str | None = None,
) -> dict:
    """Train and evaluate one trial; write its weights, then its record.

    Args:
        study: the study.
        trial: the trial.
        fabric: device, precision, and the number of processes.
        log: called with each epoch's row, on the first process.
        command: the command, if it started another process than this one.

    Raises:
        StudyError: if another process runs the same trial; see also :func:`~study.experiments.training.train`.

    Returns:
        The record: ``trial``, ``settings``, ``data``, ``metrics``, ``cases`` (sums over the pixels of each case, named
        by ``case_columns``), ``calibration`` (sums for each bin of the probability), ``history``, ``provenance``.
    """
    with only_one(study.run_folder(trial), "trains in") if fabric.is_global_zero else nullcontext():
        if fabric.is_global_zero:
            study.tidy(trial)
        trained, record = _train_and_evaluate(study, trial, fabric, log, command)
        if fabric.is_global_zero:
            _save(study, trial, trained, record)
    fabric.barrier()
    return record


def _train_and_evaluate(
    study: Study, trial: Trial, fabric: Fabric, log: Callable[[dict], None] | None, command: str | None
) -> tuple[Trained, dict]:
    """The trained network and the record of a trial; see :func:`run_trial`."""
    recipe, store, folder = study.preset.recipe_of(trial.model), study.store, study.run_folder(trial)
    task = study.task
    parts = study.split(trial)
    trained = train(
        recipe,
        trial.model,
        store,
        parts,
        seed=trial.seed,
        fabric=fabric,
        folder=folder,
        workers=study.preset.workers,
        log=log,
        task=task,
    )
    start = time.perf_counter()
    patches = score_patches(
        trained.network, store, parts.test, fabric, recipe.batch_size, study.preset.workers, task=task
    )
    evaluation_seconds = time.perf_counter() - start
    record = study.identity(trial) | {
        "metrics": summarise(patches, task)
        | {
            "parameters": sum(p.numel() for p in trained.network.parameters()),
            "multiplications": _multiplications(trained.network, store, fabric),
            "training_patches": len(parts.train),
            "training_cases": len(set(store.case[parts.train])),
            "test_patches": len(patches),
            "epoch": trained.epoch,
            "validation_loss": trained.history[trained.epoch]["validation_loss"],
            "validation_dice": trained.history[trained.epoch]["validation_dice"],
            "train_loss": trained.history[-1]["train_loss"],
            "constant_loss": trained.history[-1]["constant_loss"],
            "diverged": trained.diverged,
            "training_seconds": round(sum(row["seconds"] for row in trained.history), 1),
            "evaluation_seconds": round(evaluation_seconds, 1),
        },
        "case_columns": case_columns(task),
        "cases": _by_case(patches, case_columns(task)),
        "calibration": {name: [_short(n) for n in sums] for name, sums in calibration(patches, task).items()},
        "history": trained.history,
        "provenance": provenance(fabric.device, fabric.world_size, command)
        | {"forms": forms(trained.network, fabric.device.type, torch.float32)},
    }
    if len(task.foreground) > 1:
        record["task"] = task.about()
    return trained, record


def _multiplications(network, store: PatchStore, fabric: Fabric) -> float:
    """Multiplications for one patch."""
    return multiplications(network, torch.zeros(1, 3, *store.size, device=fabric.device))


def score_patches(
    network,
    store: PatchStore,
    indices: np.ndarray,
    fabric: Fabric,
    batch_size: int,
    workers: int = 0,
    task: Task = FOREGROUND,
) -> pd.DataFrame:
    """A row of :func:`~study.experiments.evaluation.evaluate` for each of these patches of a store, with its ``case``.

    The index of the table is their places in the store.
    """
    loader = shared_loader(fabric, PatchDataset(store, indices), batch_size, workers)
    scores = pd.concat(evaluate(network, loader, fabric.device, task))
    scores.index = indices[fabric.global_rank :: fabric.world_size]
    if fabric.world_size > 1:
        shares = [None] * fabric.world_size
        torch.distributed.all_gather_object(shares, scores)
        scores = pd.concat(shares).sort_index()
    return scores.assign(case=store.case[scores.index])


def _by_case(patches: pd.DataFrame, columns: list[str]) -> dict[str, list[float]]:
    """``{case: sums in the order of the columns}``: enough to pool the measures again over any set of cases."""
    sums = patches.groupby("case")[columns].sum()
    return {case: [_short(n) for n in row] for case, row in zip(sums.index, sums.to_numpy(), strict=True)}


def _short(number: float) -> float:
    """A count as an integer, any other number to six digits, to keep records short."""
    return int(number) if float(number).is_integer() else float(f"{number:.6g}")


def _save(study: Study, trial: Trial, trained: Trained, record: dict) -> None:
    """Save the weights, then the record, which needs them; then remove the state of the training."""
    task = study.task
    architecture = MODELS[trial.model].architecture(**study.preset.recipe.network, num_classes=task.outputs)
    weights = {key: value.cpu() for key, value in trained.network.state_dict().items()}
    about = {"task": task.about(), "mpp": study.store.mpp}  # what a prediction must know
    save_checkpoint(study.checkpoint_path(trial), architecture, weights, **study.identity(trial), **about)
    write_record(study.record_path(trial), record)
    (study.run_folder(trial) / "last.pt").unlink(missing_ok=True)
