"""EBHI-SEG: 2,226 H&E patches of colorectal biopsies, 224 x 224, with masks of the glands (epithelium), CC BY 4.0.

The download (figshare 21540159) has a folder per class with ``image`` and ``label`` inside. It is gland segmentation
in every class, the normal one included: the foreground is epithelium, not tumour.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from study.data.patches import Patch
from study.errors import StudyError

THRESHOLD = 127
"""The masks have soft grey edges; foreground is what is brighter than this."""

_CASE = re.compile(r"GT[A-Za-z]*(\d+)")  # a case can stand in several classes, under other letters but the same digits


def find_pairs(root: Path | str) -> list[tuple[Path, Path]]:
    """All (image, label) files below an EBHI-SEG folder, sorted; any image format, matched by name without its ending.

    Raises:
        StudyError: if the folder is missing or empty, or an image or a label stands alone.
    """
    root = Path(root)
    if not root.is_dir():
        raise StudyError(f"no data folder at {root}; download EBHI-SEG (figshare 21540159) and give its path")
    pairs = []
    for folder in sorted({part.parent for name in ("image", "label") for part in root.glob(f"*/{name}")}):
        images, labels = _files(folder / "image"), _files(folder / "label")
        if alone := sorted(images.keys() ^ labels.keys()):
            file = images.get(alone[0]) or labels[alone[0]]
            missing = "label" if alone[0] in images else "image"
            raise StudyError(f"{file} has no {missing}; add it to {folder / missing} or remove the file")
        pairs += [(images[stem], labels[stem]) for stem in sorted(images)]
    if not pairs:
        raise StudyError(f"no images in {root}; expected <class>/image/* and <class>/label/* as in EBHI-SEG")
    return pairs


def case_of(file: Path) -> str:
    """The patient's number: the digits after ``GT`` and any letters.

    Raises:
        StudyError: if the name holds no such number.
    """
    match = _CASE.match(file.stem)
    if not match:
        raise StudyError(f"{file}: no case number in the name; expected GT<digits>-<slide>-400-<index>")
    return match[1]


def ebhi_patches(pairs: list[tuple[Path, Path]], size: int) -> Iterator[Patch]:
    """Read the pairs as patches of ``size`` x ``size`` pixels, resized where the files have another size.

    The image and the soft mask are both averaged down (Lanczos and box); the mask is thresholded last.

    Raises:
        StudyError: naming the file that is damaged, or the pair that differs in size.
    """
    for image_file, label_file in pairs:
        image, label = _open(image_file, "RGB"), _open(label_file, "L")
        if image.size != label.size:
            raise StudyError(f"{image_file} is {_text(image)} but {label_file} is {_text(label)}; they must be equal")
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.LANCZOS)
            label = label.resize((size, size), Image.Resampling.BOX)
        mask = (np.asarray(label) > THRESHOLD).astype(np.uint8)
        yield Patch(np.asarray(image), mask, case=case_of(image_file), slide=image_file.stem.rsplit("-400-", 1)[0])


def _files(folder: Path) -> dict[str, Path]:
    """The files of a folder by their names without the ending; hidden ones and folders are left out."""
    files: dict[str, Path] = {}
    for file in sorted(folder.glob("[!.]*")):
        if file.is_dir():
            continue
        if not file.is_file():
            raise StudyError(f"{file} is a broken link or no file; remove it")
        if file.stem in files:
            raise StudyError(f"{file} and {files[file.stem].name} are the same patch twice; remove one of them")
        files[file.stem] = file
    return files


def _open(file: Path, mode: str) -> Image.Image:
    try:
        with Image.open(file) as image:
            return image.convert(mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise StudyError(f"{file} is damaged or not an image; download it again") from error


def _text(image: Image.Image) -> str:
    return f"{image.width} x {image.height}"
