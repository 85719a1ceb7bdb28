"""``python -m study data``: make a patch store of images."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from study.cli.interruption import interruptible
from study.cli.variants import variant
from study.data.datasets.data_set import DataSet
from study.errors import StudyError


def of_images(data_set: DataSet) -> Callable:
    """The command that reads the folder of a data set of images."""

    @interruptible()
    def command(
        folder: Annotated[Path, typer.Argument(help=f"{data_set.needs[:1].upper()}{data_set.needs[1:]}.")],
        output: Annotated[
            Path | None, typer.Argument(help="The patch store to write (.h5).", show_default=False)
        ] = None,
        get: Annotated[
            bool, typer.Option("--download", help="Download the data set first; without OUTPUT, only that.")
        ] = False,
        address: Annotated[
            str | None,
            typer.Option("--from", help="Address to download from.", metavar="URL", show_default="the original"),
        ] = None,
        size: Annotated[int, typer.Option(help="Side of the patches in pixels.", min=1)] = data_set.size,
        task: Annotated[
            str, typer.Option(help="The task, which decides the foreground.", metavar="|".join(data_set.labels))
        ] = next(iter(data_set.labels)),
        pack: Annotated[
            Path | None,
            typer.Option(help="Write the reduced archive that comes with the package.", metavar="FILE"),
        ] = None,
    ) -> None:
        from study.cli.show import show_store
        from study.files import sha256_of

        if output is None and pack is None and not get:
            raise StudyError("there is no place for the patches; give OUTPUT, the patch store to write (.h5)")
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

    if data_set.download is not None:
        command.__doc__ = "A download can be interrupted at any moment and continues when the command is run again."
    absent = {"pack": None} if data_set.pack is None else {}
    absent |= {"get": False, "address": None} if data_set.download is None else {}
    absent |= {"task": ""} if len(data_set.labels) == 1 else {}
    return variant(command, f"{data_set.about} Licence: {data_set.licence}.", **absent)


def folder(
    images: Annotated[Path, typer.Argument(help="Folder of the images.", show_default=False)],
    masks: Annotated[
        Path,
        typer.Argument(
            help="Folder of the masks, which have the names of the images except for the ending.", show_default=False
        ),
    ],
    output: Annotated[Path, typer.Argument(help="The patch store to write (.h5).", show_default=False)],
    size: Annotated[int, typer.Option(help="Side of the patches in pixels; images are cut and padded to it.", min=1)],
    values: Annotated[
        str,
        typer.Option(
            help="Values in the masks: background and foreground as 0/1 or 0/255; or the numbers of the classes, as "
            "indices of a palette or as labels (grey levels), with 255 for unlabelled pixels.",
            metavar="0/1|0/255|palette|labels",
        ),
    ],
    case: Annotated[
        str | None,
        typer.Option(
            help="Regular expression that finds the case (patient) in the name of an image without the ending; its "
            "first group, if it has one. '.+' makes every image a case.",
            metavar="REGEX",
        ),
    ] = None,
    cases: Annotated[
        Path | None, typer.Option(help="CSV file of the cases, with the columns file,case, instead.", metavar="FILE")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Names of the classes 0, 1, ..., the background first.",
            metavar="NAME,NAME,...",
            show_default="background,foreground",
        ),
    ] = None,
    mpp: Annotated[
        float | None,
        typer.Option(help="Micrometres per pixel of the images; `predict` reads slides at this scale."),
    ] = None,
    title: Annotated[str, typer.Option(help="Name of the images in tables and figures.")] = "own images",
) -> None:
    """Make a patch store of your own images and masks.

    Images of any size are cut into patches without overlap and never resized. Parts of patches beyond the image are
    white, and unlabelled in the mask. All patches of a case are in one of training, validation and test.
    """
    from study.cli.show import show_store
    from study.data.datasets.image_folder import case_pattern, case_table, write_folder
    from study.data.patches.schema import CLASSES

    check_new(output)
    if (case is None) == (cases is None):
        raise StudyError(
            "the cases are unknown; give either --case REGEX or --cases FILE (--case '.+' makes every image a case)"
        )
    if classes is None and values in ("palette", "labels"):
        raise StudyError(f"the names of the {values} are unknown; give --classes, such as background,gland,stroma")
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
