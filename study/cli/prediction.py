"""``python -m study predict``: a trained network on a whole slide."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from study.cli.slides import Mpp, SlideMpp, one_scale
from study.cli.stores import check_new
from study.data.slides.slide import Slide
from study.devices import launch_fabric
from study.networks.checkpoint import rebuild
from study.networks.pretrained import read_network
from study.prediction.outputs import Outputs, predict_slide
from study.prediction.scale import choose_view
from study.prediction.slide import SIDE
from study.provenance import provenance
from study.tasks.registry import TASKS, UNNAMED, task_of_checkpoint


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
    magnification: Annotated[
        float | None,
        typer.Option(
            help="Scale to read at, as the objective's power.", show_default="the scale of the training, if it is known"
        ),
    ] = None,
    mpp: Mpp = None,
    slide_mpp: SlideMpp = None,
    tile: Annotated[
        int, typer.Option(help="Largest side of the tiles in pixels; smaller takes less memory.", min=1)
    ] = SIDE,
    batch_size: Annotated[int, typer.Option(help="Tiles at a time.", min=1)] = 1,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Found is what has a larger probability; of several classes, the largest decides.",
            min=0,
            max=1,
            show_default="0.5",
        ),
    ] = None,
    stability: Annotated[
        bool, typer.Option("--stability", help="Also the mean and deviation over the eight roto-reflections.")
    ] = False,
) -> None:
    """A trained network on a slide: maps of the classes' probabilities, overlay, and contours for QuPath.

    The maps are what the network gives on the whole slide at once, to rounding, and zero in tiles without tissue. The
    slide is read at the scale that the network was trained at, if its checkpoint knows it.
    """
    started = time.perf_counter()
    one_scale(magnification, mpp, slide_mpp)
    trained = read_network(checkpoint)
    network, task = rebuild(trained, checkpoint), task_of_checkpoint(trained)
    if task is None:
        task = TASKS[UNNAMED]
        notice = f"{checkpoint} does not say what it was trained for; what it finds is called {task.name}."
        print(notice, file=sys.stderr)
    if threshold is not None:
        task = task.with_threshold(threshold)
    with Slide(slide, mpp=slide_mpp) as opened:
        view, notice = choose_view(opened, trained.get("mpp"), magnification=magnification, mpp=mpp)
        if notice:
            print(notice, file=sys.stderr)
        outputs = Outputs.of(output, opened.name, task, stability=stability)
        for path in outputs.paths():
            check_new(path)
        device = launch_fabric().device
        about = {
            "slide": slide.name,
            "checkpoint": str(checkpoint),
            "mpp": view.mpp,
            **({"threshold": task.threshold} if task.outputs == 1 else {}),
            "task": task.about(),
            **provenance(device),
        }
        summary = predict_slide(
            network.to(device), view, outputs, task=task, about=about, side=tile, batch_size=batch_size
        )
    found = ", ".join(f"{one.area:.2f} mm² {task.rule} in {one.regions} regions of {one.name}" for one in summary.found)
    print(
        f"{opened.name} at {view.mpp:.3g} µm per pixel, {view.width} x {view.height}: tissue in "
        f"{summary.tiles_with_tissue} of {summary.tiles} tiles, probability 0 in the others.\n"
        f"{summary.tissue_area:.2f} mm² of tissue, {found} ({summary.specks} specks left out); "
        f"{time.perf_counter() - started:.0f} s."
    )
    for path in outputs.paths():
        print(path)
