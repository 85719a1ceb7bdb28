"""``python -m study predict``: apply a trained network to a whole slide."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from study.cli.networks import TRAINED
from study.cli.slides import Mpp, SlideMpp, one_scale
from study.cli.stores import check_new


def predict(
    slide: Annotated[Path, typer.Argument(help="Slide, in any format that OpenSlide reads.", show_default=False)],
    checkpoint: Annotated[str, typer.Option(**TRAINED)],
    output: Annotated[Path, typer.Option(help="Folder for the files.", metavar="FOLDER")] = Path("runs/predictions"),
    magnification: Annotated[
        float | None,
        typer.Option(
            help="Scale as the power of the objective.",
            show_default="the scale of the training if it is known, otherwise 10",
        ),
    ] = None,
    mpp: Mpp = None,
    slide_mpp: SlideMpp = None,
    tile: Annotated[
        int, typer.Option(help="Largest side of the tiles in pixels; smaller tiles need less memory.", min=1)
    ] = 1024,
    batch_size: Annotated[int, typer.Option(help="Number of tiles in a batch.", min=1)] = 1,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Smallest probability of the foreground; of several classes, the most probable one is taken.",
            min=0,
            max=1,
            show_default="0.5",
        ),
    ] = None,
    stability: Annotated[
        bool,
        typer.Option(
            "--stability", help="Also write the mean and the standard deviation over the eight roto-reflections."
        ),
    ] = False,
) -> None:
    """Apply a trained network to a slide: maps of the classes' probabilities, an overlay, and contours for QuPath.

    In tissue, the maps equal those of the network on the whole slide at once, to rounding; elsewhere they are zero, and
    nothing is counted or painted. The slide is read at the scale of the training, if the checkpoint states it.
    """
    from study.data.slides.slide import Slide
    from study.data.slides.tissue import RULE
    from study.devices import launch_fabric
    from study.networks.checkpoint import rebuild
    from study.networks.pretrained import read_network
    from study.prediction.outputs import Outputs, predict_slide
    from study.prediction.scale import choose_view
    from study.provenance import provenance
    from study.tasks.registry import TASKS, UNNAMED, task_of_checkpoint

    started = time.perf_counter()
    one_scale(magnification, mpp, slide_mpp)
    trained = read_network(checkpoint)
    network, task = rebuild(trained, checkpoint), task_of_checkpoint(trained)
    if task is None:
        task = TASKS[UNNAMED]
        notice = f"{checkpoint} does not state its task; its foreground is called {task.name}."
        print(notice, file=sys.stderr)
    if threshold is not None:
        task = task.with_threshold(threshold)
    with Slide(slide, mpp=slide_mpp) as opened:
        view, notice = choose_view(opened, trained.get("mpp"), magnification=magnification, mpp=mpp)
        for said in filter(None, (opened.notice, notice)):
            print(said, file=sys.stderr)
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
        f"{time.perf_counter() - started:.0f} s.\n"
        f"Tissue is where the slide has {RULE}; elsewhere nothing is counted or painted."
    )
    for path in outputs.paths():
        print(path)
