"""``python -m study data``, the commands on whole slides: get them, draw some, cut patches, compare masks."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from study.cli.stores import show_store
from study.data.annotations import read_annotation
from study.data.camelyon16 import find_slides
from study.data.download import BUCKET_URL, download
from study.data.extract import Scale
from study.data.manifest import read_manifest
from study.data.masks import OutlineMask, TiffMask, compare
from study.data.miniature import make_miniature
from study.data.patches import PatchStore
from study.data.slide_store import Extraction, extract_store, plan, plan_again
from study.data.slides import Slide
from study.errors import StudyError

PATCHES = 300_000
"""Of the paper."""

Folder = Annotated[
    Path,
    typer.Argument(help="The folder of slides: images/, annotations/, masks/, or all in one.", show_default=False),
]
Slides = Annotated[
    str, typer.Option(help="all, clean (without the slides known to be at fault), or names: tumor_001,normal_00*.")
]
Magnification = Annotated[
    float | None, typer.Option(help="Scale to read at, as the objective's power.", show_default="10")
]
Mpp = Annotated[float | None, typer.Option(help="Scale to read at, in micrometres per pixel instead.")]
SlideMpp = Annotated[
    float | None, typer.Option(help="Micrometres per pixel of level 0, for slides that do not say it.")
]


def one_scale(magnification: float | None, mpp: float | None) -> tuple[float | None, float | None]:
    """The scale that is asked for, one way or the other: 10x unless told otherwise."""
    if magnification is not None and mpp is not None:
        raise StudyError("--magnification and --mpp are two ways to say the same; give one of them")
    return (10.0 if magnification is None and mpp is None else magnification), mpp


def camelyon16(
    folder: Folder,
    output: Annotated[
        Path | None, typer.Argument(help="Folder of the patch store, to make or to go on with.", show_default=False)
    ] = None,
    slides: Slides = "all",
    get: Annotated[
        bool, typer.Option("--download", help="First get the slides, and only that if no OUTPUT is given.")
    ] = False,
    address: Annotated[str, typer.Option("--from", help="Where to download from.", metavar="URL")] = BUCKET_URL,
    patches: Annotated[int, typer.Option(help="How many in all.", min=1)] = PATCHES,
    patch_size: Annotated[
        int, typer.Option(help="Side in pixels: 320 for the even grid, 321 for the paper's 3x3 pooling.", min=1)
    ] = 320,
    magnification: Magnification = None,
    mpp: Mpp = None,
    slide_mpp: SlideMpp = None,
    masks: Annotated[str, typer.Option(help="Where the tumour is taken from.", metavar="outlines|tiff")] = "outlines",
    seed: Annotated[int, typer.Option(help="Of the split and of the draws.", min=0)] = 0,
    manifest: Annotated[
        Path | None, typer.Option(help="Cut the identical patches that this manifest lists, instead of drawing.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes on this machine.", min=1)] = 2,
    scheduler: Annotated[
        str | None, typer.Option(help="A Dask scheduler to run on instead, as in tcp://host:8786.", metavar="ADDRESS")
    ] = None,
) -> None:
    """Camelyon16, or your own slides with ASAP annotations: from whole slides to the paper's patches.

    Cut it at any moment and start it again: it goes on where it was. Slides that fail are listed at the end, and make
    the exit code 1; the others are done.
    """
    if masks not in ("outlines", "tiff"):
        raise StudyError(f"unknown masks {masks!r}; choose from outlines, tiff")
    scale = Scale(patch_size, *one_scale(magnification, mpp), slide_mpp)
    if get:
        files = download(folder, selection=slides, source=address)
        print(f"{len(files)} files are complete in {folder}")
    if output is None:
        if not get:
            raise StudyError("nowhere to put the patches; give OUTPUT, the folder of the patch store")
        return
    found, problems = find_slides(folder, slides)
    if manifest is not None:
        tasks = plan_again(found, read_manifest(manifest), slide_mpp=slide_mpp, tiff_masks=masks == "tiff")
    else:
        tasks = plan(found, scale=scale, patches=patches, seed=seed, tiff_masks=masks == "tiff")
    extraction = extract_store(output, tasks, source="Camelyon16", workers=workers, scheduler=scheduler)
    if extraction.patches:
        show_store(PatchStore(output))
    report(extraction, problems)


def miniature(
    folder: Annotated[Path, typer.Argument(help="A new folder for the slides.", show_default=False)],
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.", min=0)] = 0,
) -> None:
    """Draw a miniature Camelyon: slides, annotations and masks to try everything on; it says nothing about tissue."""
    make_miniature(folder, seed=seed, progress=True)
    print(f"{len(find_slides(folder)[0])} slides in {folder}; next: python -m study data camelyon16 {folder} OUTPUT")


def report(extraction: Extraction, problems: dict[str, str]) -> None:
    """Say what is missing; exit with code 1 if anything is."""
    for name, lacking in extraction.short.items():
        print(f"note: {name} has room for {lacking} patches fewer than were drawn for it")
    missing = problems | extraction.failed
    for name, reason in sorted(missing.items()):
        print(f"missing: {name}: {reason}")
    if missing:
        print(f"{len(missing)} slides are missing; mend them and run the same again, or leave them out with --slides")
        raise typer.Exit(1)


def compare_masks(
    folder: Folder,
    slides: Slides = "all",
    magnification: Magnification = None,
    mpp: Mpp = None,
    slide_mpp: SlideMpp = None,
) -> None:
    """Compare the annotations of slides with their mask TIFFs, pixel by pixel at one scale."""
    magnification, mpp = one_scale(magnification, mpp)
    found, _ = find_slides(folder, slides)
    pairs = [files for files in found if files.annotation and files.mask]
    if not pairs:
        raise StudyError(f"no slide in {folder} has both an annotation and a mask; get them")
    table = Table("Slide", "Tumour, outlines", "Tumour, TIFF", "Only outlines", "Only TIFF", "Dice")
    for files in pairs:
        with Slide(files.path, mpp=slide_mpp) as slide:
            view = slide.at(magnification=magnification, mpp=mpp)
            annotation = read_annotation(files.annotation, size=(slide.width, slide.height))
            with TiffMask(files.mask, view, partial=False) as tiff:
                agreement = compare(OutlineMask(annotation, view, partial=False), tiff, view)
        table.add_row(files.name, *agreement.cells())
    Console().print(table)
