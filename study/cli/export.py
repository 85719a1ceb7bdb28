"""``python -m study export``: write a trained network as files that need none of this package."""

from pathlib import Path
from typing import Annotated

import typer

from study.cli.networks import TRAINED
from study.cli.stores import check_new


def export(
    network: Annotated[str, typer.Argument(**TRAINED)],
    output: Annotated[Path, typer.Option(help="Folder for the files.", metavar="FOLDER")] = Path("runs/export"),
    formats: Annotated[
        str,
        typer.Option(
            help="Formats, separated by commas: plain (a class of torch.nn layers, and its weights), torch "
            "(torch.export) and onnx."
        ),
    ] = "plain,torch,onnx",
) -> None:
    """Export a trained network to files that need none of this package: uint8 images in, probabilities out.

    Each is compared with the network on the eight roto-reflections of an image before it is kept.
    """
    from study.cli.show import show_table
    from study.experiments.export import check_formats
    from study.experiments.export import export as write_formats
    from study.experiments.export_formats import FORMATS
    from study.networks.pretrained import read_network

    names = tuple(dict.fromkeys(formats.split(",")))
    check_formats(names)
    for name in names:
        for file in FORMATS[name].files:
            check_new(output / file)
    made = write_formats(read_network(network), network, output, names)
    lines = [
        [one.format, f"{one.size / 1e6:.2f} MB", f"{one.milliseconds:.0f} ms", f"{one.difference:.1e}"] for one in made
    ]
    side = made[0].side
    show_table(
        ["Format", "Size", f"One image of {side} x {side}", "Largest difference"],
        lines,
        f"{network}, and how far probabilities are from it in eight orientations",
    )
    for path in (path for one in made[1:] for path in one.paths):
        print(path)
