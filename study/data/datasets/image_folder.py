"""A folder of images and one of masks, of anybody's, as a patch store: `python -m study data folder` without Python.

Images of any size are cut, never resized: a grid of patches without overlap lies around the middle of the image, as
many as cover it. What of the grid reaches beyond the image is white there, and unlabelled in the mask, so that every
pixel of the image counts once and no other.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from study.data.datasets.data_set import SPLIT_SEED, digest_of
from study.data.datasets.image_pairs import pairs_of
from study.data.datasets.pixels import VALUES, read_both, size_of
from study.data.patches.schema import CLASSES, Patch, is_foreground
from study.data.patches.splits import split_by_case
from study.data.patches.store import PatchStore, write_patches
from study.errors import StudyError
from study.tasks.labels import IGNORE
from study.tasks.task import Task

WHITE = 255
"""Of an image where there is none, as beyond the border of a slide."""


class FolderStore(NamedTuple):
    """A store, and the share of its pixels that lie beyond the images."""

    store: PatchStore
    padding: float


def write_folder(
    path: Path,
    images: Path,
    masks: Path,
    *,
    size: int,
    case_of: Callable[[Path], str],
    values: str,
    classes: Sequence[str] = CLASSES,
    mpp: float | None = None,
    source: str = "own images",
) -> FolderStore:
    """Write the patch store of two folders, whose files are paired by name without the ending.

    Args:
        path: of the store, one file.
        images, masks: the folders.
        size: side of the patches in pixels.
        case_of: the patient of an image, from its file: :func:`case_pattern` or :func:`case_table`.
        values: what the values in masks are, one of :data:`~study.data.datasets.pixels.VALUES`.
        classes: their names, the background first.
        mpp: micrometres per pixel of the images, if they are known.
        source: what stores and results call the patches.

    Raises:
        StudyError: naming what is at fault, a file or a value, and the remedy; or if there are too few cases, or no
            pixel of any mask is foreground.
    """
    _check_classes(values, classes)
    for folder in (images, masks):
        if not folder.is_dir():
            raise StudyError(f"no folder at {folder}; give one of images and one of masks")
    pairs = pairs_of(images, masks)
    if not pairs:
        raise StudyError(f"no images in {images}; give a folder of images and one of masks")
    sizes = [size_of(image) for image, _ in pairs]
    tiles = [-(-width // size) * -(-height // size) for width, height in sizes]
    cases = [case_of(image) for image, _ in pairs]
    recipe = {
        **{"source": source, "size": size, "values": values, "classes": list(classes), "cases": cases, "mpp": mpp},
        **{"images": digest_of(images, (image for image, _ in pairs))},
        **{"masks": digest_of(masks, (mask for _, mask in pairs))},
    }
    patches = _patches(pairs, cases, size, values, classes)
    split = split_by_case(np.repeat(cases, tiles), seed=SPLIT_SEED)
    write_patches(path, patches, split, source=source, recipe=recipe, classes=classes, mpp=mpp)
    return FolderStore(PatchStore(path), 1 - sum(width * height for width, height in sizes) / (sum(tiles) * size**2))


def _check_classes(values: str, classes: Sequence[str]) -> None:
    if values not in VALUES:
        raise StudyError(f"unknown values {values!r} of masks; choose from {', '.join(VALUES)}")
    count = len(Task("own", tuple(classes)).classes)  # refuses names that are no names
    if values in ("0/1", "0/255") and count != 2:
        raise StudyError(f"{values} has 2 classes, not {count}; name them both, the background first")


def _patches(
    pairs: Sequence[tuple[Path, Path]], cases: Sequence[str], size: int, values: str, classes: Sequence[str]
) -> Iterator[Patch]:
    some = False
    for (image_file, mask_file), case in zip(pairs, cases, strict=True):
        image, mask = read_both(image_file, mask_file, values, len(classes))
        for tile, labels in zip(cover(image, size, WHITE), cover(mask, size, IGNORE), strict=True):
            if (labels != IGNORE).any():  # there is nothing to learn or to test where nobody labelled
                some |= bool(is_foreground(labels).any())
                yield Patch(tile, labels, case=case, slide=image_file.stem)
    if not some:
        masks, names = pairs[0][1].parent, " or ".join(classes[1:])
        raise StudyError(f"no mask in {masks} has a pixel of {names}; check that {values} is what their values are")


def cover(pixels: NDArray[np.uint8], size: int, beyond: int) -> NDArray[np.uint8]:
    """Cut an image into tiles that cover it, ``(H, W, ...)`` -> ``(N, size, size, ...)``, row by row.

    Args:
        pixels: of the image.
        size: side of the tiles.
        beyond: the value of what they have beyond the image, equally much on opposite sides (to a pixel).
    """
    height, width, *channels = pixels.shape
    rows, columns = -(-height // size), -(-width // size)
    lacking = (rows * size - height, columns * size - width)
    margins = [(n // 2, n - n // 2) for n in lacking] + [(0, 0)] * len(channels)
    padded = np.pad(pixels, margins, constant_values=beyond)
    tiles = padded.reshape(rows, size, columns, size, *channels)  # (rows * size, columns * size, ...) before
    return np.ascontiguousarray(tiles.swapaxes(1, 2)).reshape(-1, size, size, *channels)  # (rows, columns, size, size)


def case_pattern(pattern: str) -> Callable[[Path], str]:
    """The rule that a case is what a regular expression finds in the name of an image, without its ending.

    If the expression has a group, the case is what the first one holds.

    Raises:
        StudyError: if it is no regular expression; or, by the rule, if it finds nothing.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise StudyError(f"--case {pattern!r} is no regular expression ({error}); correct it") from error

    def case_of(image: Path) -> str:
        match = expression.search(image.stem)
        case = match and match[1 if expression.groups else 0]
        if not case:
            raise StudyError(f"{image}: --case {pattern!r} finds no case in its name; change it, or give --cases FILE")
        return case

    return case_of


def case_table(file: Path) -> Callable[[Path], str]:
    """The rule that a CSV file with the columns ``file`` and ``case`` says the case of each image.

    Args:
        file: its ``file`` has the names of the images, with or without their endings.

    Raises:
        StudyError: if it cannot be read, has other columns, or says two cases of one file; or, by the rule, if it does
            not have an image.
    """
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, skipinitialspace=True)[["file", "case"]]
    except (OSError, ValueError, KeyError) as error:
        raise StudyError(f"{file} is no CSV file with the columns file and case; correct it") from error
    several = table.drop_duplicates().file.duplicated()
    if several.any():
        name = table.drop_duplicates().file[several].iloc[0]
        raise StudyError(f"{file} says two cases of {name}; correct it")
    cases = dict(zip(table.file, table.case, strict=True))

    def case_of(image: Path) -> str:
        case = cases.get(image.name) or cases.get(image.stem)
        if not case:
            raise StudyError(f"{file} says no case of {image.name}; add a line {image.name},CASE")
        return case

    return case_of
