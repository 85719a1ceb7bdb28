"""``python -m study predict``: a trained network on a whole slide."""

import time
from pathlib import Path
from typing import Annotated

import typer

from study.cli.slides import Magnification, Mpp, SlideMpp, one_scale
from study.cli.stores import check_new


def predict(
    slide: Annotated[Path, typer.Argument(help="Any slide that OpenSlide reads.", show_default=False)],
    checkpoint: Annotated[
        str,
        typer.Option(
            help="The best.pt of a trial, below runs/, or a pretrained network.",
            metavar="CHECKPOINT|NAME",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option(help="Where the files go.", metavar="FOLDER")] = Path("runs/predictions"),
    magnification: Magnification = None,
    mpp: Mpp = None,
    slide_mpp: SlideMpp = None,
    tile: Annotated[
        int, typer.Option(help="Largest side of the tiles in pixels; smaller takes less memory.", min=1)
    ] = 1024,
    batch_size: Annotated[int, typer.Option(help="Tiles at a time.", min=1)] = 1,
    threshold: Annotated[float, typer.Option(help="Tumour is what has a larger probability.", min=0, max=1)] = 0.5,
    stability: Annotated[
        bool, typer.Option("--stability", help="Also the mean and deviation over the eight roto-reflections.")
    ] = False,
) -> None:
    """A trained network on a slide: map of probabilities, overlay, and contours for QuPath.

    The map is what the network gives on the whole slide at once, to rounding, and zero in tiles without tissue.
    """
    from study.data.slides.slide import Slide
    from study.devices import launch_fabric
    from study.networks.models import rebuild
    from study.networks.pretrained import read_network
    from study.prediction.outputs import Outputs, predict_slide
    from study.provenance import provenance

    started = time.perf_counter()
    magnification, mpp = one_scale(magnification, mpp, slide_mpp)
    network = rebuild(read_network(checkpoint), checkpoint)
    with Slide(slide, mpp=slide_mpp) as opened:
        view = (
            opened.at(mpp=mpp)
            if mpp is not None
            else opened.at(magnification=10 if magnification is None else magnification)
        )
        outputs = Outputs.of(output, opened.name, stability=stability)
        for path in outputs.paths():
            check_new(path)
        device = launch_fabric().device
        about = {
            "slide": slide.name,
            "checkpoint": str(checkpoint),
            "mpp": view.mpp,
            "threshold": threshold,
            **provenance(device),
        }
        summary = predict_slide(
            network.to(device), view, outputs, about=about, threshold=threshold, side=tile, batch_size=batch_size
        )
    print(
        f"{opened.name} at {view.mpp:.3g} µm per pixel, {view.width} x {view.height}: tissue in "
        f"{summary.tiles_with_tissue} of {summary.tiles} tiles, probability 0 in the others.\n"
        f"{summary.tissue_area:.2f} mm² of tissue, {summary.tumour_area:.2f} mm² above {threshold:g} in "
        f"{summary.regions} regions ({summary.specks} specks left out); {time.perf_counter() - started:.0f} s."
    )
    for path in outputs.paths():
        print(path)
