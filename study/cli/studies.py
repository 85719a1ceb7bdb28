"""Commands on a study: ``reproduce``, ``train`` and ``figures``."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from lightning_fabric import Fabric
from tqdm import tqdm

from study.cli.devices import launch_fabric
from study.cli.stores import describe
from study.data.ebhi import source_name
from study.data.sources import prepare
from study.errors import StudyError
from study.figures import make_figures, maps_path
from study.maps import are_maps_of, save_stability_maps
from study.models import MODELS
from study.presets import PRESETS, find_preset, override
from study.trials import Study, Trial, results_folder, run_trial

_PRESETS_HELP = "What to run.\n\n" + "\n\n".join(
    f"[bold]{name}[/bold]: {p.description}." for name, p in PRESETS.items()
)

PresetName = Annotated[str, typer.Option("--preset", help=_PRESETS_HELP, metavar="|".join(PRESETS))]
Data = Annotated[
    Path | None,
    typer.Option(
        help="The EBHI-SEG folder, or any patch store: a .h5 file, or the folder of an extraction.",
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


def reproduce(
    preset: PresetName = "quick",
    data: Data = None,
    settings: Settings = (),
    name: Name = None,
    root: Root = Path(),
    devices: Devices = 1,
    tensorboard: TensorBoard = False,
    trust_results: Annotated[
        bool,
        typer.Option("--trust-results", help="Skip trials whose record is in results/ even without weights in runs/."),
    ] = False,
) -> None:
    """Everything: data, all trials that are not done yet, evaluation, tables and figures.

    Cut it at any moment and start it again: it goes on where it was.
    """
    study = open_study(preset, data, settings, name, root, devices)
    trials = study.trials()
    todo = [trial for trial in trials if not study.is_done(trial, trust_results=trust_results)]
    replaced = sum(study.record_path(trial).is_file() for trial in todo)
    study.check_company(todo)
    fabric = launch_fabric(study.preset.recipe.precision, devices)
    _say(fabric, f"{study.name}: {study.preset.description}" if name is None else f"{name}, from the preset {preset}")
    _say(fabric, f"{describe(study.store)}; {len(todo)} of {len(trials)} trials to run")
    if replaced:
        _say(
            fabric,
            f"{replaced} records in {results_folder(root, study.name)} are replaced as their trials are run again",
        )
    for n, trial in enumerate(todo, start=1):
        record = run_trial(
            study, trial, fabric, title=f"{n}/{len(todo)} {trial.name}", log=_log(study, trial, fabric, tensorboard)
        )
        _say(fabric, f"{n}/{len(todo)}  {_outcome(trial, record)}")
    if fabric.is_global_zero:
        _save_maps(study, fabric.device, anew=bool(todo))
        _show_figures(root, study.name)


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
    fabric = launch_fabric(study.preset.recipe.precision, devices)
    if done:
        _say(fabric, f"{trial} is done: {study.checkpoint_path(trial)}")
        return
    record = run_trial(study, trial, fabric, title=trial.name, log=_log(study, trial, fabric, tensorboard))
    _say(fabric, f"{_outcome(trial, record)}\n{study.checkpoint_path(trial)}")


def figures(preset: PresetName = "quick", name: Name = None, root: Root = Path()) -> None:
    """Draw the tables and figures of a study again, from results/ alone."""
    if name is None:
        find_preset(preset)
    _check_name(name)
    _show_figures(root, name or preset)


def open_study(
    preset_name: str, data: Path | None, settings: list[str], name: str | None, root: Path, devices: int
) -> Study:
    preset = find_preset(preset_name)
    changed = override(preset, settings)
    if name is None and any(changed.trial_settings(m) != preset.trial_settings(m) for m in changed.models):
        raise StudyError(f"--set {' --set '.join(settings)} makes another study of {preset_name}; give it a --name")
    _check_name(name)
    batch_size = changed.recipe.batch_size
    if batch_size % devices:  # said here, before data are made and there are several processes to say it
        raise StudyError(f"a batch of {batch_size} cannot be shared by {devices} devices; --set batch_size")
    store = prepare(
        changed.source, data=data, folder=root / "data", size=changed.size, count=changed.patches, task=preset.task
    )
    own = preset.source == "miniature" or (preset.source == "ebhi" and store.source != source_name(preset.task))
    if name is None and data is not None and own:
        raise StudyError(
            f"{data} holds other data ({store.source}) than {preset_name} is about; give the study a --name"
        )
    return Study(name or preset_name, changed, store, root)


def _check_name(name: str | None) -> None:
    if name is not None and not re.fullmatch(r"\w[\w.-]*", name):
        raise StudyError(f"--name {name!r} cannot name a folder; use letters, digits, '.', '_' and '-'")


def _save_maps(study: Study, device: torch.device, *, anew: bool) -> None:
    """The maps of Fig. 2, from the networks of the largest regime and of the lowest seed that has both of them here."""
    largest = max(study.preset.fractions)
    for seed in study.seeds_here():
        pair = [Trial(model, largest, seed) for model in ("unet", "p4m")]
        if all(study.has_weights(trial) for trial in pair):
            path = maps_path(study.root, study.name)
            unet, p4m = map(study.checkpoint_path, pair)
            if anew or not are_maps_of(path, study.store, unet=unet, p4m=p4m):
                save_stability_maps(path, study.store, study.split(pair[0]).test, unet=unet, p4m=p4m, device=device)
            return


def _log(study: Study, trial: Trial, fabric: Fabric, tensorboard: bool) -> Callable[[dict], None] | None:
    if not tensorboard or not fabric.is_global_zero:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise StudyError("--tensorboard needs the package tensorboard: pip install tensorboard") from error
    writer = SummaryWriter(study.run_folder(trial) / "tensorboard")

    def log(row: dict) -> None:
        for key in row.keys() - {"epoch"}:
            writer.add_scalar(key, row[key], row["epoch"])
        writer.flush()

    return log


def _show_figures(root: Path, name: str) -> None:
    written = make_figures(root, name)
    print(f"\n{(root / 'figures' / name / 'dice_table.md').read_text()}")
    print(f"Results in {results_folder(root, name)}, {len(written)} tables and figures in {root / 'figures' / name}.")


def _outcome(trial: Trial, record: dict) -> str:
    metrics = record["metrics"]
    return (
        f"{trial}: Dice {100 * metrics['dice']:.1f} %, deviation over roto-reflections {metrics['deviation']:.1e}, "
        f"{metrics['training_seconds']:.0f} s"
    )


def _say(fabric: Fabric, text: str) -> None:
    if fabric.is_global_zero:
        tqdm.write(text)
        sys.stdout.flush()
