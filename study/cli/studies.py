"""Commands on a study: ``reproduce``, ``train`` and ``figures``."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from study.cli.interruption import interruptible
from study.errors import StudyError
from study.experiments.presets import check_preset_name, check_study_name, descriptions, setting_keys, study_name

_PRESETS_HELP = "The study to run: a preset, or your own TOML file, written like a preset.\n\n" + "\n\n".join(
    f"[bold]{name}[/bold]: {text}." for name, text in descriptions().items()
)

MODEL = "The name of a model, such as unet-aug or p4m; an error about an unknown name lists them all."

PresetName = Annotated[
    str, typer.Option("--preset", help=_PRESETS_HELP, metavar="NAME|FILE", callback=check_preset_name)
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Data to train on: the folder of the data set, or any patch store, a .h5 file or an extraction's folder.",
        metavar="PATH",
        show_default=False,
    ),
]
Changes = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help=(
            "Change a value of the preset, as in --set seeds=0,1,2. The option can be repeated. "
            f"The keys are {', '.join(setting_keys())}."
        ),
    ),
]
Name = Annotated[
    str | None,
    typer.Option(help="Name of the study and of its folders in results/, figures/ and runs/; by default the preset's."),
]
Root = Annotated[
    Path, typer.Option(help="The folder that contains data/, runs/, results/ and figures/.", metavar="FOLDER")
]
Devices = Annotated[int, typer.Option(help="Number of GPUs that share each training.", min=1)]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Write a TensorBoard log of every epoch to runs/.")]


@interruptible()
def reproduce(
    preset: PresetName = "quick",
    data: Data = None,
    changes: Changes = (),
    name: Name = None,
    root: Root = Path(),
    workers: Annotated[
        int | None,
        typer.Option(
            help="Number of trials that run at the same time on CPUs, each in a process with one thread.",
            min=1,
            show_default="number of cores",
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Address of a Dask scheduler, such as tcp://host:8786; each of its workers runs a trial at a time.",
            metavar="ADDRESS",
        ),
    ] = None,
    devices: Devices = 1,
    tensorboard: TensorBoard = False,
    trust_results: Annotated[
        bool,
        typer.Option("--trust-results", help="Skip trials that have a record in results/ but no weights in runs/."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list the trials with their states and estimated times.")
    ] = False,
) -> None:
    """Run a whole study: prepare the data, train and evaluate the remaining trials, draw tables and figures.

    The command can be interrupted at any moment and continues when it is run again. Trials that fail are listed at the
    end and make the exit code 1; the other trials are completed.
    """
    from rich.console import Console

    from study.cli.live import LiveTable, show_outlook
    from study.cli.show import describe
    from study.devices import launch_fabric, one_thread
    from study.experiments.estimate import outlook
    from study.experiments.grid import open_place, run_grid, side_by_side
    from study.experiments.opening import open_study
    from study.experiments.records import results_folder
    from study.locks import only_one

    where = {"devices": devices, "workers": workers, "scheduler": scheduler}
    study = open_study(preset, data, changes, name, root, devices, make=not dry_run)
    trials = study.trials()
    todo = [trial for trial in trials if not study.is_done(trial, trust_results=trust_results)]
    study.check_company(todo)
    if dry_run:
        at_a_time = side_by_side(len(todo), **where)
        with one_thread():
            show_outlook(outlook(study, todo, launch_fabric().device), study, at_a_time, Console())
        return
    replaced = sum(study.record_path(trial).is_file() for trial in todo)
    with (
        open_place(study.preset.recipe.precision, len(todo), **where) as place,
        only_one(root / "runs" / study.name, "runs the study in") if place.speaks else nullcontext(),
    ):
        table = LiveTable(study, todo, Console(quiet=not place.speaks))
        table.say(f"{study.name}: {study.preset.description}" if name is None else f"{name}, from the preset {preset}")
        table.say(f"{describe(study.store)}; {len(todo)} of {len(trials)} trials to run")
        if replaced:
            results = results_folder(root, study.name)
            table.say(f"{replaced} records in {results} will be replaced: their trials run again")
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
    model: Annotated[str, typer.Argument(help=MODEL, metavar="MODEL")],
    preset: PresetName = "quick",
    fraction: Annotated[float, typer.Option(help="Share of the training data, above 0 and up to 1.")] = 1.0,
    seed: Annotated[
        int, typer.Option(help="Seed of the weights, the data regime, the order of patches and the augmentation.")
    ] = 0,
    data: Data = None,
    changes: Changes = (),
    name: Name = None,
    root: Root = Path(),
    devices: Devices = 1,
    tensorboard: TensorBoard = False,
) -> None:
    """Run one trial: train a model on a share of the data and evaluate it."""
    from rich.console import Console

    from study.cli.live import LiveTable
    from study.experiments.grid import open_place, run_trials
    from study.experiments.opening import open_study

    chosen = [*changes, f"models={model}", f"fractions={fraction}", f"seeds={seed}"]
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
    """Draw the tables and figures of a study again, or those of the benchmarks, from results/."""
    if listing:
        from rich.console import Console

        from study.cli.live import show_contents
        from study.report.writing import contents

        show_contents(contents(), Console())
        return
    if benchmarks:
        from study.report.benchmarks import draw_benchmarks

        for path in draw_benchmarks(root):
            print(path)
        return
    check_study_name(name)
    chosen = name or study_name(preset)

    from study.experiments.maps import save_pretrained_maps

    save_pretrained_maps(root, chosen)
    _show_figures(root, chosen)


def _show_figures(root: Path, name: str) -> None:
    from study.experiments.records import results_folder
    from study.report.writing import make_figures

    written = make_figures(root, name)
    print(f"\n{(root / 'figures' / name / 'dice_table.md').read_text()}")
    print(f"Results in {results_folder(root, name)}, {len(written)} tables and figures in {root / 'figures' / name}.")
