"""``python -m study data``, the commands on whole slides: get them, draw some, cut patches, compare masks."""

import math
import re
from pathlib import Path
from typing import Annotated

import typer

from study.errors import StudyError

PATCHES, SIZE = 300_000, 320
"""Of the paper: how many, and their side in pixels."""

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


def one_scale(
    magnification: float | None, mpp: float | None, slide_mpp: float | None
) -> tuple[float | None, float | None]:
    """The scale that is asked for, one way or the other: 10x unless told otherwise."""
    for option, value in {"--magnification": magnification, "--mpp": mpp, "--slide-mpp": slide_mpp}.items():
        if value is not None and not 0 < value < math.inf:
            raise StudyError(f"{option} is {value}; give a positive number")
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
    address: Annotated[
        str | None,
        typer.Option("--from", help="Where to download from.", metavar="URL", show_default="the public bucket"),
    ] = None,
    patches: Annotated[int | None, typer.Option(help="How many in all.", min=1, show_default="300000")] = None,
    patch_size: Annotated[
        int | None,
        typer.Option(
            help="Side in pixels: 320 for the even grid, 321 for the paper's 3x3 pooling.", min=1, show_default="320"
        ),
    ] = None,
    magnification: Magnification = None,
    mpp: Mpp = None,
    slide_mpp: SlideMpp = None,
    masks: Annotated[str, typer.Option(help="Where the tumour is taken from.", metavar="outlines|tiff")] = "outlines",
    seed: Annotated[int | None, typer.Option(help="Of the split and of the draws.", min=0, show_default="0")] = None,
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
    from study.cli.show import show_store
    from study.data.datasets.camelyon16 import find_slides
    from study.data.extraction.download import BUCKET_URL, download
    from study.data.extraction.one_slide import Scale
    from study.data.extraction.plan import extract_store, plan, plan_again
    from study.data.patches.manifest import read_manifest
    from study.data.patches.store import SPLITS, PatchStore

    if masks not in ("outlines", "tiff"):
        raise StudyError(f"unknown masks {masks!r}; choose from outlines, tiff")
    given = {"--patches": patches, "--patch-size": patch_size, "--magnification": magnification, "--mpp": mpp}
    for option, value in (given | {"--seed": seed}).items():
        if manifest is not None and value is not None:
            raise StudyError(f"{option} and --manifest contradict each other: the manifest says it; give one of them")
    scale = Scale(patch_size or SIZE, *one_scale(magnification, mpp, slide_mpp))
    if get:
        files = download(folder, selection=slides, source=address or BUCKET_URL)
        print(f"{len(files)} files are complete in {folder}")
    if output is None:
        if not get:
            raise StudyError("nowhere to put the patches; give OUTPUT, the folder of the patch store")
        return
    found, problems = find_slides(folder, slides)
    options = {
        "source": source_of(folder, [files.name for files in found]),
        "tiff_masks": masks == "tiff",
        "slide_mpp": slide_mpp,
    }
    if manifest is not None:
        wanted = plan_again(found, read_manifest(manifest), **options)
    else:
        wanted = plan(found, scale=scale, patches=patches or PATCHES, seed=seed or 0, missing=problems, **options)
    extraction = extract_store(output, wanted, workers=workers, scheduler=scheduler)
    if extraction.patches:
        store = PatchStore(output)
        show_store(store)
        if empty := [split for split in SPLITS if split not in store.split]:
            print(f"note: there are no {' and no '.join(empty)} patches, and no training without; extract more slides")
    for name, note in extraction.notes.items():
        print(f"note: {name}: outlines: {note}")
    for name, lacking in extraction.short.items():
        print(f"note: {name} has room for {lacking} patches fewer than were drawn for it")
    list_missing(problems | extraction.failed)


def source_of(folder: Path, slides: list[str]) -> str:
    """What the slides of these names are, for people: nobody must take drawn ones for Camelyon16."""
    from study.data.datasets.miniature import MARKER, SOURCE

    if (folder / MARKER).is_file():
        return SOURCE
    return "Camelyon16" if all(re.fullmatch(r"(normal|tumor|test)_\d{3}", name) for name in slides) else "own slides"


def list_missing(missing: dict[str, str]) -> None:
    """Say which slides are missing, and why; exit with code 1 if there are any."""
    for name, reason in sorted(missing.items()):
        print(f"missing: {name}: {reason}")
    if missing:
        print(f"{len(missing)} slides are missing; mend them and run the same again: what is done stays")
        raise typer.Exit(1)


def miniature(
    folder: Annotated[Path, typer.Argument(help="A new folder for the slides.", show_default=False)],
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.", min=0)] = 0,
) -> None:
    """Draw a miniature Camelyon: slides, annotations and masks to try everything on; it says nothing about tissue."""
    from study.data.datasets.camelyon16 import find_slides
    from study.data.datasets.miniature import make_miniature

    make_miniature(folder, seed=seed, progress=True)
    print(f"{len(find_slides(folder)[0])} slides in {folder}; next:")
    print(f"python -m study data camelyon16 {folder} OUTPUT --patches 2000 --patch-size 64")


def compare_masks(
    folder: Folder,
    slides: Slides = "all",
    magnification: Magnification = None,
    mpp: Mpp = None,
    slide_mpp: SlideMpp = None,
) -> None:
    """Compare the annotations of slides with their mask TIFFs, pixel by pixel at one scale."""
    from study.data.datasets.camelyon16 import find_slides
    from study.data.slides.annotations import read_annotation
    from study.data.slides.masks import OutlineMask, TiffMask, compare
    from study.data.slides.slide import Slide

    magnification, mpp = one_scale(magnification, mpp, slide_mpp)
    found, problems = find_slides(folder, slides)
    pairs = [files for files in found if files.annotation and files.mask]
    if not pairs:
        raise StudyError(f"no slide in {folder} has both an annotation and a mask; get them")
    for files in pairs:
        try:
            with Slide(files.path, mpp=slide_mpp) as slide:
                view = slide.at(magnification=magnification, mpp=mpp)
                annotation = read_annotation(files.annotation, size=(slide.width, slide.height))
                with TiffMask(files.mask, view, partial=False) as tiff:
                    agreement = compare(OutlineMask(annotation, view, partial=False), tiff, view)
        except StudyError as error:
            problems[files.name] = str(error)
        else:
            print(f"{files.name}: {annotation.summary}\n  against the TIFF: {agreement.summary}")
    list_missing(problems)
