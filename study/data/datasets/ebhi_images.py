"""EBHI-SEG: 2,226 H&E patches of colorectal biopsies, 224 x 224, with masks of the glands (epithelium), CC BY 4.0.

The download (figshare 21540159) has a folder per class with ``image`` and ``label`` inside. The label outlines the
glands in every class, the normal one included; which of them are cancer is known from the class of their patch. Three
tasks come of it, :data:`TASKS`. The same folder, reduced, comes with the package:
:mod:`study.data.datasets.ebhi_box`.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from study.data.datasets.image_pairs import File, pairs_in, read_pair
from study.data.patches.schema import Patch
from study.errors import StudyError

CLASSES = ("Adenocarcinoma", "High-grade IN", "Low-grade IN", "Normal", "Polyp", "Serrated adenoma")
"""The folders of the download: the diagnosis of a patch (IN: intraepithelial neoplasia)."""

CANCER = ("Adenocarcinoma", "High-grade IN")
"""The classes whose glands are cancer: carcinoma, invasive or in situ."""

TASKS = {"cancer": (0, 1), "glands": (1, 1), "grades": (1, 2)}
"""The label values of benign glands and of cancer: cancer against all else, glands of every class, or both apart."""

SIZE = 224
"""Side of the patches of the download, in pixels."""

MAGNIFICATION = 400
"""Of the download; how many micrometres a pixel has was not published."""

THRESHOLD = 127
"""The masks have soft grey edges; foreground is what is brighter than this."""

_CASE = re.compile(r"GT[A-Za-z]*(\d+)")  # a case can stand in several classes, under other letters but the same digits


def find_pairs(root: File | str) -> list[tuple[File, File]]:
    """All (image, label) files below an EBHI-SEG folder, sorted; any image format, matched by name without its ending.

    Raises:
        StudyError: if the folder is missing or empty, or an image or a label stands alone.
    """
    root = Path(root) if isinstance(root, str) else root
    if not root.is_dir():
        raise StudyError(
            f"no data folder at {root}; download EBHI-SEG with `python -m study data ebhi {root} --download`"
        )
    folders = sorted(root.iterdir(), key=lambda folder: folder.name)
    pairs = [pair for folder in folders for pair in pairs_in(folder, "image", "label")]
    if not pairs:
        raise StudyError(f"no images in {root}; expected <class>/image/* and <class>/label/* as in EBHI-SEG")
    return pairs


def class_of(file: File) -> str:
    """The class of a patch, from the folder that its image or label stands in."""
    return file.parent.parent.name


def case_of(file: File) -> str:
    """The patient's number: the digits after ``GT`` and any letters.

    Raises:
        StudyError: if the name holds no such number.
    """
    match = _CASE.match(file.stem)
    if not match:
        raise StudyError(f"{file}: no case number in the name; expected GT<digits>-<slide>-400-<index>")
    return match[1]


def slide_of(file: File) -> str:
    """The name of the slide: what stands before the magnification, 400."""
    return file.stem.rsplit("-400-", 1)[0]


def ebhi_patches(pairs: Sequence[tuple[File, File]], size: int, *, task: str) -> Iterator[Patch]:
    """Read the pairs as patches of ``size`` x ``size`` pixels, resized where the files have another size.

    The image and the soft mask are both averaged down (Lanczos and box); the mask is thresholded last.

    Args:
        pairs: of image and label, see :func:`find_pairs`.
        size: side of the patches in pixels.
        task: one of :data:`TASKS`.

    Raises:
        StudyError: naming the file that is damaged, the pair that differs in size, or the folder of no known class.
    """
    if task not in TASKS:
        raise StudyError(f"unknown task {task!r} of EBHI-SEG; choose from {', '.join(TASKS)}")
    benign, cancer = TASKS[task]
    for image_file, label_file in pairs:
        image, label = read_pair(image_file, label_file)
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.LANCZOS)
            label = label.resize((size, size), Image.Resampling.BOX)
        value = cancer if benign == cancer or _is_cancer(image_file) else benign
        mask = np.where(np.asarray(label) > THRESHOLD, value, 0).astype(np.uint8)
        yield Patch(np.asarray(image), mask, case=case_of(image_file), slide=slide_of(image_file))


def _is_cancer(file: File) -> bool:
    """Whether the glands of a patch are cancer; a class that is not known must not pass for benign."""
    if (name := class_of(file)) not in CLASSES:
        raise StudyError(f"{file} is of an unknown class {name!r}; rename its folder to one of {', '.join(CLASSES)}")
    return name in CANCER
