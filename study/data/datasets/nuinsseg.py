"""NuInsSeg: 665 H&E patches of 31 human and mouse organs with masks of the nuclei (Mahbod et al. 2024), CC BY 4.0.

Read from a copy in two folders, ``images/NNN.*`` and ``masks/NNN.*``, halved from 512 to 256 pixels, and so numbered
that neighbours are of one organ.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from study.data.datasets.data_set import DataSet, Images, Labels, digest_of
from study.data.datasets.image_pairs import pairs_in, read_pair
from study.data.patches.schema import Patch
from study.errors import StudyError

BLOCK = 16
"""Neighbours in number that are one case."""

SIDE = 256
"""Of the images in pixels: half of the published ones."""

THRESHOLD = 127
"""Foreground is what is brighter than this."""


def find_nuclei(root: Path) -> list[tuple[Path, Path]]:
    """All (image, mask) files of a NuInsSeg folder, sorted.

    Raises:
        StudyError: if the folder is missing or empty, or an image or a mask stands alone or has no number.
    """
    if not root.is_dir():
        raise StudyError(f"no data folder at {root}; download NuInsSeg (Mahbod et al. 2024) and give its path")
    pairs = pairs_in(root, "images", "masks")
    if not pairs:
        raise StudyError(f"no images in {root}; expected images/NNN.* and masks/NNN.*")
    return sorted(pairs, key=lambda pair: _number(pair[0]))


def block_of(file: Path) -> str:
    """The case of an image: its block of :data:`BLOCK` neighbours in number.

    The organs' names, and which images are of one person, are lost in this copy; but neighbours in number are of one
    organ, often of one slide. So blocks of neighbours are what a split may part: an image drawn at random for the test
    would have its like in training.

    Raises:
        StudyError: if the name is no number.
    """
    return f"{(_number(file) - 1) // BLOCK:02d}"


def nuclei_patches(pairs: Sequence[tuple[Path, Path]], size: int) -> Iterator[Patch]:
    """Cut the images into tiles of ``size`` x ``size`` pixels that do not overlap, as many as fit, around the middle.

    They are cut and not resized: nuclei are some 10 to 20 pixels wide here and would lose their borders. What does not
    fill a tile is left out along the edges of the image.

    Raises:
        StudyError: naming the file that is damaged, too small or not halved, or the pair that differs in size.
    """
    for image_file, mask_file in pairs:
        image, label = read_pair(image_file, mask_file)
        if max(image.size) > SIDE:  # nuclei of twice the size are another task
            dimensions = f"{image.width} x {image.height}"
            raise StudyError(f"{image_file} is {dimensions}; NuInsSeg is read halved: give images of {SIDE} x {SIDE}")
        if min(image.size) < size:
            dimensions = f"{image.width} x {image.height}"
            raise StudyError(f"{image_file} is {dimensions}, smaller than {size} x {size}; give a smaller size")
        images = _tiles(np.asarray(image), size)
        masks = _tiles((np.asarray(label) > THRESHOLD).astype(np.uint8), size)
        for tile, mask in zip(images, masks, strict=True):
            yield Patch(tile, mask, case=block_of(image_file), slide=image_file.stem)


def _tiles(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """(H, W, ...) -> (N, size, size, ...), row by row."""
    height, width, *channels = pixels.shape
    rows, columns = height // size, width // size
    top, left = (height - rows * size) // 2, (width - columns * size) // 2
    middle = pixels[top : top + rows * size, left : left + columns * size]
    tiles = middle.reshape(rows, size, columns, size, *channels)  # (rows * size, columns * size, ...) before
    return tiles.swapaxes(1, 2).reshape(-1, size, size, *channels)  # from (rows, columns, size, size, ...)


def _number(file: Path) -> int:
    if not re.fullmatch(r"\d+", file.stem):
        raise StudyError(f"{file} has no number for a name; expected NNN.* as in images/001.webp")
    return int(file.stem)


def read(data: Path, size: int, task: str) -> Images:
    """The tiles of a NuInsSeg folder.

    Raises:
        StudyError: see :func:`find_nuclei` and :func:`nuclei_patches`.
    """
    pairs = find_nuclei(data)
    files = digest_of(data, (file for pair in pairs for file in pair))
    return Images(nuclei_patches(pairs, size), [block_of(image) for image, _ in pairs], files)


DATA_SET = DataSet(
    name="nuinsseg",
    title="NuInsSeg",
    about="NuInsSeg: 665 H&E patches of 31 human and mouse organs with masks of the nuclei.",
    licence="CC BY 4.0",
    cases="blocks of images",
    labels={
        "nuclei": Labels(
            source="NuInsSeg, nuclei",
            caption="NuInsSeg (nuclei in 31 organs)",
            foreground="nuclei",
        )
    },
    read=read,
    size=256,
    needs="the NuInsSeg folder (Mahbod et al. 2024)",
)
