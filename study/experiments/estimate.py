"""The remaining trials of a study and their estimated times, before anything is trained."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

import torch

from study.experiments.presets import PRECISIONS, Preset
from study.experiments.records import Trial, as_today, read_record, record_files, results_folder
from study.experiments.training import epochs_done
from study.experiments.trials import Study
from study.networks.models import MODELS
from study.networks.steps import inference, training_step
from study.provenance import hardware
from study.timing import time_in_turn

TIMED_PATCHES = 8
"""Patches in a step that is timed on a CPU, where the time is proportional to them; a GPU needs whole batches."""


@dataclass(frozen=True)
class Cost:
    """Seconds of the training and of the evaluation of one trial, and what the estimate rests on."""

    training: float
    evaluation: float
    basis: str


@dataclass(frozen=True)
class Outlook:
    """One trial before it runs.

    Attributes:
        trial: the trial.
        done: whether it is complete.
        epochs: completed epochs of its training.
        seconds: estimated remaining time.
        basis: what the estimate rests on; empty for a completed trial.
    """

    trial: Trial
    done: bool
    epochs: int
    seconds: float
    basis: str


def outlook(study: Study, todo: Iterable[Trial], device: torch.device) -> list[Outlook]:
    """All trials of a study on ``device``, of which ``todo`` have to run; the data may be missing yet."""
    todo, costs = set(todo), {}
    found = []
    for trial in study.trials():
        if trial not in todo:
            found.append(Outlook(trial, True, study.preset.recipe.epochs, 0.0, ""))
            continue
        if trial.model not in costs:
            costs[trial.model] = recorded_cost(study, trial, device) or timed_cost(study, trial, device)
        cost, epochs = costs[trial.model], epochs_done(study.run_folder(trial))
        share = 1 - epochs / study.preset.recipe.epochs
        found.append(Outlook(trial, False, epochs, share * cost.training + cost.evaluation, cost.basis))
    return found


def together(seconds: Iterable[float], workers: int) -> float:
    """Seconds until all trials are complete, if each worker takes the next trial when it is free."""
    free = [0.0] * max(1, workers)
    for duration in seconds:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


def recorded_cost(study: Study, trial: Trial, device: torch.device) -> Cost | None:
    """The cost of trials of the same model and settings on such a machine, from the records of this study."""
    records = [read_record(path) for path in record_files(results_folder(study.root, study.name))]
    same = [
        record["metrics"]
        for record in records
        if record["trial"]["model"] == trial.model
        and as_today(record, study.preset.task)["settings"] == study.preset.trial_settings(trial.model)
        and record["provenance"]["hardware"] == hardware(device)
    ]
    if not same:
        return None
    training, evaluation = (median(m.get(f"{part}_seconds", 0) for m in same) for part in ("training", "evaluation"))
    return Cost(training, evaluation, f"{len(same)} record{'s' * (len(same) > 1)}")


def timed_cost(study: Study, trial: Trial, device: torch.device) -> Cost:
    """The cost from a few steps of this model, timed here on noise, times their number.

    Without data, validation and evaluation are left out.
    """
    preset, recipe = study.preset, study.preset.recipe
    step, forward = _seconds_per_patch(preset, trial.model, device)
    trained = recipe.epochs * recipe.batches_per_epoch * recipe.batch_size
    watched = evaluated = 0
    if study.store is not None:
        parts = study.split(trial)
        watched = recipe.epochs * len(parts.validation)
        evaluated = 8 * len(parts.test)  # roto-reflections of every patch
    return Cost(step * trained + forward * watched, forward * evaluated, "timed here")


def _seconds_per_patch(preset: Preset, model: str, device: torch.device) -> tuple[float, float]:
    """Seconds per patch of a training step, and of a forward pass."""
    recipe = preset.recipe
    batch = recipe.batch_size if device.type == "cuda" else min(recipe.batch_size, TIMED_PATCHES)
    network = MODELS[model].architecture(**recipe.network).build().to(device)
    images = torch.randn(batch, 3, preset.size, preset.size, device=device)
    jobs = {"step": training_step(network.train(), images, PRECISIONS[recipe.precision])}
    step = time_in_turn(jobs, rounds=3, device=device).step.median()
    jobs = {"forward": inference(network.eval(), images, "float32")}
    forward = time_in_turn(jobs, rounds=3, device=device).forward.median()
    return step / batch, forward / batch
