"""Commands on a study: ``reproduce``, ``train`` and ``figures``."""

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from study.cli.live import LiveTable, show_contents, show_outlook
from study.cli.show import describe
from study.data.datasets.registry import labels_of, prepare
from study.devices import launch_fabric, one_thread
from study.errors import StudyError
from study.experiments.estimate import outlook
from study.experiments.grid import open_place, run_grid, run_trials, side_by_side
from study.experiments.presets import PRESETS, find_preset, override
from study.experiments.trials import Study, results_folder
from study.networks.models import MODELS
from study.report.benchmarks import draw_benchmarks
from study.report.writing import contents, make_figures

_PRESETS_HELP = "What to run.\n\n" + "\n\n".join(
    f"[bold]{name}[/bold]: {p.description}." for name, p in PRESETS.items()
)

PresetName = Annotated[str, typer.Option("--preset", help=_PRESETS_HELP, metavar="|".join(PRESETS))]
Data = Annotated[
    Path | None,
    typer.Option(
        help="The folder of the data set, or any patch store: a .h5 file, or the folder of an extraction.",
        metavar="PATH",
        show_default=False,
    ),
]
Settings = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a value of the preset, as in --set seeds=0,1,2; repeatable."
    ),
]
Name = Annotated[
    str | None, typer.Option(help="Folder below results/, figures/ and runs/; by default the preset's name.")
]
Root = Annotated[Path, typer.Option(help="Where data/, runs/, results/ and figures/ are.", metavar="FOLDER")]
Devices = Annotated[int, typer.Option(help="GPUs that share each training; 1 is fine without a GPU.", min=1)]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Log every epoch for TensorBoard, to runs/.")]


GRACE_SECONDS = 15
"""For what runs to come to an end after Ctrl-C."""

_INTERRUPTED = "interrupted; the same command goes on where it was"


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C is no accident: it says how to go on, and ends the process in :data:`GRACE_SECONDS` at the latest.

    An interrupt that arrives in the wrong place, as in a callback of a library, is lost, and Dask may wait for its
    workers for long. Ending at once loses nothing but the epoch that was running, and workers end with this process.
    """
    timer = threading.Timer(GRACE_SECONDS, _end)
    timer.daemon = True

    def interrupt(*_) -> None:
        if timer.ident is None:  # the first Ctrl-C
            timer.start()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt) if threading.current_thread() is threading.main_thread() else None
    try:
        yield
    except BaseException as error:
        if not _was_interrupted(error):
            raise
        print(_INTERRUPTED, file=sys.stderr)
        raise typer.Exit(130) from error
    else:
        timer.cancel()
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def _end() -> None:
    print(_INTERRUPTED, file=sys.stderr, flush=True)
    os._exit(130)


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether it began with Ctrl-C: what was just starting then, as Dask's processes, may fail over it."""
    return error is not None and (isinstance(error, KeyboardInterrupt) or _was_interrupted(error.__context__))


@interruptible()
def reproduce(
    preset: PresetName = "quick",
    data: Data = None,
    settings: Settings = (),
    name: Name = None,
    root: Root = Path(),
    workers: Annotated[
        int | None,
        typer.Option(
            help="Trials at a time, in processes of this machine with one thread each; for CPUs.",
            min=1,
            show_default="the cores",
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="A Dask scheduler, as in tcp://host:8786: a trial per worker.", metavar="ADDRESS"),
    ] = None,
    devices: Devices = 1,
    tensorboard: TensorBoard = False,
    trust_results: Annotated[
        bool,
        typer.Option("--trust-results", help="Skip trials whose record is in results/ even without weights in runs/."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list the trials, with their states and a guess of their times.")
    ] = False,
) -> None:
    """Everything: data, all trials that are not done yet, evaluation, tables and figures.

    Cut it at any moment and start it again: it goes on where it was. Trials that fail are listed at the end, and make
    the exit code 1; the others are done.
    """
    where = {"devices": devices, "workers": workers, "scheduler": scheduler}
    study = open_study(preset, data, settings, name, root, devices, make=not dry_run)
    trials = todo = study.trials()
    if study.store is not None:
        todo = [trial for trial in trials if not study.is_done(trial, trust_results=trust_results)]
        study.check_company(todo)
    if dry_run:
        at_a_time = side_by_side(len(todo), **where)
        with one_thread():
            show_outlook(outlook(study, todo, launch_fabric().device), study, at_a_time, Console())
        return
    replaced = sum(study.record_path(trial).is_file() for trial in todo)
    with open_place(study.preset.recipe.precision, len(todo), **where) as place:
        table = LiveTable(study, todo, Console(quiet=not place.speaks))
        table.say(f"{study.name}: {study.preset.description}" if name is None else f"{name}, from the preset {preset}")
        table.say(f"{describe(study.store)}; {len(todo)} of {len(trials)} trials to run")
        if replaced:
            results = results_folder(root, study.name)
            table.say(f"{replaced} records in {results} are replaced as their trials are run again")
        with table:
            failed = run_grid(study, todo, place, table, tensorboard=tensorboard)
        if place.speaks and any(study.record_path(trial).is_file() for trial in trials):
            _show_figures(root, study.name)
    if failed:
        for trial, why in failed.items():
            print(f"failed: {trial}: {why}", file=sys.stderr)
        raise typer.Exit(1)


@interruptible()
def train(
    model: Annotated[str, typer.Argument(help=f"One of {', '.join(MODELS)}.", metavar="|".join(MODELS))],
    preset: PresetName = "quick",
    fraction: Annotated[float, typer.Option(help="Share of the training patches, above 0 and up to 1.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the weights, the data regime, the order and the augmentation.")] = 0,
    data: Data = None,
    settings: Settings = (),
    name: Name = None,
    root: Root = Path(),
    devices: Devices = 1,
    tensorboard: TensorBoard = False,
) -> None:
    """One trial: train a model on a share of the data, and evaluate it."""
    chosen = [*settings, f"models={model}", f"fractions={fraction}", f"seeds={seed}"]
    study = open_study(preset, data, chosen, name, root, devices)
    (trial,) = study.trials()
    done = study.is_done(trial)
    study.check_company([trial])
    with open_place(study.preset.recipe.precision, 1, devices=devices) as place:
        table = LiveTable(study, [trial], Console(quiet=not place.speaks))
        if done:
            table.say(f"{trial} is done: {study.checkpoint_path(trial)}")
            return
        with table:
            failed = run_trials(study, [trial], place, table, tensorboard=tensorboard)
        if failed:
            raise StudyError(failed[trial])
        table.say(f"{study.checkpoint_path(trial)}")


def figures(
    preset: PresetName = "quick",
    name: Name = None,
    root: Root = Path(),
    benchmarks: Annotated[
        bool, typer.Option("--benchmarks", help="Draw the tables and figures of the benchmarks instead.")
    ] = False,
    listing: Annotated[bool, typer.Option("--list", help="Only list the tables and figures of a study.")] = False,
) -> None:
    """Draw the tables and figures of a study again, or those of the benchmarks, from results/ alone."""
    if listing:
        show_contents(contents(), Console())
        return
    if benchmarks:
        for path in draw_benchmarks(root):
            print(path)
        return
    if name is None:
        find_preset(preset)
    _check_name(name)
    _show_figures(root, name or preset)


def open_study(
    preset_name: str,
    data: Path | None,
    settings: list[str],
    name: str | None,
    root: Path,
    devices: int,
    make: bool = True,
) -> Study:
    """The study that a command is about: a preset, changed by ``--set``, on its data, which are made if need be.

    Args:
        preset_name, data, settings, name, root, devices: of the command line.
        make: the data, if they are not there yet; else the study has no store then.

    Raises:
        StudyError: if a setting or the name is wrong, the data cannot be made, or they or the settings are not the
            preset's and the study has no name of its own.
    """
    preset = find_preset(preset_name)
    changed = override(preset, settings)
    if name is None and any(changed.trial_settings(m) != preset.trial_settings(m) for m in changed.models):
        raise StudyError(f"--set {' --set '.join(settings)} makes another study of {preset_name}; give it a --name")
    _check_name(name)
    batch_size = changed.recipe.batch_size
    if batch_size % devices:  # said here, before data are made and there are several processes to say it
        raise StudyError(f"a batch of {batch_size} cannot be shared by {devices} devices; --set batch_size")
    store = prepare(
        changed.source,
        data=data,
        folder=root / "data",
        size=changed.size,
        count=changed.patches,
        task=preset.task,
        make=make,
    )
    about = labels_of(preset.source, preset.task)
    if name is None and store is not None and about is not None and about.source != store.source:
        raise StudyError(
            f"{data} holds other data ({store.source}) than {preset_name} is about; give the study a --name"
        )
    return Study(name or preset_name, changed, store, root)


def _check_name(name: str | None) -> None:
    if name is not None and not re.fullmatch(r"\w[\w.-]*", name):
        raise StudyError(f"--name {name!r} cannot name a folder; use letters, digits, '.', '_' and '-'")


def _show_figures(root: Path, name: str) -> None:
    written = make_figures(root, name)
    print(f"\n{(root / 'figures' / name / 'dice_table.md').read_text()}")
    print(f"Results in {results_folder(root, name)}, {len(written)} tables and figures in {root / 'figures' / name}.")
