"""Three classes to learn in a few steps: pink tissue, red blobs and blue ones."""

from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from study.data.patches.splits import split_by_case
from study.data.patches.store import Patch, PatchStore, write_patches
from study.data.slides.pyramid import write_pyramid
from study.tasks.labels import IGNORE

CLASSES = ("background", "gland", "immune cell")
COLOURS = np.array([(210, 150, 190), (170, 60, 70), (80, 90, 200)])

TISSUE = (32, 224)
"""Of the slide, from and to, in both directions."""


def coloured(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An image uint8 ``(H, W, 3)`` of label values ``(H, W)``."""
    return np.clip(COLOURS[labels] + rng.normal(0, 8, (*labels.shape, 3)), 0, 255).astype(np.uint8)


def make_coloured(path: Path, count: int = 60, *, size: int = 16, mpp: float | None = 1.0) -> PatchStore:
    """A store of blobs of the three classes, partly labelled, three patches to a case."""
    rng = np.random.default_rng(0)
    patches = []
    for n in range(count):
        noise = gaussian_filter(rng.standard_normal((2, size, size)), (0, 2, 2), mode="wrap")
        labels = np.where(noise[0] > 0.3 * noise[0].std(), np.where(noise[1] > 0, 2, 1), 0).astype(np.uint8)
        mask = np.where(rng.random(labels.shape) < 0.05, IGNORE, labels).astype(np.uint8)
        patches.append(Patch(coloured(labels, rng), mask, case=f"case {n // 3}", slide=f"slide {n // 3}"))
    split = split_by_case([patch.case for patch in patches], seed=0)
    recipe = {"count": count, "size": size}
    write_patches(path, patches, split, source="coloured blobs", recipe=recipe, classes=CLASSES, mpp=mpp)
    return PatchStore(path)


def make_coloured_slide(path: Path, *, mpp: float = 1.0) -> np.ndarray:
    """Write a slide with a red rectangle and a blue one in pink tissue.

    Returns:
        The label values ``(H, W)``.
    """
    labels = np.zeros((256, 256), np.uint8)
    labels[60:110, 60:130] = 1
    labels[130:190, 100:190] = 2
    image = np.full((256, 256, 3), 245, np.uint8)
    tissue = slice(*TISSUE)
    image[tissue, tissue] = coloured(labels, np.random.default_rng(0))[tissue, tissue]
    write_pyramid(path, [image], image.shape, image.dtype, mpp=mpp, compression="jpeg")
    return labels
