"""Synthetic H&E-like patches with tumour masks, for tests and for runs without any real slide.

The images are drawn, not photographed: no score on them says anything about real tissue. What is meant to
be realistic is the kind of evidence that separates the classes. Tumour nests share their colour with
benign glands and their ragged outline with lymphoid aggregates, so that the size, shape and arrangement
of nuclei must be read; stain varies from case to case, focus and noise from patch to patch; no direction
is preferred. What is not realistic: tissue architecture beyond some tens of pixels, vessels, blood, fat,
mucus, necrosis, mitoses, folds, scanner artefacts, and errors of annotation (the mask is exact).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import fourier_gaussian, gaussian_filter
from scipy.spatial import KDTree

from study.data.patches import Patch
from study.errors import StudyError

MIN_SIZE = 16  # pixels
MARGIN = 24  # pixels of tissue drawn beyond each border, then cropped

# Lengths are in pixels of about one micrometre (10x).
NEST_SCALE = 16.0  # of the outline of tumour nests and lymphoid aggregates
RAGGED_SCALE = 5.0  # of the irregularities on that outline
FIBRE_SCALE = 14.0
GAP_SCALE = 3.5  # of the empty clefts found in every tissue
GLAND_SPACING = 34.0  # least distance between centres
GLAND_RADIUS = (13.0, 21.0)
STAMP_REACH = 10  # half-width of the square in which one nucleus is painted

NO_TUMOUR = 0.2  # share of patches drawn without nests; in a few more no nest is in sight
NO_LYMPHOID = 0.4
NO_GLANDS = 0.3

# Optical density per unit of stain in red, green, blue (Ruifrok and Johnston, 2001).
HEMATOXYLIN = (0.65, 0.70, 0.29)
EOSIN = (0.07, 0.99, 0.11)
STAIN_SPREAD = 0.09  # standard deviation between cases of each of these densities
STAIN_STRENGTH = (0.85, 1.7)

# Units of hematoxylin and eosin between the nuclei.
GAP = (0.02, 0.03)
CYTOPLASM = (0.28, 0.36)  # of tumour and glands alike
LYMPHOID = (0.25, 0.30)
STROMA = (0.06, 0.42)

BLUR = (0.4, 1.1)  # standard deviation in pixels
NOISE = (2.0, 7.0)  # standard deviation in grey levels

Array = NDArray[np.float64]


class Nucleus(NamedTuple):
    """One kind of nucleus."""

    spacing: float  # pixels, least distance between centres
    radius: float  # pixels
    elongation: float  # long axis over short
    spread: float  # log standard deviation of radius, elongation and stain
    stain: float  # units of hematoxylin at the rim
    pallor: float  # share of the stain missing at the centre


TUMOUR_CELL = Nucleus(spacing=5.2, radius=3.9, elongation=1.3, spread=0.22, stain=1.15, pallor=0.5)
EPITHELIUM = Nucleus(spacing=3.8, radius=2.8, elongation=1.6, spread=0.1, stain=1.15, pallor=0.3)
LYMPHOCYTE = Nucleus(spacing=3.6, radius=2.3, elongation=1.1, spread=0.1, stain=1.5, pallor=0.0)
FIBROBLAST = Nucleus(spacing=7.0, radius=2.3, elongation=3.5, spread=0.25, stain=1.2, pallor=0.0)


def synthetic_patches(count: int, size: int, *, seed: int, patches_per_case: int = 8) -> Iterator[Patch]:
    """Draw ``count`` patches, ``patches_per_case`` to a case.

    A patch depends only on ``seed``, ``size``, its case and its place in the case, so that a longer run
    begins with the patches of a shorter one.

    Args:
        count: number of patches, at least 1.
        size: side of a patch in pixels, at least 16; the scale is fixed, so a larger patch shows more.
        seed: non-negative.
        patches_per_case: at least 1; the last case may hold fewer.

    Returns:
        An iterator over patches with ``image`` (size, size, 3) uint8 RGB and ``mask`` (size, size) uint8,
        1 where there is tumour.

    Raises:
        StudyError: at the call, if an argument is below its minimum.
    """
    minima = (
        ("count", count, 1),
        ("size", size, MIN_SIZE),
        ("patches_per_case", patches_per_case, 1),
        ("seed", seed, 0),
    )
    for name, value, minimum in minima:
        if value < minimum:
            raise StudyError(f"{name} is {value}; pass at least {minimum}")
    return (_patch(seed, *divmod(i, patches_per_case), size) for i in range(count))


def _patch(seed: int, case: int, index: int, size: int) -> Patch:
    # NumPy ignores trailing zeros in a seed, so the case's own stream is 0 and its patches start at 1.
    case_rng = np.random.default_rng([seed, case, 0])
    stain_vectors = np.stack([_vary_stain(case_rng, HEMATOXYLIN), _vary_stain(case_rng, EOSIN)])
    light = case_rng.uniform(0.88, 1.0) * case_rng.uniform(0.97, 1.0, 3)
    tumour_cell = TUMOUR_CELL._replace(radius=TUMOUR_CELL.radius * case_rng.uniform(0.75, 1.2))

    rng = np.random.default_rng([seed, case, index + 1])
    stains, tumour = _tissue(rng, size + 2 * MARGIN, tumour_cell)
    image = _photograph(rng, 255 * light * np.exp(-stains @ stain_vectors))
    crop = slice(MARGIN, MARGIN + size)
    name = f"synthetic-{case:05d}"
    return Patch(image=image[crop, crop], mask=tumour[crop, crop].astype(np.uint8), case=name, slide=name)


def _vary_stain(rng: Generator, vector: tuple[float, float, float]) -> Array:
    varied = np.maximum(rng.normal(vector, STAIN_SPREAD), 0.02)
    return varied / np.linalg.norm(varied) * rng.uniform(*STAIN_STRENGTH)


def _photograph(rng: Generator, image: Array) -> NDArray[np.uint8]:
    image = gaussian_filter(image, rng.uniform(*BLUR), axes=(0, 1))
    image += rng.normal(0, rng.uniform(*NOISE), image.shape)
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def _tissue(rng: Generator, side: int, tumour_cell: Nucleus) -> tuple[Array, NDArray[np.bool_]]:
    """Units of hematoxylin and eosin, (side, side, 2), and where there is tumour, (side, side)."""
    tumour = _nests(rng, side, NO_TUMOUR)
    depth, lumen = _glands(rng, side)
    gland = (depth < 1) & ~tumour & (rng.random() >= NO_GLANDS)
    lymphoid = _nests(rng, side, NO_LYMPHOID) & ~tumour & ~gland
    gap = (_noise(rng, side, GAP_SCALE) > 2) | (gland & (depth < lumen))
    stroma = ~(tumour | gland | lymphoid)
    fibre_phase = 8 * _noise(rng, side, FIBRE_SCALE) + 1.2 * _noise(rng, side, 3)

    cytoplasm = tumour | gland
    regions = [region[..., None] for region in (gap, cytoplasm, lymphoid)]
    stains = np.select(regions, [GAP, CYTOPLASM, LYMPHOID], STROMA)
    stains[..., 0] += ~gap * 0.04 * _noise(rng, side, 2)
    stains[..., 1] += (stroma & ~gap) * 0.13 * np.sin(fibre_phase)

    infiltrate = 0.04 * np.exp(1.3 * _noise(rng, side, 10))
    basal = gland & (depth > 0.62) & (depth < 0.9)
    any_angle = rng.uniform(0, np.pi, (side, side))
    grain = _noise(rng, side, 1)
    nuclei = np.zeros((side, side))
    for kind, density, angle in (
        (FIBROBLAST, 0.35 * stroma, _uphill(fibre_phase) + np.pi / 2),
        (LYMPHOCYTE, np.maximum(infiltrate, 0.9 * lymphoid), any_angle),
        (EPITHELIUM, basal, _uphill(depth)),
        (tumour_cell, tumour, any_angle),
    ):
        _paint(rng, nuclei, kind, _scatter(rng, density * ~gap, kind.spacing), angle, grain)
    stains[..., 0] += ~gap * nuclei * (1 + 0.15 * grain)
    return np.maximum(stains, 0), tumour


def _noise(rng: Generator, side: int, scale: float) -> Array:
    """Isotropic periodic Gaussian field of mean 0 and variance 1, smooth over ``scale`` pixels."""
    spectrum = fourier_gaussian(np.fft.rfft2(rng.standard_normal((side, side))), scale, n=side)
    return np.fft.irfft2(spectrum, s=(side, side)) * (2 * np.sqrt(np.pi) * scale)


def _nests(rng: Generator, side: int, absent: float) -> NDArray[np.bool_]:
    field = _noise(rng, side, NEST_SCALE) + 0.25 * _noise(rng, side, RAGGED_SCALE)
    return (field > rng.uniform(-1.0, 1.2)) & (rng.random() >= absent)


def _glands(rng: Generator, side: int) -> tuple[Array, Array]:
    """Distance to the nearest gland's centre and radius of its lumen, both over the gland's radius."""
    centres = _scatter(rng, np.ones((side, side)), GLAND_SPACING)
    distance, nearest = KDTree(centres, boxsize=side).query(np.stack(np.mgrid[:side, :side], axis=-1))
    radius = rng.uniform(*GLAND_RADIUS, len(centres))
    lumen = rng.uniform(0, 0.5, len(centres))  # 0 where the section misses it
    return distance / radius[nearest] + 0.12 * _noise(rng, side, 6), lumen[nearest]


def _scatter(rng: Generator, density: Array, spacing: float) -> Array:
    """Random points on the torus, (n, 2), at least ``spacing`` apart, thinned by ``density`` in [0, 1]."""
    side = len(density)
    points = rng.uniform(0, side, (round((side / spacing) ** 2), 2))
    row, column = points.astype(int).T
    points = points[rng.random(len(points)) < density[row, column]]
    keep = np.ones(len(points), dtype=bool)
    keep[KDTree(points, boxsize=side).query_pairs(spacing, output_type="ndarray")[:, 1]] = False
    return points[keep]


def _uphill(field: Array) -> Array:
    return np.arctan2(*np.gradient(field))


def _paint(rng: Generator, canvas: Array, kind: Nucleus, points: Array, angle: Array, grain: Array) -> None:
    """Paint an ellipse at each point, its long axis along ``angle``, its contour roughened by ``grain``."""

    def vary(value: float) -> Array:
        return value * np.exp(rng.normal(0, kind.spread, (len(points), 1, 1)))

    radius, stretch, stain = vary(kind.radius), np.sqrt(vary(kind.elongation)), vary(kind.stain)
    nearest = points.astype(int)
    turn = angle[tuple(nearest.T)][:, None, None]
    window = np.mgrid[-STAMP_REACH : STAMP_REACH + 1, -STAMP_REACH : STAMP_REACH + 1]
    pixels = nearest[..., None, None] + window
    y, x = np.moveaxis(pixels - points[..., None, None], 1, 0)
    at = tuple(np.moveaxis(pixels % len(canvas), 1, 0))

    along = (x * np.cos(turn) + y * np.sin(turn)) / (radius * stretch)
    across = (y * np.cos(turn) - x * np.sin(turn)) / (radius / stretch)
    distance = np.hypot(along, across) + 0.5 * kind.spread * grain[at]  # 1 on the contour
    inside = np.clip((1 - distance) * radius + 0.5, 0, 1)
    centre = np.clip(2 - 2 * distance, 0, 1)
    np.maximum.at(canvas, at, stain * inside * (1 - kind.pallor * centre))
