"""EBHI-SEG in the box: all its patches, reduced, in one archive that comes with the package.

The archive is laid out as the download is, so that :func:`~study.data.datasets.ebhi_images.find_pairs` reads the one
like the other: ``<class>/image/*.webp`` and ``<class>/label/*.png``. Beside them are ``patches.csv``, which says of
each patch what its name and folder say, and ``LICENSE.txt``: CC BY 4.0, whose work it is, and what was changed.

``python -m study data ebhi FOLDER --pack FILE`` makes it; the same files and the same Pillow give the same bytes.
"""

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from study.data.datasets.ebhi_images import case_of, class_of, ebhi_patches, find_pairs, slide_of
from study.files import replacing, require_intact

BOX = Path(__file__).with_name("ebhi_seg.zip")
"""The archive."""

LICENSE = Path(__file__).with_name("ebhi_seg_LICENSE.txt")
"""Its licence and attribution, which is in it too."""

SHA256 = "064b27c77d6d6fa82610c117d31f73d90cee2dcb1d07a6cbffe6323ef5f48b8d"
"""Of the archive."""

SIZE = 128
"""Side of its patches in pixels; the download has 224."""

QUALITY = 77
"""Of its WebP images, so that all of it stays below 18 MB."""

TABLE = "patches.csv"


def open_box() -> zipfile.Path:
    """The archive, as the EBHI-SEG folder that it is.

    Raises:
        StudyError: if it is missing or damaged.
    """
    require_intact(BOX, SHA256)
    return zipfile.Path(BOX)


def pack_box(folder: Path, path: Path, *, progress: bool = False) -> None:
    """Reduce an EBHI-SEG folder to such an archive.

    Args:
        folder: of the download.
        path: the archive to write or replace.
        progress: show a bar, if there is a terminal.

    Raises:
        StudyError: see :func:`~study.data.datasets.ebhi_images.find_pairs` and
            :func:`~study.data.datasets.ebhi_images.ebhi_patches`; or if the archive cannot be written.
    """
    pairs = find_pairs(folder)
    images = [image for image, _ in pairs]
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["patch", "class", "case", "slide"])
    rows.writerows([image.stem, class_of(image), case_of(image), slide_of(image)] for image in images)
    patches = tqdm(
        ebhi_patches(pairs, SIZE, task="glands"),
        "packing",
        total=len(pairs),
        unit="patch",
        leave=False,
        disable=None if progress else True,
    )
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        _add(archive, "LICENSE.txt", LICENSE.read_bytes())
        _add(archive, TABLE, table.getvalue().encode())
        for image, patch in zip(images, patches, strict=True):
            coded = _coded(patch.image, "WEBP", quality=QUALITY, method=6)
            _add(archive, f"{class_of(image)}/image/{image.stem}.webp", coded)
            coded = _coded(patch.mask.astype(bool), "PNG", optimize=True)  # of bool, so 1 bit a pixel
            _add(archive, f"{class_of(image)}/label/{image.stem}.png", coded)


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Store a file uncompressed, as images are already, and undated, so that the archive depends on nothing else."""
    entry = zipfile.ZipInfo(name)  # of 1 January 1980
    entry.create_system, entry.external_attr = 3, 0o644 << 16  # as on Unix, wherever it is made
    archive.writestr(entry, content)


def _coded(pixels: NDArray[np.generic], kind: str, **options: object) -> bytes:
    coded = io.BytesIO()
    Image.fromarray(pixels).save(coded, kind, **options)
    return coded.getvalue()
