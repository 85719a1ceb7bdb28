"""``python -m study package``: from a checkpoint to a pretrained network."""

from pathlib import Path
from typing import Annotated

import typer

from study.cli.studies import Root


def package(
    checkpoint: Annotated[Path, typer.Argument(help="The best.pt of a trial, below runs/.", show_default=False)],
    name: Annotated[str, typer.Argument(help="What the pretrained network is called.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option(help="Where the files go.", metavar="FOLDER", show_default="study/networks/weights")
    ] = None,
    root: Root = Path(),
) -> None:
    """Make a trained network a part of this package: weights in half precision, a card, and a checksum.

    It is evaluated on the test patches of its trial, before the rounding and after, and refused if the Dice differs.
    """
    from study.devices import launch_fabric
    from study.experiments.packaging import package as write_package
    from study.networks.pretrained import WEIGHTS

    output = output or WEIGHTS
    made = write_package(checkpoint, name, output, root=root, fabric=launch_fabric())
    size, total = made.path.stat().st_size, sum(file.stat().st_size for file in output.iterdir())
    print(
        f"{made.path}: {size / 1e6:.2f} MB, {total / 1e6:.2f} MB with all others; "
        f"Dice {100 * made.before:.3f} % before the rounding, {100 * made.after:.3f} % after"
    )
