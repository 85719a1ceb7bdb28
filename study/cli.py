"""The command line, ``python -m study``."""

import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from lightning_fabric import Fabric
from tqdm import tqdm

from study.data.patches import PatchStore
from study.data.sources import prepare
from study.errors import StudyError
from study.presets import PRESETS, Preset, find_preset, override
from study.trials import Study, read_record, run_trial

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Group-equivariant U-Nets for segmentation, compared: from images to the paper's table and figures.",
)

_PRESET_LIST = "\n\n".join(f"{name}: {preset.description}." for name, preset in PRESETS.items())

PresetName = Annotated[str, typer.Option("--preset", help=f"What to run: {', '.join(PRESETS)}.")]
Data = Annotated[
    Path | None, typer.Option(help="The EBHI-SEG folder, or a patch store (.h5) of your own.", show_default=False)
]
Settings = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the preset; may be repeated.")
]
Name = Annotated[
    str | None, typer.Option(help="Name of the folders below results/, figures/ and runs/; the preset's by default.")
]
Output = Annotated[Path, typer.Option(help="Folder that holds data/, runs/, results/ and figures/.")]
Devices = Annotated[
    int, typer.Option(help="GPUs that share each training (the CPU is used where there is none).", min=1)
]


@app.callback()
def _study_command() -> None:
    """Makes typer keep the commands apart."""


@app.command()
def reproduce(
    preset: PresetName = "quick",
    data: Data = None,
    settings: Settings = (),
    name: Name = None,
    output: Output = Path(),
    devices: Devices = 1,
    trust_results: Annotated[
        bool, typer.Option(help="Count a trial as done if its record is in results/, without its weights in runs/.")
    ] = False,
) -> None:
    """Everything: data, all trials that are not done yet, evaluation, tables and figures.

    Cut it at any moment and start it again: it goes on where it was.
    """
    study = _study(preset, data, settings, name, output)
    fabric = _fabric(study.preset, devices)
    trials = study.trials()
    todo = [trial for trial in trials if not study.is_done(trial, trust_results=trust_results)]
    _say(fabric, f"{study.name}: {study.preset.description}")
    _say(
        fabric,
        f"{len(study.store)} patches ({study.store.source}, {study.store.fingerprint}); {len(todo)} of {len(trials)} trials to run",
    )
    for n, trial in enumerate(todo, start=1):
        record = run_trial(study, trial, fabric, title=f"{n}/{len(todo)} {trial.name}")
        metrics = record["metrics"]
        _say(
            fabric,
            f"{n}/{len(todo)}  {trial}: Dice {100 * metrics['dice']:.1f} %, deviation {metrics['deviation']:.1e}, "
            f"{metrics['training_seconds']:.0f} s",
        )


def _study(preset_name: str, data: Path | None, settings: list[str], name: str | None, output: Path) -> Study:
    preset = find_preset(preset_name)
    changed = override(preset, settings)
    if name is None and changed.trial_settings() != preset.trial_settings():
        raise StudyError(
            f"--set {' '.join(settings)} makes another study of {preset_name}; give it a --name of its own"
        )
    store = prepare(changed.source, data=data, folder=output / "data", size=changed.size, count=changed.patches)
    return Study(name or preset_name, changed, store, output)


def _fabric(preset: Preset, devices: int) -> Fabric:
    fabric = Fabric(accelerator="auto", devices=devices, precision=preset.recipe.precision)
    fabric.launch()
    return fabric


def _say(fabric: Fabric, text: str) -> None:
    if fabric.is_global_zero:
        tqdm.write(text)
        sys.stdout.flush()


def main() -> None:
    """Run the command line; a user's error is one line on standard error and exit code 2."""
    try:
        app()
    except StudyError as error:
        # an error of a loader process arrives with its traceback in front
        line = str(error).strip().splitlines()[-1].removeprefix("study.errors.StudyError: ")
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
