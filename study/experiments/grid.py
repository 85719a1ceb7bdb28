"""The grid of a study's trials, and where they run: in this process, on others of this machine, or on a Dask cluster.

No number depends on the place. On a CPU every trial has one thread, so that the order of rounding does not depend on
the number of cores, and as many trials run side by side as there are cores. When a process dies, only the current epoch
of its trial is lost.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Protocol
from uuid import uuid4

import torch
from dask.system import CPU_COUNT
from distributed import Client, get_worker
from lightning_fabric import Fabric

from study.dask_client import SchedulerGone, dask_client, outcomes, reason
from study.devices import launch_fabric, one_thread
from study.errors import StudyError
from study.experiments.maps import are_maps_of, save_stability_maps
from study.experiments.records import Trial
from study.experiments.saved_maps import maps_path
from study.experiments.trials import Study, run_trial
from study.provenance import command

Report = Callable[[Trial, dict | None], None]
"""Called when a trial begins (with None), and with the row of each of its epochs."""


class Watcher(Protocol):
    """Receives the progress of the trials."""

    def progress(self, trial: Trial, row: dict | None) -> None:
        """Called when a trial begins (None), and after each epoch (with its row in the history)."""

    def finished(self, trial: Trial, record: dict) -> None: ...

    def failed(self, trial: Trial, why: str) -> None: ...


class Here:
    """This process, one trial after another; or several processes that share every training.

    Attributes:
        speaks: whether this process, of several, prints messages.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.speaks = fabric.is_global_zero

    def run(self, study: Study, trials: Sequence[Trial], report: Report, *, tensorboard: bool) -> Iterator[tuple]:
        """Run trials; yields each with its record or its exception."""
        for trial in trials:
            report(trial, None)
            try:
                with _threads(self.fabric.device):
                    outcome = run_trial(study, trial, self.fabric, log=_log(study, trial, report, tensorboard))
            except Exception as error:
                if self.fabric.world_size > 1:  # otherwise the other processes would wait for this one forever
                    raise
                outcome = error
            yield trial, outcome

    def save_maps(self, study: Study) -> None:
        if self.speaks:
            with _threads(self.fabric.device):
                save_maps(study, self.fabric.device)


class OnDask:
    """The workers of a Dask scheduler, a trial each; see :class:`Here`."""

    speaks = True

    def __init__(self, client: Client) -> None:
        self.client = client

    def run(self, study: Study, trials: Sequence[Trial], report: Report, *, tensorboard: bool) -> Iterator[tuple]:
        """See :meth:`Here.run`."""
        topic = f"trials-{uuid4().hex}"  # global on a scheduler, where another study may have such trials
        named = {trial.name: trial for trial in trials}
        self.client.subscribe_topic(topic, lambda event: report(named[event[1]["trial"]], event[1]["row"]))
        job = {"topic": topic, "typed": command(), "tensorboard": tensorboard}
        futures = {
            self.client.submit(
                _trial_on_worker, _anywhere(study), trial, **job, key=(topic, trial.name), priority=-place
            ): trial
            for place, trial in enumerate(trials)
        }
        for trial, outcome in outcomes(self.client, futures):
            if isinstance(outcome, SchedulerGone):
                raise outcome
            yield trial, outcome

    def save_maps(self, study: Study) -> None:
        future = self.client.submit(_maps_on_worker, _anywhere(study), key=f"maps-{uuid4().hex}")
        for _, outcome in outcomes(self.client, {future: study}):
            if isinstance(outcome, BaseException):
                raise StudyError(f"the stability maps were not made: {reason(outcome)}") from outcome


@contextmanager
def open_place(
    precision: str, trials: int, *, devices: int = 1, workers: int | None = None, scheduler: str | None = None
) -> Iterator[Here | OnDask]:
    """The place to run a number of trials.

    Args:
        precision: of the trainings.
        trials: their number.
        devices: number of devices that share each training.
        workers: number of processes on this machine without a GPU, each with a trial; None is one for each core.
        scheduler: address of a running Dask scheduler, as in ``tcp://host:8786``, to run on instead. Its workers must
            see the same files at the same paths.

    Raises:
        StudyError: see :func:`side_by_side`; or if no scheduler answers.
    """
    processes = side_by_side(trials, devices=devices, workers=workers, scheduler=scheduler)
    if scheduler is None and processes == 1:
        yield Here(launch_fabric(precision, devices))
    else:
        with dask_client(processes, scheduler) as client:
            yield OnDask(client)


def side_by_side(trials: int, *, devices: int = 1, workers: int | None = None, scheduler: str | None = None) -> int:
    """The number of trials that run at the same time; see :func:`open_place`.

    Raises:
        StudyError: if the arguments contradict each other or the machine, or no scheduler answers.
    """
    if devices > 1 and (workers or scheduler):
        raise StudyError("--devices is for one training on several GPUs; leave out --workers and --scheduler")
    if scheduler is not None:
        if workers:
            raise StudyError("a scheduler has workers of its own; leave out --workers or --scheduler")
        with dask_client(0, scheduler) as client:
            return max(1, len(client.nthreads()))
    if devices > 1:
        return 1
    if torch.cuda.is_available():
        if (workers or 1) > 1:
            raise StudyError("a GPU trains one trial after another; leave out --workers, or set CUDA_VISIBLE_DEVICES=")
        return 1
    return max(1, min(workers or CPU_COUNT, trials))


def run_grid(
    study: Study, todo: Sequence[Trial], place: Here | OnDask, watcher: Watcher, *, tensorboard: bool = False
) -> dict[Trial, str]:
    """Run the remaining trials of a study, then make its stability maps if they are missing or outdated.

    Returns, raises: see :func:`run_trials`.
    """
    failed = run_trials(study, todo, place, watcher, tensorboard=tensorboard)
    place.save_maps(study)
    return failed


def run_trials(
    study: Study, trials: Sequence[Trial], place: Here | OnDask, watcher: Watcher, *, tensorboard: bool = False
) -> dict[Trial, str]:
    """Run some trials of a study; the others run if one fails.

    Returns:
        The reason, in one line, for every trial that failed.

    Raises:
        StudyError: if TensorBoard is requested but not installed.
    """
    if tensorboard:
        _summary_writer()
    if place.speaks:
        for trial in set(study.trials()) - set(trials):
            study.tidy(trial)
    failed = {}
    for trial, outcome in place.run(study, trials, watcher.progress, tensorboard=tensorboard):
        if isinstance(outcome, dict):
            watcher.finished(trial, outcome)
        else:
            failed[trial] = _why(outcome)
            watcher.failed(trial, failed[trial])
    return failed


def save_maps(study: Study, device: torch.device) -> None:
    """Make the maps of Fig. 2, from the networks of the largest regime and the lowest seed that has both.

    The U-Net is the augmented one, as in the paper, if it was trained there.
    """
    fractions = sorted({trial.fraction for trial in study.trials()}, reverse=True)
    for fraction, seed, model in product(fractions, study.seeds_here(), ("unet-aug", "unet")):
        pair = [Trial(model, fraction, seed), Trial("p4m", fraction, seed)]
        if all(study.has_weights(trial) and not study.has_diverged(trial) for trial in pair):
            path = maps_path(study.root, study.name)
            unet, p4m = map(study.checkpoint_path, pair)
            if not are_maps_of(path, study.store, unet=unet, p4m=p4m):
                test = study.split(pair[0]).test
                save_stability_maps(path, study.store, test, unet=unet, p4m=p4m, device=device, task=study.task)
            return


_ONE_AT_A_TIME = Lock()
"""For workers with several threads: the random state of a training belongs to the whole process."""


def _trial_on_worker(study: Study, trial: Trial, *, topic: str, typed: str, tensorboard: bool) -> dict:
    worker = get_worker()
    task = worker.get_current_task()

    def report(trial: Trial, row: dict | None) -> None:
        worker.log_event(topic, {"trial": trial.name, "row": row})
        if getattr(worker.state.tasks.get(task), "state", "cancelled") == "cancelled":
            raise StudyError("the client of this trial is gone")

    if multiprocessing.current_process().daemon:  # as Dask's are by default; it may not start processes
        study = replace(study, preset=replace(study.preset, workers=0))
    with _ONE_AT_A_TIME:
        fabric = launch_fabric(study.preset.recipe.precision)
        report(trial, None)
        with _threads(fabric.device):
            return run_trial(study, trial, fabric, log=_log(study, trial, report, tensorboard), command=typed)


def _maps_on_worker(study: Study) -> None:
    device = launch_fabric().device
    with _ONE_AT_A_TIME, _threads(device):
        save_maps(study, device)


def _threads(device: torch.device):
    return one_thread() if device.type == "cpu" else nullcontext()


def _anywhere(study: Study) -> Study:
    """The study with absolute paths, for a process in another folder."""
    return replace(study, root=study.root.absolute())


def _log(study: Study, trial: Trial, report: Report, tensorboard: bool) -> Callable[[dict], None]:
    write = _tensorboard_log(study.run_folder(trial) / "tensorboard") if tensorboard else None

    def log(row: dict) -> None:
        if write:
            write(row)
        report(trial, row)

    return log


def _tensorboard_log(folder: Path) -> Callable[[dict], None]:
    writer = _summary_writer()(folder)

    def log(row: dict) -> None:
        for key in row.keys() - {"epoch"}:
            writer.add_scalar(key, row[key], row["epoch"])
        writer.flush()

    return log


def _summary_writer() -> type:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise StudyError("--tensorboard needs the package tensorboard: pip install tensorboard") from error
    return SummaryWriter


def _why(error: BaseException) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "the GPU's memory is full; give a smaller batch (--set batch_size=N and a --name)"
    return reason(error)
