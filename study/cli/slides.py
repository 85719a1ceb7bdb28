"""``python -m study slides``: cut patches from whole slides, and compare their masks."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from study.cli.interruption import interruptible
from study.cli.variants import variant
from study.data.datasets.data_set import DataSet
from study.data.datasets.registry import DATA_SETS
from study.errors import StudyError, notice

PATCHES, SIZE = 300_000, 320
"""Number and side, in pixels, of the paper's patches."""

Folder = Annotated[
    Path,
    typer.Argument(
        help="Folder of the slides, in images/, annotations/ and masks/, or all in one.", show_default=False
    ),
]
Slides = Annotated[
    str,
    typer.Option(
        help="all, or names and patterns: tumor_001,normal_00*; of Camelyon16 also clean: without the slides known to "
        "be at fault."
    ),
]
Of = Annotated[
    str,
    typer.Option(
        help="Kind of the slides, which decides how files belong together and what groups of outlines mean.",
        metavar="|".join(data_set.name for data_set in DATA_SETS.values() if data_set.slides is not None),
    ),
]
Group = Annotated[
    list[str],
    typer.Option(
        help="Meaning of a group (ASAP) or a class (QuPath) of outlines: tumour, excluded (cut out of the tumour) or "
        "unused. The option can be repeated.",
        metavar="NAME=KIND",
    ),
]
Magnification = Annotated[
    float | None, typer.Option(help="Scale of the patches as the power of the objective.", show_default="10")
]
Mpp = Annotated[float | None, typer.Option(help="Scale of the patches in micrometres per pixel, instead.")]
SlideMpp = Annotated[
    float | None,
    typer.Option(help="Micrometres per pixel at level 0, for slides that state none or a wrong value."),
]


def one_scale(
    magnification: float | None, mpp: float | None, slide_mpp: float | None
) -> tuple[float | None, float | None]:
    """The requested scale, as magnification or micrometres per pixel; by default 10x."""
    for option, value in {"--magnification": magnification, "--mpp": mpp, "--slide-mpp": slide_mpp}.items():
        if value is not None and not 0 < value < math.inf:
            raise StudyError(f"{option} is {value}; give a positive number")
    if magnification is not None and mpp is not None:
        raise StudyError("--magnification and --mpp both state the scale; give one of them")
    return (10.0 if magnification is None and mpp is None else magnification), mpp


@interruptible()
def extract(
    folder: Folder,
    output: Annotated[
        Path | None, typer.Argument(help="Folder of the patch store, new or interrupted.", show_default=False)
    ] = None,
    of: Of = "slides",
    slides: Slides = "all",
    get: Annotated[
        bool, typer.Option("--download", help="Download the slides first; without OUTPUT, only that.")
    ] = False,
    address: Annotated[
        str | None, typer.Option("--from", help="Address to download from.", metavar="URL", show_default="the original")
    ] = None,
    group: Group = (),
    patches: Annotated[int | None, typer.Option(help="Number of patches.", min=1, show_default="300000")] = None,
    patch_size: Annotated[
        int | None,
        typer.Option(
            help="Side of the patches in pixels: 320 for the even grid, 321 for the paper's 3x3 pooling.",
            min=1,
            show_default="320",
        ),
    ] = None,
    magnification: Magnification = None,
    mpp: Mpp = None,
    slide_mpp: SlideMpp = None,
    masks: Annotated[
        str,
        typer.Option(
            help="Source of the tumour masks: outlines, or tiff: <slide>_mask.tif, 1 tumour, 2 excluded from it, 0 the "
            "rest.",
            metavar="outlines|tiff",
        ),
    ] = "outlines",
    seed: Annotated[
        int | None, typer.Option(help="Seed of the split and of the sampling.", min=0, show_default="0")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Cut the patches that this manifest lists, instead of sampling.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Number of processes on this machine.", min=1)] = 2,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Address of a Dask scheduler to run on instead, such as tcp://host:8786.", metavar="ADDRESS"),
    ] = None,
) -> None:
    """Cut patches from whole slides with outlines, by the paper's sampling.

    The command can be interrupted at any moment and continues when it is run again. Slides that fail are listed at the
    end and make the exit code 1; the others are completed.
    """
    from study.cli.show import show_store
    from study.data.datasets.registry import source_of_slides
    from study.data.extraction.one_slide import Scale
    from study.data.extraction.plan import extract_store, plan, plan_again
    from study.data.patches.manifest import read_manifest
    from study.data.patches.schema import SPLITS
    from study.data.patches.store import PatchStore

    data_set = with_slides(of)
    rules = data_set.slides()
    groups = {**rules.groups, **parse_groups(group)}
    if masks not in ("outlines", "tiff"):
        raise StudyError(f"unknown masks {masks!r}; choose from outlines, tiff")
    given = {"--patches": patches, "--patch-size": patch_size, "--magnification": magnification, "--mpp": mpp}
    for option, value in (given | {"--seed": seed}).items():
        if manifest is not None and value is not None:
            raise StudyError(
                f"{option} and --manifest contradict each other, since the manifest states it; give one of them"
            )
    scale = Scale(patch_size or SIZE, *one_scale(magnification, mpp, slide_mpp))
    if get:
        files = data_set.download(folder, address, slides)
        print(f"{len(files)} files are complete in {folder}")
    if output is None:
        if not get:
            raise StudyError("there is no place for the patches; give OUTPUT, the folder of the patch store")
        return
    labels = {"groups": groups, "tiff_masks": masks == "tiff"}
    found, problems = rules.find(folder, slides, **labels)
    if not found:
        list_missing(problems)
    options = {"source": source_of_slides(folder, found), "slide_mpp": slide_mpp, **labels}
    if manifest is not None:
        wanted = plan_again(found, read_manifest(manifest), problems=problems, **options)
    else:
        missing = [rules.kind_of(name) for name in problems]
        wanted = plan(found, scale=scale, patches=patches or PATCHES, seed=seed or 0, missing=missing, **options)
    extraction = extract_store(output, wanted, workers=workers, scheduler=scheduler)
    if extraction.patches:
        store = PatchStore(output)
        show_store(store)
        if empty := [split for split in SPLITS if split not in store.split]:
            notice(f"there are no {' and no '.join(empty)} patches, which a training needs; extract more slides")
    for name, note in extraction.notes.items():
        notice(f"{name}: {note}")
    for name, lacking in extraction.short.items():
        notice(f"{name} has space for {lacking} patches fewer than planned")
    list_missing(problems | extraction.failed)


def with_slides(name: str) -> DataSet:
    """A data set of slides by its name."""
    names = [data_set.name for data_set in DATA_SETS.values() if data_set.slides is not None]
    if name not in names:
        raise StudyError(f"--of {name}: there are no such slides; choose from {', '.join(names)}")
    return DATA_SETS[name]


def parse_groups(given: Iterable[str]) -> dict[str, str]:
    """What ``NAME=KIND`` say that the groups and classes of outlines mean."""
    from study.data.slides.annotations import KINDS

    groups = {}
    for text in given:
        name, equals, kind = text.rpartition("=")
        if not equals or not name or kind not in KINDS:
            raise StudyError(f"--group {text!r}: give NAME=KIND, KIND being {', '.join(KINDS)}")
        groups[name] = kind
    return groups


def of_slides(data_set: DataSet) -> Callable:
    """The command that gets and extracts the slides of a data set."""
    return variant(extract, f"{data_set.about} Licence: {data_set.licence}.", of=data_set.name)


def of_drawing(data_set: DataSet) -> Callable:
    """The command that draws the slides of a data set."""

    def command(
        folder: Annotated[Path, typer.Argument(help="A new folder for the slides.", show_default=False)],
        seed: Annotated[int, typer.Option(help="Seed of the drawing.", min=0)] = 0,
    ) -> None:
        following = data_set.draw(folder, seed)
        print(f"{len(data_set.slides().find(folder, 'all')[0])} slides in {folder}; next:")
        print(following)

    command.__doc__ = data_set.about
    return command


def list_missing(missing: dict[str, str]) -> None:
    """Print the missing slides with the reasons; exit with code 1 if there are any."""
    for name, reason in sorted(missing.items()):
        print(f"missing: {name}: {reason}")
    if missing:
        print(f"{len(missing)} slides are missing; correct them and run the command again, which keeps the others")
        raise typer.Exit(1)


def compare_masks(
    folder: Folder,
    of: Of = "slides",
    slides: Slides = "all",
    group: Group = (),
    magnification: Magnification = None,
    mpp: Mpp = None,
    slide_mpp: SlideMpp = None,
) -> None:
    """Compare the annotations of slides with their mask TIFFs, pixel by pixel at one scale."""
    from study.data.slides.annotations import read_annotation
    from study.data.slides.masks import OutlineMask, TiffMask, compare
    from study.data.slides.slide import Slide

    rules = with_slides(of).slides()
    groups = {**rules.groups, **parse_groups(group)}
    magnification, mpp = one_scale(magnification, mpp, slide_mpp)
    found, problems = rules.find(folder, slides, groups=groups)
    pairs = [files for files in found if files.annotation and files.mask]
    if not found:
        list_missing(problems)
    if not pairs:
        raise StudyError(f"no slide in {folder} has both an annotation and a mask; add them")
    for files in pairs:
        try:
            with Slide(files.path, mpp=slide_mpp) as slide:
                if slide.notice:
                    notice(f"{files.name}: {slide.notice}")
                view = slide.at(magnification=magnification, mpp=mpp)
                annotation = read_annotation(files.annotation, groups=groups, size=(slide.width, slide.height))
                with TiffMask(files.mask, view, partial=False) as tiff:
                    agreement = compare(OutlineMask(annotation, view, partial=False), tiff, view)
        except StudyError as error:
            problems[files.name] = str(error)
        else:
            print(f"{files.name}: {annotation.summary}\n  against the TIFF: {agreement.summary}")
    list_missing(problems)
