"""``python -m study package``: make a pretrained network of a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from study.cli.studies import Root


def package(
    checkpoint: Annotated[Path, typer.Argument(help="The best.pt of a trial, below runs/.", show_default=False)],
    name: Annotated[str, typer.Argument(help="Name of the pretrained network.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option(help="Folder for the files.", metavar="FOLDER", show_default="study/networks/weights")
    ] = None,
    root: Root = Path(),
) -> None:
    """Add a trained network to this package: weights in half precision, a model card, and a checksum.

    It is evaluated on the test patches of its trial before and after rounding, and refused if the Dice differs.
    """
    from study.devices import launch_fabric
    from study.experiments.packaging import package as write_package
    from study.networks.pretrained import WEIGHTS

    output = output or WEIGHTS
    made = write_package(checkpoint, name, output, root=root, fabric=launch_fabric())
    size, total = made.path.stat().st_size, sum(file.stat().st_size for file in output.iterdir())
    print(
        f"{made.path}: {size / 1e6:.2f} MB, {total / 1e6:.2f} MB for all pretrained networks; "
        f"Dice {100 * made.before:.3f} % before rounding, {100 * made.after:.3f} % after it"
    )
