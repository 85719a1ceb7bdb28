"""What is in a patch store, named once: its arrays, labels, attributes and classes, and the columns of a manifest.

=============  ================================================================================================
In             There is
=============  ================================================================================================
an HDF5 file   ``x`` uint8 (N, H, W, 3) and ``mask`` uint8 (N, H, W); the attributes ``source``, ``recipe`` (JSON),
               ``fingerprint``; where they are known, ``classes`` (JSON) and ``mpp``; and ``checksum``, of all but the
               patches, which older files lack
a single file  also ``case``, ``slide`` and ``split``, one label per patch; and ``hash`` and ``foreground``, its number
               of pixels, which older files lack
a slide's file  also ``rows/<column>``, the slide's rows of the manifest
a manifest     the columns :data:`COLUMNS`, a row per patch
a recipe       at least ``source`` and ``patch_size``; what else the patches depend on
=============  ================================================================================================

In a mask, a pixel has the label value of its class, 0 being the background, and :data:`~study.tasks.labels.IGNORE`
where nobody labelled it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from xxhash import xxh3_64

from study.errors import StudyError
from study.tasks.labels import IGNORE

IMAGE, MASK = "x", "mask"
"""The arrays; named as in PCam."""

LABELS = ("case", "slide", "split")
"""The labels of each patch; they say where it is from."""

TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")
"""What a case is for."""

HASH, FOREGROUND = "hash", "foreground"
"""Of each patch in a single file: its :func:`patch_hash`, and how many of its pixels are :func:`is_foreground`."""

CLASSES = ("background", "foreground")
"""The classes of masks of which nobody named any."""

COLUMNS = {
    "slide": str,
    "split": str,
    "x": int,
    "y": int,
    "level": int,
    "mpp": float,
    "patch_size": int,
    "tumour": float,
    "ignored": float,
    "hash": str,
}
"""Of a manifest:

=================  =======================================================================================
``slide, split``   the slide's name, and one of :data:`SPLITS`
``x, y``           of the patch's upper left corner, in pixels of level 0
``level, mpp``     the level of the slide that was read (and resampled, if it has another scale), and micrometres
                   per pixel of the patch
``patch_size``     side of the patch in pixels
``tumour``         share of the patch's pixels that are tumour
``ignored``        share of the patch's pixels that nobody labelled
``hash``           of image and mask, 16 hexadecimal digits
=================  =======================================================================================
"""

RECIPE_KEYS = ("source", "patch_size")
"""What the recipe of an extraction holds at least."""


@dataclass(frozen=True)
class Patch:
    """An image ``(H, W, 3)`` with its mask ``(H, W)``, both uint8, and where they are from."""

    image: np.ndarray
    mask: np.ndarray
    case: str
    slide: str


def array_shapes(height: int, width: int) -> dict[str, tuple[int, ...]]:
    """The shape of one patch in each array of a file."""
    return {IMAGE: (height, width, 3), MASK: (height, width)}


def check_patch(patch: Patch, n: int, split: Mapping[str, str], classes: int) -> None:
    """Refuse what a store cannot hold.

    Args:
        patch: the ``n``-th one.
        n: its number, for the message.
        split: of every case.
        classes: how many there are, with the background.

    Raises:
        StudyError: if its arrays do not fit together, a mask value has no class, or its case is in no split.
    """
    height, width = patch.mask.shape
    shapes = array_shapes(height, width)
    types = {patch.image.dtype, patch.mask.dtype}
    if patch.image.shape != shapes[IMAGE] or types != {np.dtype(np.uint8)}:
        raise StudyError(
            f"patch {n} of {patch.slide} has an image {patch.image.shape} of {patch.image.dtype} and a mask "
            f"{patch.mask.shape} of {patch.mask.dtype}; give uint8 of (H, W, 3) and (H, W)"
        )
    if odd := set(np.unique(patch.mask).tolist()) - {*range(classes), IGNORE}:
        known = "0, 1," if classes == 2 else f"0 to {classes - 1}"
        raise StudyError(f"patch {n} of {patch.slide} has mask value {min(odd)}; give {known} or {IGNORE}, unlabelled")
    if split.get(patch.case) not in SPLITS:
        raise StudyError(f"case {patch.case} is in no split; assign it to one of {', '.join(SPLITS)}")


def is_foreground(mask: np.ndarray) -> np.ndarray:
    """Where a mask is of any class but the background, bool of the same shape."""
    return (mask != 0) & (mask != IGNORE)


def patch_hash(image, mask) -> str:
    """Of one patch (XXH3), from the bytes of its uint8 image ``(H, W, 3)`` and mask ``(H, W)``."""
    digest = xxh3_64(image)
    digest.update(mask)
    return digest.hexdigest()


def patches_fingerprint(labels: Iterable[str]) -> str:
    """Of many patches, from their hashes or other texts in order."""
    return hashlib.sha256("\n".join(labels).encode()).hexdigest()[:16]
