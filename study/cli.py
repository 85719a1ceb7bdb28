"""The command line, ``python -m study``."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from lightning_fabric import Fabric
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from study.data.patches import SPLITS, PatchStore
from study.data.sources import ebhi_store, prepare, synthetic_store
from study.equivariance import equivariance_errors, measure, paper_literal_unet
from study.errors import StudyError
from study.evaluation import summarise
from study.figures import make_figures, maps_path
from study.groups import GROUPS, P4M
from study.maps import are_maps_of, save_stability_maps
from study.models import MODELS, Architecture, load_checkpoint, load_model
from study.presets import PRESETS, find_preset, override
from study.trials import Study, Trial, results_folder, run_trial, score_test_patches

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help=(
        "Group-equivariant U-Nets for segmentation, compared: from images to the paper's table and figures.\n\n"
        "Start with [bold]python -m study reproduce[/bold]: it needs no data and takes some minutes."
    ),
)
data_app = typer.Typer(no_args_is_help=True, help="Make a patch store, the one file that training reads.")
app.add_typer(data_app, name="data")

_PRESETS_HELP = "What to run.\n\n" + "\n\n".join(
    f"[bold]{name}[/bold]: {p.description}." for name, p in PRESETS.items()
)

PresetName = Annotated[str, typer.Option("--preset", help=_PRESETS_HELP, metavar="|".join(PRESETS))]
Data = Annotated[
    Path | None,
    typer.Option(help="The EBHI-SEG folder, or a patch store (.h5) of your own.", metavar="PATH", show_default=False),
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


@app.command()
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
    study = _study(preset, data, settings, name, root)
    trials = study.trials()
    todo = [trial for trial in trials if not study.is_done(trial, trust_results=trust_results)]
    replaced = sum(study.record_path(trial).is_file() for trial in todo)
    study.check_company(todo)
    fabric = _launch(study, devices)
    _say(fabric, f"{study.name}: {study.preset.description}" if name is None else f"{name}, from the preset {preset}")
    _say(fabric, f"{_describe(study.store)}; {len(todo)} of {len(trials)} trials to run")
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


@app.command()
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
    study = _study(preset, data, chosen, name, root)
    (trial,) = study.trials()
    done = study.is_done(trial)
    study.check_company([trial])
    fabric = _launch(study, devices)
    if done:
        _say(fabric, f"{trial} is done: {study.checkpoint_path(trial)}")
        return
    record = run_trial(study, trial, fabric, title=trial.name, log=_log(study, trial, fabric, tensorboard))
    _say(fabric, f"{_outcome(trial, record)}\n{study.checkpoint_path(trial)}")


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="The best.pt of a trial, below runs/.", show_default=False)],
    data: Annotated[Path, typer.Option(help="A patch store (.h5); its test patches are used.", metavar="PATH")],
    batch_size: Annotated[int, typer.Option(help="Patches at a time.", min=1)] = 16,
) -> None:
    """Dice of a trained network on the test patches of a store, and its stability under the eight roto-reflections."""
    network, store = load_model(checkpoint), PatchStore(data)
    network.grid.check(*store.size, network.depth)
    fabric = _fabric()
    scores = summarise(score_test_patches(network.to(fabric.device), store, fabric, batch_size))
    table = Table("Test patches", f"{(store.split == 'test').sum()}", title=f"{checkpoint} on {_describe(store)}")
    table.add_row("Dice, pooled over pixels", f"{100 * scores['dice']:.2f} %")
    per_patch = scores["dice_per_patch"]
    table.add_row("Dice, mean over patches with foreground", "–" if per_patch is None else f"{100 * per_patch:.2f} %")
    table.add_row("Mean standard deviation over the eight roto-reflections", f"{scores['deviation']:.1e}")
    table.add_row("Largest standard deviation", f"{scores['deviation_max']:.1e}")
    table.add_row("Pixels whose decision changes", f"{100 * scores['changed']:.2f} %")
    Console().print(table)


@app.command()
def figures(preset: PresetName = "quick", name: Name = None, root: Root = Path()) -> None:
    """Draw the tables and figures of a study again, from results/ alone."""
    if name is None:
        find_preset(preset)
    _check_name(name)
    _show_figures(root, name or preset)


@app.command()
def check(
    model: Annotated[
        str, typer.Argument(help=f"One of {', '.join(MODELS)}, or a checkpoint.", metavar="MODEL|CHECKPOINT")
    ],
    width: Annotated[int, typer.Option(help="Channels of the U-Net at full resolution.")] = 16,
    depth: Annotated[int, typer.Option(help="Number of poolings, 1 to 5.")] = 3,
    grid: Annotated[str, typer.Option(help="even (2x2 pooling) or odd (the paper's 3x3).")] = "even",
    size: Annotated[
        int | None, typer.Option(help="Side of the random image in pixels.", min=1, show_default="64 or 65")
    ] = None,
) -> None:
    """Measure how equivariant a model is: on all eight roto-reflections, before and after a few training steps."""
    torch.manual_seed(0)
    if Path(model).suffix == ".pt":
        network = load_model(model)
        architecture = Architecture(**load_checkpoint(model)["architecture"])
    elif model in MODELS:
        architecture = MODELS[model].architecture(width=width, depth=depth, grid=grid)
        network = architecture.build()
    else:
        raise StudyError(f"unknown model {model!r}; choose from {', '.join(MODELS)}, or give a checkpoint (.pt)")
    side = size if size is not None else 65 if architecture.grid == "odd" else 64
    columns = measure(network, torch.randn(2, 3, side, side, dtype=torch.float64))

    promised = GROUPS[architecture.group].order
    table = Table("Roto-reflection", *columns, "Promised", title=f"{model}: error relative to the largest logit")
    for g in range(P4M.order):
        cells = [f"{errors[g]:.1e}" for errors in columns.values()]
        table.add_row(_element(g), *cells, "yes" if g < promised else "no", style=None if g < promised else "dim")
    Console().print(table)
    worst = {
        kind: torch.stack([errors[:promised].max().double() for name, errors in columns.items() if kind in name]).max()
        for kind in ("float64", "float32")
    }
    kept = worst["float64"] <= 1e-10 and worst["float32"] <= 1e-4
    print(f"Over what is promised: {worst['float64']:.1e} in float64, {worst['float32']:.1e} in float32.")
    torch.manual_seed(0)  # the same number whatever was measured before
    literal = equivariance_errors(paper_literal_unet().train(), torch.randn(1, 3, 320, 320))[1]
    print(
        "For comparison, a P4M U-Net with the paper's 3x3 pooling taken literally, on 320 x 320, in float32: "
        f"{literal:.1e} for a quarter turn. Such sizes are refused here."
    )
    if not kept:
        print("error: the promise is broken; please report this with the command that you ran", file=sys.stderr)
        raise typer.Exit(1)


@data_app.command("synthetic")
def data_synthetic(
    output: Annotated[Path, typer.Argument(help="The patch store to write (.h5).", show_default=False)],
    size: Annotated[int, typer.Option(help="Side of the patches in pixels.")] = 64,
    count: Annotated[int, typer.Option(help="Number of patches.")] = 640,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.", min=0)] = 0,
) -> None:
    """Draw H&E-like patches with tumour nests; no score on them says anything about real tissue."""
    _check_new(output)
    _show_store(synthetic_store(output, count=count, size=size, seed=seed))


@data_app.command("ebhi")
def data_ebhi(
    folder: Annotated[Path, typer.Argument(help="The EBHI-SEG folder (figshare 21540159).", show_default=False)],
    output: Annotated[Path, typer.Argument(help="The patch store to write (.h5).", show_default=False)],
    size: Annotated[int, typer.Option(help="Side of the patches in pixels; the originals have 224.", min=1)] = 224,
) -> None:
    """Read EBHI-SEG: 2,226 H&E patches of colorectal biopsies with masks of the glands."""
    _check_new(output)
    _show_store(ebhi_store(output, folder=folder, size=size))


def _study(preset_name: str, data: Path | None, settings: list[str], name: str | None, root: Path) -> Study:
    preset = find_preset(preset_name)
    changed = override(preset, settings)
    if name is None and changed.trial_settings() != preset.trial_settings():
        raise StudyError(f"--set {' --set '.join(settings)} makes another study of {preset_name}; give it a --name")
    _check_name(name)
    store = prepare(changed.source, data=data, folder=root / "data", size=changed.size, count=changed.patches)
    own = preset.source == "synthetic" or (preset.source == "ebhi" and store.source != "EBHI-SEG")
    if name is None and data is not None and own:
        raise StudyError(
            f"{data} holds other data ({store.source}) than {preset_name} is about; give the study a --name"
        )
    return Study(name or preset_name, changed, store, root)


def _check_name(name: str | None) -> None:
    if name is not None and not re.fullmatch(r"\w[\w.-]*", name):
        raise StudyError(f"--name {name!r} cannot name a folder; use letters, digits, '.', '_' and '-'")


def _launch(study: Study, devices: int) -> Fabric:
    recipe = study.preset.recipe
    if recipe.batch_size % devices:  # said here, before there are several processes to say it
        raise StudyError(f"a batch of {recipe.batch_size} cannot be shared by {devices} devices; --set batch_size")
    return _fabric(recipe.precision, devices)


def _fabric(precision: str = "32-true", devices: int = 1) -> Fabric:
    # not "auto": Apple's GPUs lack the float64 that sums need
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        fabric = Fabric(accelerator=accelerator, devices=devices, precision=precision)
    except Exception as error:  # Fabric has many ways to say that there are fewer devices than were asked for
        raise StudyError(" ".join(str(error).split())) from error
    fabric.launch()
    return fabric


def _save_maps(study: Study, device: torch.device, *, anew: bool) -> None:
    """The maps of Fig. 2, from the networks of the largest regime and of the lowest seed that has both of them here."""
    largest = max(study.preset.fractions)
    for seed in study.seeds_here():
        pair = [Trial(model, largest, seed) for model in ("unet", "p4m")]
        if all(study.has_weights(trial) for trial in pair):
            path = maps_path(study.root, study.name)
            unet, p4m = map(study.checkpoint_path, pair)
            if anew or not are_maps_of(path, study.store, unet=unet, p4m=p4m):
                save_stability_maps(path, study.store, unet=unet, p4m=p4m, device=device)
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


def _check_new(output: Path) -> None:
    if output.exists():
        raise StudyError(f"{output} exists; choose another name, or delete it")


def _show_store(store: PatchStore) -> None:
    table = Table("Split", "Patches", "Cases", title=f"{store.path}: {_describe(store)}")
    for split in SPLITS:
        rows = store.split == split
        table.add_row(split, f"{rows.sum()}", f"{len(np.unique(store.case[rows]))}")
    Console().print(table)


def _describe(store: PatchStore) -> str:
    return f"{len(store)} patches of {store.size[0]} x {store.size[1]} ({store.source}, {store.fingerprint})"


def _outcome(trial: Trial, record: dict) -> str:
    metrics = record["metrics"]
    return (
        f"{trial}: Dice {100 * metrics['dice']:.1f} %, deviation over roto-reflections {metrics['deviation']:.1e}, "
        f"{metrics['training_seconds']:.0f} s"
    )


def _element(g: int) -> str:
    turn = "identity" if g % 4 == 0 else f"{90 * (g % 4)}°"
    return turn if g < 4 else "mirror" if g == 4 else f"mirror, {turn}"


def _say(fabric: Fabric, text: str) -> None:
    if fabric.is_global_zero:
        tqdm.write(text)
        sys.stdout.flush()


def main() -> None:
    """Run the command line; a user's error is one line on standard error and exit code 2."""
    try:
        app()
    except torch.OutOfMemoryError:
        remedy = "give a smaller batch (--set batch_size=N and a --name; for evaluate, --batch-size N)"
        print(f"error: the GPU's memory is full; {remedy}", file=sys.stderr)
        sys.exit(2)
    except StudyError as error:
        # an error of a loader process arrives with its traceback in front
        line = str(error).strip().splitlines()[-1].removeprefix("study.errors.StudyError: ")
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
