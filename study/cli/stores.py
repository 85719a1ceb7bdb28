"""``python -m study data``: make a patch store of images, from which networks are trained."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from study.cli.variants import variant
from study.data.datasets.data_set import DataSet
from study.errors import StudyError


def of_images(data_set: DataSet) -> Callable:
    """The command that reads the folder of a data set of images."""

    def command(
        folder: Annotated[Path, typer.Argument(help=f"{data_set.needs[:1].upper()}{data_set.needs[1:]}.")],
        output: Annotated[
            Path | None, typer.Argument(help="The patch store to write (.h5).", show_default=False)
        ] = None,
        get: Annotated[
            bool, typer.Option("--download", help="First get the data set, and only that if no OUTPUT is given.")
        ] = False,
        address: Annotated[
            str | None,
            typer.Option("--from", help="Where to download from.", metavar="URL", show_default="the original"),
        ] = None,
        size: Annotated[int, typer.Option(help="Side of the patches in pixels.", min=1)] = data_set.size,
        task: Annotated[str, typer.Option(help="What is foreground.", metavar="|".join(data_set.labels))] = next(
            iter(data_set.labels)
        ),
        pack: Annotated[
            Path | None,
            typer.Option(help="Write the reduced archive, as it comes with this package.", metavar="FILE"),
        ] = None,
    ) -> None:
        """Cut a download at any moment and start it again: it goes on where it was."""
        from study.cli.show import show_store
        from study.files import sha256_of

        if output is None and pack is None and not get:
            raise StudyError("nowhere to put the patches; give OUTPUT, the patch store to write (.h5)")
        for path in (output, pack):
            if path is not None:
                check_new(path)
        if get:
            files = data_set.download(folder, address, "all")
            print(f"{len(files)} images and labels are complete in {folder}")
        if pack is not None:
            data_set.pack(folder, pack)
            print(f"{pack}: {pack.stat().st_size / 1e6:.1f} MB, SHA-256 {sha256_of(pack)}")
        if output is not None:
            show_store(data_set.store(output, folder, size=size, task=task))

    absent = {"pack": None} if data_set.pack is None else {}
    absent |= {"get": False, "address": None} if data_set.download is None else {}
    absent |= {"task": ""} if len(data_set.labels) == 1 else {}
    return variant(command, f"{data_set.about} Licence: {data_set.licence}.", **absent)


def folder(
    images: Annotated[Path, typer.Argument(help="The folder of images.", show_default=False)],
    masks: Annotated[
        Path, typer.Argument(help="The folder of masks, named as the images but for the ending.", show_default=False)
    ],
    output: Annotated[Path, typer.Argument(help="The patch store to write (.h5).", show_default=False)],
    size: Annotated[int, typer.Option(help="Side of the patches in pixels. Images are cut and padded to it.", min=1)],
    values: Annotated[
        str,
        typer.Option(
            help="What the values in masks are: background and foreground, as 0/1 or 0/255; or the numbers of the "
            "classes, as places in a palette or as labels (grey levels), with 255 where nobody labelled.",
            metavar="0/1|0/255|palette|labels",
        ),
    ],
    case: Annotated[
        str | None,
        typer.Option(
            help="The case (patient) of an image: a regular expression that finds it, or whose first group does, in "
            "the name without the ending. '.+' makes every image a case.",
            metavar="REGEX",
        ),
    ] = None,
    cases: Annotated[
        Path | None, typer.Option(help="The cases in a CSV file with the columns file,case instead.", metavar="FILE")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="The names of the classes 0, 1, ..., the background first.",
            metavar="NAME,NAME,...",
            show_default="background,foreground",
        ),
    ] = None,
    mpp: Annotated[
        float | None,
        typer.Option(help="Micrometres per pixel of the images: the scale at which `predict` reads slides later."),
    ] = None,
    title: Annotated[str, typer.Option(help="What tables and figures call the images.")] = "own images",
) -> None:
    """Your own images and masks, without any Python.

    Images of any size are cut into patches without overlap, never resized. What of a patch lies beyond the image is
    white, and unlabelled in the mask. All patches of a case go to one of training, validation and test.
    """
    from study.cli.show import show_store
    from study.data.datasets.image_folder import case_pattern, case_table, write_folder
    from study.data.patches.schema import CLASSES

    check_new(output)
    if (case is None) == (cases is None):
        raise StudyError(
            "which images are of one case? Give either --case REGEX or --cases FILE; --case '.+' makes every image one"
        )
    if classes is None and values in ("palette", "labels"):
        raise StudyError(f"what are the {values}? Give --classes, their names: background,gland,stroma")
    names = CLASSES if classes is None else tuple(name.strip() for name in classes.split(","))
    if mpp is not None and not 0 < mpp < math.inf:
        raise StudyError(f"--mpp is {mpp}; give a positive number")
    rule = case_pattern(case) if cases is None else case_table(cases)
    options = {"size": size, "values": values, "classes": names, "case_of": rule, "mpp": mpp, "source": title}
    made = write_folder(output, images, masks, **options)
    show_store(made.store)
    print(f"classes: {', '.join(names)}; {100 * made.padding:.0f} % of the pixels are padding beyond the images")
    print(f"python -m study reproduce --preset quick --data {output} --set size={size} --name NAME")


def check_new(output: Path) -> None:
    if output.exists():
        raise StudyError(f"{output} exists; choose another name, or delete it")
