"""Commands on one network: ``evaluate``, ``check`` and ``convert``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from study.cli.stores import check_new
from study.errors import StudyError

TRAINED = {
    "help": "The best.pt of a trial in runs/, or the name of a pretrained network.",
    "metavar": "CHECKPOINT|NAME",
    "show_default": False,
}
"""Of the argument or the option that names a trained network."""

_MEASURES = {
    "dice": "Dice, pooled over pixels",
    "dice_per_patch": "Dice, mean over patches with foreground",
    "dice_per_case": "Dice, mean over cases with foreground",
    "iou": "Intersection over union",
    "boundary_dice": "Boundary Dice, within 2 px",
    "ece": "Expected calibration error",
}


def evaluate(
    network: Annotated[str, typer.Argument(**TRAINED)],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Data to test on, as for `reproduce`: the folder of the network's data set, or any patch store, a .h5 "
            "file or an extraction's folder. The test patches are used.",
            metavar="PATH",
            show_default="the patches that the network was trained and tested on, if they come with the package",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Number of patches in a batch.", min=1)] = 16,
) -> None:
    """Evaluate a trained network on the test patches of a store: its measures, and its stability."""
    from study.cli.show import describe, show_table
    from study.devices import launch_fabric
    from study.experiments.evaluation import summarise
    from study.experiments.records import READINGS
    from study.experiments.trials import score_patches
    from study.experiments.unseen import given_store, own_store, unseen_patches
    from study.networks.checkpoint import rebuild
    from study.networks.pretrained import read_network
    from study.tasks.registry import FOREGROUND, task_of_checkpoint
    from study.tasks.task import check_classes

    trained = read_network(network)
    made = Path("data")
    store = own_store(trained, network, made) if data is None else given_store(trained, data, made)
    rebuilt, task = rebuild(trained, network), task_of_checkpoint(trained) or FOREGROUND
    check_classes(task, store.classes, store.path)
    rebuilt.check_size(*store.size)
    test = unseen_patches(trained, store)
    fabric = launch_fabric()
    scores = summarise(score_patches(rebuilt.to(fabric.device), store, test, fabric, batch_size, task=task), task)
    # of several classes these are the means, and there is a Dice for each
    rows = _MEASURES | {f"dice_{label}": f"Dice of {name}" for label, name in task.foreground.items()}
    rows = {key: label for key, label in rows.items() if key in scores}
    lines = [[label, *(_percent(scores[reading + key]) for reading in READINGS)] for key, label in rows.items()]
    head = [f"{len(test)} test patches", "One view", "Mean of eight views"]
    show_table(head, lines, f"{network} on {describe(store)}")
    deviations = [scores[f"deviation{region}"] for region in ("", "_border", "_interior")]
    lines = [
        ["Mean standard deviation", *("–" if d is None else f"{d:.1e}" for d in deviations)],
        ["Largest standard deviation", f"{scores['deviation_max']:.1e}"],
        ["Flip rate", *(_percent(scores[f"changed{region}"]) for region in ("", "_border", "_interior"))],
    ]
    show_table(["Over the eight roto-reflections", "All pixels", "Border", "Interior"], lines)
    if data is None and "expected" in trained:
        print(f"Its model card states a Dice of {100 * trained['expected']['dice']:.2f} % in one view.")


def check(
    model: Annotated[
        str,
        typer.Argument(
            help="Name of a model, such as p4m, or of a pretrained network; or a checkpoint; or module:function, which "
            "returns any network for RGB images.",
            metavar="MODEL|NAME|CHECKPOINT|MODULE:FUNCTION",
        ),
    ],
    width: Annotated[int, typer.Option(help="Channels of the U-Net at full resolution.")] = 16,
    depth: Annotated[int, typer.Option(help="Number of poolings, 1 to 5.")] = 3,
    grid: Annotated[
        str, typer.Option(help="Grid of the network: even (2x2 pooling) or odd (the paper's 3x3).")
    ] = "even",
    size: Annotated[
        int | None, typer.Option(help="Side of the random image in pixels.", min=1, show_default="64 or 65; 224")
    ] = None,
) -> None:
    """Measure the equivariance of a model on all eight roto-reflections, before and after a few training steps.

    Of any other network, given as module:function, say which layer breaks its equivariance first, why, and what helps.
    """
    if ":" in model:
        _diagnose(model, size or 224)
        return
    import torch
    from rich.console import Console
    from rich.table import Table
    from torch import nn

    from study.bench.angles import turned_both_ways
    from study.equivariance import equivariance_errors, measure
    from study.groups import P4M
    from study.networks.checkpoint import rebuild
    from study.networks.models import MODELS
    from study.networks.pretrained import available, read_network
    from study.networks.registry import from_values
    from study.networks.unet import build_unet

    torch.manual_seed(0)
    if model in MODELS:
        architecture = MODELS[model].architecture(width=width, depth=depth, grid=grid)
        network = architecture.build()
    elif Path(model).suffix == ".pt" or model in available():
        trained = read_network(model)
        network = rebuild(trained, model)
        architecture = from_values(trained["architecture"])
    else:
        known = ", ".join([*MODELS, *available()])
        raise StudyError(f"unknown model {model!r}; choose from {known}, or give a checkpoint (.pt)")
    side = size if size is not None else network.sizes.at_least(64)
    smooth = nn.functional.interpolate(torch.randn(2, 3, 8, 8), size=(side, side), mode="bicubic")
    behind, before = turned_both_ways(network.eval(), smooth, 45)  # before `measure` trains it
    columns = measure(network, torch.randn(2, 3, side, side, dtype=torch.float64))

    promised = architecture.symmetries
    table = Table("Roto-reflection", *columns, "Promised", title=f"{model}: error relative to the largest logit")
    for g in range(P4M.order):
        cells = [f"{errors[g]:.1e}" for errors in columns.values()]
        table.add_row(_element(g), *cells, "yes" if promised[g] else "no", style=None if promised[g] else "dim")
    Console().print(table)
    worst = {
        kind: torch.stack([errors[promised].max().double() for name, errors in columns.items() if kind in name]).max()
        for kind in ("float64", "float32")
    }
    native = getattr(architecture, "implementation", "native") == "native"
    kept = worst["float64"] <= (1e-10 if native else 1e-5) and worst["float32"] <= 1e-4
    print(f"Largest promised error: {worst['float64']:.1e} in float64, {worst['float32']:.1e} in float32.")
    if not native:
        print("(escnn computes its filters in float32, which limits float64.)")
    print(
        "A turn by 45°, which is not exact on any pixel grid, changes the foreground probability by "
        f"{(behind - before).abs().mean():.1e} on average (on smooth noise)."
    )
    torch.manual_seed(0)  # the same number whatever was measured before
    literal = build_unet("p4m", width=8, grid="literal").train()
    error = equivariance_errors(literal, torch.randn(1, 3, 320, 320))[1]
    print(
        "For comparison, a P4M U-Net with the paper's 3x3 pooling taken literally, on 320 x 320, in float32: "
        f"{error:.1e} for a quarter turn."
    )
    if not kept:
        print(
            "error: the network is less equivariant than promised; please report this with the command", file=sys.stderr
        )
        raise typer.Exit(1)


def _diagnose(place: str, size: int) -> None:
    """Print what the doctor finds in the network that ``module:function`` returns."""
    import importlib

    import torch

    from study.equivariance import diagnose

    module, _, name = place.partition(":")
    sys.path.insert(0, "")  # modules of the working directory too, as in `python -m`
    try:
        network = getattr(importlib.import_module(module), name)()
    except (ImportError, ValueError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise StudyError(f"{place}: {reason}; give module:function, which returns a network") from error
    if not isinstance(network, torch.nn.Module):
        raise StudyError(f"{place} returns {type(network).__name__}; it should return a torch.nn.Module")
    torch.manual_seed(0)
    try:
        found = diagnose(network.double().eval(), torch.randn(1, 3, size, size, dtype=torch.float64))
    except RuntimeError as error:  # torch's, about shapes
        reason = " ".join(str(error).split())
        raise StudyError(f"{place} does not take {size} x {size} ({reason}); give another --size") from error
    print(found)
    if not found.equivariant:
        raise typer.Exit(1)


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="The best.pt of a trial in runs/.", show_default=False)],
    to: Annotated[str, typer.Option(help="Layers to convert to.", metavar="escnn|native")],
    basis: Annotated[
        str | None,
        typer.Option(
            help="Basis on escnn: full (exact) or escnn (its default, with the nearest filters).",
            metavar="full|escnn",
            show_default="full",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Checkpoint to write.", show_default="beside the other, named after its layers")
    ] = None,
) -> None:
    """Convert a trained network to other layers: from escnn to native ones, or from native ones to escnn."""
    from study.cli.show import show_table
    from study.networks.conversion import convert_checkpoint
    from study.networks.layer_sets import IMPLEMENTATIONS

    if to not in IMPLEMENTATIONS:
        raise StudyError(f"unknown implementation {to!r}; choose from {', '.join(IMPLEMENTATIONS)}")
    if to == "native" and basis is not None:
        raise StudyError(f"--basis {basis} is for escnn; native layers have every filter")
    if to == "escnn":
        basis = basis or "full"
    if not checkpoint.is_file():
        raise StudyError(f"no checkpoint at {checkpoint}; train one with `python -m study train`")
    kind = "native" if to == "native" else f"escnn-{basis}"
    output = output or checkpoint.with_name(f"{checkpoint.stem}-{kind}.pt")
    check_new(output)
    converted = convert_checkpoint(checkpoint, output, to=to, basis=basis)
    worst = max(converted.residuals, key=converted.residuals.get)
    if converted.residuals[worst] > 1e-4:
        lines = [[name, f"{100 * residual:.1f} %"] for name, residual in converted.residuals.items()]
        show_table(["Layer", "Lost share of the filter"], lines, f"What the basis {basis!r} cannot represent")
    print(
        f"{len(converted.residuals)} convolutions; largest residual {converted.residuals[worst]:.1e} ({worst}); "
        f"probabilities on noise differ by at most {converted.difference:.1e}.\n{output}"
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"


def _element(g: int) -> str:
    turn = "identity" if g % 4 == 0 else f"{90 * (g % 4)}°"
    return turn if g < 4 else "mirror" if g == 4 else f"mirror, {turn}"
