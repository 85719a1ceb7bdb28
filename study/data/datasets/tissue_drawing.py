"""Drawing H&E-like slides with metastases, for tests and for runs without any real slide.

The images are drawn, not photographed: no score on them says anything about real tissue. What is meant to be
realistic is the kind of evidence that separates the classes. Metastases share their colour with benign glands and
their ragged outline with lymphoid aggregates, so that the size, shape and arrangement of nuclei must be read;
stain, focus and noise vary from slide to slide; no direction is preferred. Around them is what an extraction meets
on a slide: bare glass, fat, folds, ink of a pen, and places out of focus.

What is not realistic: the architecture of organs (glands and lymphoid aggregates stand side by side as they do in no
lymph node), vessels, blood, mucus, necrosis and mitoses, the small variety of each tissue, and annotations without
any error.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.spatial import KDTree

# Lengths are in pixels of one micrometre (10x).
ISLAND_SCALE = 140.0  # of the pieces of tissue
MARGIN = 60  # of glass along the slide's border
COVER = (0.42, 0.54)  # share of the slide under tissue
REGION_SCALE = 60.0  # of the change from one tissue to another
NEST_SCALE = 16.0  # of the outline of metastases and lymphoid aggregates
RAGGED_SCALE = 5.0  # of the irregularities on that outline
FIBRE_SCALE = 14.0
GAP_SCALE = 3.5  # of the empty clefts found in every tissue
GLAND_SPACING = 34.0  # least distance between centres
GLAND_RADIUS = (13.0, 21.0)
FAT_SPACING = 38.0  # least distance between the centres of fat cells
FAT_WALL = 1.3  # half-width

METASTASIS_RADIUS = (190.0, 70.0)  # of the first and the last on a slide
HOLE_RADIUS = 0.3  # of the island of normal tissue, in radii of its metastasis
SMALLEST_PART = 300  # square pixels; smaller parts and holes of metastases are done away with

# Optical density per unit of stain in red, green, blue (Ruifrok and Johnston, 2001).
HEMATOXYLIN = (0.65, 0.70, 0.29)
EOSIN = (0.07, 0.99, 0.11)
STAIN_SPREAD = 0.08  # standard deviation between slides of each of these densities
STAIN_STRENGTH = (0.85, 1.6)

# Units of hematoxylin and eosin between the nuclei.
GLASS = (0.0, 0.0)
CYTOPLASM = (0.28, 0.36)  # of metastases and glands alike
LYMPHOID = (0.25, 0.30)
STROMA = (0.06, 0.42)

INK = {"blue": (1.3, 0.8, 0.15), "green": (1.3, 0.35, 0.9), "black": (1.5, 1.5, 1.4)}  # optical density
INK_WIDTH = 11.0  # half of it

FOCUS = (0.4, 0.9)  # standard deviation of the blur, in pixels
OUT_OF_FOCUS = 3.0  # the same, where the slide is out of focus
NOISE = (2.0, 5.0)  # standard deviation in grey levels

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


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


class Drawing(NamedTuple):
    """A slide at 10x.

    Attributes:
        image: RGB, uint8 (H, W, 3).
        metastases: uint8 (H, W), n on the n-th metastasis of the slide, of the largest radius first, and 0 elsewhere.
            Metastases do not touch, and no part of one lies in a hole.
    """

    image: NDArray[np.uint8]
    metastases: NDArray[np.uint8]


def draw_slide(
    rng: Generator,
    shape: tuple[int, int],
    *,
    metastases: int = 0,
    ink: Literal["blue", "green", "black"] | None = None,
    fold: bool = False,
    out_of_focus: bool = False,
) -> Drawing:
    """Draw a slide of ``shape`` (H, W) pixels of one micrometre; some hundred in each direction are the least.

    Args:
        rng: all that the drawing depends on, besides these arguments.
        metastases: how many there are, fewer where there is no room. The first has normal tissue inside, an island
            or, where that reaches the rim, a bay.
        ink: colour of a pen mark along the border of the tissue.
        fold: whether the tissue lies double along a line.
        out_of_focus: whether one place of it is blurred.
    """
    depth = _islands(rng, shape)
    tumours = _metastases(rng, depth, metastases)
    stains = _stains(rng, depth, tumours > 0)
    if fold:
        crease = np.abs(_noise(rng, shape, 90)) < 0.06
        stains *= 1 + 0.8 * _soft(crease & (_distance(shape, _point(rng, depth, 60)) < 160), 2)
    vectors = np.stack([_vary_stain(rng, HEMATOXYLIN), _vary_stain(rng, EOSIN)])
    density = np.einsum("shw,sc->hwc", stains, vectors)
    if ink is not None:
        density += _pen(rng, depth)[..., None] * np.array(INK[ink], np.float32)
    image = _photograph(rng, density, _point(rng, depth, 60) if out_of_focus else None)
    return Drawing(image, tumours)


def _islands(rng: Generator, shape: tuple[int, int]) -> Array:
    """Pieces of tissue: the distance to their border (roughly; negative outside)."""
    height, width = shape
    y, x = np.ogrid[:height, :width]
    to_border = np.minimum(np.minimum(y, height - 1 - y), np.minimum(x, width - 1 - x)).astype(np.float32)
    to_border *= 1 + 0.3 * _noise(rng, shape, 70)  # or the tissue would end along straight lines
    field = _noise(rng, shape, ISLAND_SCALE) + 0.2 * _noise(rng, shape, 25) - 3 * np.exp(-to_border / MARGIN)
    inside = field > np.quantile(field, 1 - rng.uniform(*COVER))
    labels, _ = ndimage.label(inside)
    inside &= np.bincount(labels.ravel())[labels] > 60**2  # no crumbs
    signed = _zoom(_signed_distance(inside[::4, ::4]) * 4, shape)
    return signed + 2 * _noise(rng, shape, 7) + 1.2 * _noise(rng, shape, 2)


def _metastases(rng: Generator, depth: Array, count: int) -> NDArray[np.uint8]:
    """The metastases, numbered: ragged at the rim, with holes, and apart from each other."""
    shape = depth.shape
    fields = [np.zeros(shape, np.float32)]  # one per metastasis, positive on it; the first stands for no metastasis
    room = np.full(shape, np.inf, np.float32)
    for radius in np.geomspace(*METASTASIS_RADIUS, count) * rng.uniform(0.9, 1.1, count):
        place = np.where(room > radius, depth, 0)
        if place.max() <= 0:
            break
        centre = _point(rng, place, 0.35 * radius)
        distance = _distance(shape, centre)
        field = np.minimum(1.8 * (1 - distance / radius), 1)
        if len(fields) == 1:
            turn = rng.uniform(0, 2 * np.pi)
            aside = _distance(shape, centre + 0.2 * radius * np.array([np.sin(turn), np.cos(turn)]))
            field -= 3 * np.exp(-0.5 * (aside / (0.6 * HOLE_RADIUS * radius)) ** 2)
        fields.append(field + 0.4 * _noise(rng, shape, NEST_SCALE) + 0.12 * _noise(rng, shape, RAGGED_SCALE))
        room = np.minimum(room, distance - radius)
    number = np.argmax(fields, axis=0).astype(np.uint8)
    # 0 - 1 is 255: the lowest number near by, of those that there are
    lowest = ndimage.minimum_filter(number - np.uint8(1), 9) + np.uint8(1)
    apart = (number > 0) & (depth > 3) & (ndimage.maximum_filter(number, 9) == lowest)
    parts, _ = ndimage.label(_without_specks(apart))
    return _largest(number * apart, parts)[parts] * (parts > 0)


def _without_specks(mask: Mask) -> Mask:
    """Neither small parts nor small holes, nor parts within the holes of others."""
    holes, _ = ndimage.label(~mask)
    mask = mask | (np.bincount(holes.ravel())[holes] < SMALLEST_PART)
    parts, _ = ndimage.label(mask)
    size = (np.bincount(parts.ravel())[parts] * mask).astype(np.int64)
    whole, _ = ndimage.label(ndimage.binary_fill_holes(mask))
    return mask & (size == _largest(size, whole)[whole]) & (size >= SMALLEST_PART)


def _largest(values: NDArray[np.integer], labels: NDArray[np.integer]) -> NDArray[np.integer]:
    """The largest value of each label, from label 0 on."""
    largest = np.zeros(labels.max() + 1, values.dtype)
    np.maximum.at(largest, labels.ravel(), values.ravel())
    return largest


def _stains(rng: Generator, depth: Array, tumour: Mask) -> Array:
    """Units of hematoxylin and eosin, (2, H, W)."""
    shape = depth.shape
    tissue = depth > 0
    region, ragged = _noise(rng, shape, REGION_SCALE), _noise(rng, shape, RAGGED_SCALE)
    adipose = tissue & ~tumour & (_noise(rng, shape, REGION_SCALE) + 0.15 * ragged > 1.3)
    lymphoid = tissue & ~tumour & ~adipose
    lymphoid &= _noise(rng, shape, NEST_SCALE) + 0.25 * ragged + 1.2 * region > rng.uniform(0, 0.6)
    radius, lumen = _glands(rng, shape)
    gland = tissue & ~tumour & ~adipose & ~lymphoid & (radius < 1) & (region < rng.uniform(-0.3, 0.2))
    fat, wall = _fat(rng, adipose)
    stroma = tissue & ~(tumour | gland | lymphoid | adipose)
    phase = 8 * _noise(rng, shape, FIBRE_SCALE) + 1.2 * _noise(rng, shape, 3)
    fibre = np.sin(phase)
    cleft = stroma & (fibre < -0.75) & (_noise(rng, shape, 9) > 1.0)
    gap = (_noise(rng, shape, GAP_SCALE) > 2.1) | (gland & (radius < lumen)) | cleft | fat | ~tissue

    regions = [gap, tumour | gland, lymphoid]
    stains = np.stack(
        [np.select(regions, levels[:-1], levels[-1]) for levels in zip(GLASS, CYTOPLASM, LYMPHOID, STROMA, strict=True)]
    ).astype(np.float32)
    solid = ~gap
    stains[0] += solid * np.float32(0.04) * _noise(rng, shape, 2)
    stains[1] += (stroma & solid) * np.float32(0.13) * fibre

    infiltrate = 0.04 * np.exp(1.3 * _noise(rng, shape, 10))
    basal = gland & (radius > 0.62) & (radius < 0.9)
    any_angle = rng.uniform(0, np.pi, shape).astype(np.float32)
    grain = _noise(rng, shape, 1)
    tumour_cell = TUMOUR_CELL._replace(radius=TUMOUR_CELL.radius * rng.uniform(0.75, 1.2))
    nuclei = np.zeros(shape, np.float32)
    for kind, share, angle in (
        (FIBROBLAST, 0.35 * stroma + 0.25 * wall, _uphill(phase) + np.pi / 2),
        (LYMPHOCYTE, np.maximum(infiltrate * tissue, 0.9 * lymphoid), any_angle),
        (EPITHELIUM, basal, _uphill(radius)),
        (tumour_cell, tumour, any_angle),
    ):
        _paint(rng, nuclei, kind, _scatter(rng, share * solid, kind.spacing), angle, grain)
    stains[0] += solid * nuclei * (1 + 0.15 * grain)
    return np.maximum(stains, 0)


def _glands(rng: Generator, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Distance to the nearest gland's centre and radius of its lumen, both over the gland's radius."""
    centres = _scatter(rng, np.ones(shape, np.float32), GLAND_SPACING)
    distance, nearest = KDTree(centres).query(_grid(shape))
    radius = rng.uniform(*GLAND_RADIUS, len(centres)).astype(np.float32)
    lumen = rng.uniform(0, 0.5, len(centres)).astype(np.float32)  # 0 where the section misses it
    return (distance / radius[nearest]).astype(np.float32) + 0.12 * _noise(rng, shape, 6), lumen[nearest]


def _fat(rng: Generator, adipose: Mask) -> tuple[Mask, Mask]:
    """The insides of fat cells, and the thin walls between them."""
    centres = _scatter(rng, np.ones(adipose.shape, np.float32), FAT_SPACING)
    pixels = np.argwhere(adipose)
    inside = np.zeros(adipose.shape, bool)
    if len(pixels):
        first, second = KDTree(centres).query(pixels, k=2)[0].T
        inside[tuple(pixels.T)] = second - first > 2 * FAT_WALL
    inside = _soft(inside, 3) > 0.7  # rounds the corners
    return inside, adipose & ~inside


def _pen(rng: Generator, depth: Array) -> Array:
    """A stroke along the border of the tissue and partly over it, 0 to about 1."""
    shape = depth.shape
    start = _point(rng, np.where(np.abs(depth) < 4, 100, 0).astype(np.float32), 1)
    offset = -14 + 12 * _noise(rng, shape, REGION_SCALE)
    on_line = np.abs(ndimage.gaussian_filter(depth, 3) - offset) < INK_WIDTH
    stroke = _soft(on_line & (_distance(shape, start) < rng.uniform(180, 320)), 1.5)
    return stroke * (1 + 0.15 * _noise(rng, shape, 8))


def _photograph(rng: Generator, density: Array, blurred_at: NDArray[np.float64] | None) -> NDArray[np.uint8]:
    shape = density.shape[:2]
    light = (rng.uniform(0.93, 0.98) * rng.uniform(0.98, 1.0, 3)).astype(np.float32)
    image = 255 * light * np.exp(-density)
    image = ndimage.gaussian_filter(image, rng.uniform(*FOCUS), axes=(0, 1))
    if blurred_at is not None:
        share = np.clip(2 - _distance(shape, blurred_at) / 90 + 0.3 * _noise(rng, shape, 40), 0, 1)[..., None]
        image += share * (ndimage.gaussian_filter(image, OUT_OF_FOCUS, axes=(0, 1)) - image)
    image += rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(*NOISE))
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def _vary_stain(rng: Generator, vector: tuple[float, float, float]) -> Array:
    varied = np.maximum(rng.normal(vector, STAIN_SPREAD), 0.02)
    return (varied / np.linalg.norm(varied) * rng.uniform(*STAIN_STRENGTH)).astype(np.float32)


def _noise(rng: Generator, shape: tuple[int, int], scale: float) -> Array:
    """Isotropic Gaussian field of mean 0 and variance 1, smooth over ``scale`` pixels."""
    step = max(1, int(scale / 2))  # a field so smooth needs no finer grid than this
    sigma = scale / step
    coarse = [math.ceil(n / step) + 2 for n in shape]
    field = ndimage.gaussian_filter(rng.standard_normal(coarse, np.float32), sigma, mode="wrap")
    return _zoom(field * np.float32(2 * math.sqrt(math.pi) * sigma), shape, step)


def _zoom(field: Array, shape: tuple[int, int], step: int = 4) -> Array:
    """Enlarge by a whole number, without corners, and crop to ``shape``."""
    if step == 1:
        return field[: shape[0], : shape[1]]
    image = Image.fromarray(np.ascontiguousarray(field, np.float32))
    size = (shape[1], shape[0])
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC, box=(0, 0, size[0] / step, size[1] / step)))


def _grid(shape: tuple[int, int]) -> NDArray[np.int64]:
    return np.stack(np.mgrid[: shape[0], : shape[1]], axis=-1)  # (H, W, 2)


def _distance(shape: tuple[int, int], point: NDArray[np.float64]) -> Array:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return np.hypot((y - point[0]).astype(np.float32), (x - point[1]).astype(np.float32))


def _signed_distance(mask: Mask) -> Array:
    inside, outside = (ndimage.distance_transform_edt(part) for part in (mask, ~mask))
    return (inside - outside).astype(np.float32)


def _point(rng: Generator, depth: Array, least: float) -> NDArray[np.float64]:
    """A random place at least so deep, or the deepest of all."""
    places = np.argwhere(depth >= min(least, float(depth.max())))
    return places[rng.integers(len(places))].astype(float)


def _soft(mask: Mask, sigma: float) -> Array:
    return ndimage.gaussian_filter(mask.astype(np.float32), sigma)


def _scatter(rng: Generator, density: Array, spacing: float) -> NDArray[np.float64]:
    """Random points, (n, 2), at least ``spacing`` apart, thinned by ``density`` in [0, 1]."""
    height, width = density.shape
    points = rng.uniform(0, (height, width), (round(height * width / spacing**2), 2))
    row, column = points.astype(int).T
    points = points[rng.random(len(points)) < density[row, column]]
    keep = np.ones(len(points), dtype=bool)
    keep[KDTree(points).query_pairs(spacing, output_type="ndarray")[:, 1]] = False
    return points[keep]


def _uphill(field: Array) -> Array:
    return np.arctan2(*np.gradient(field))


def _paint(
    rng: Generator, canvas: Array, kind: Nucleus, points: NDArray[np.float64], angle: Array, grain: Array
) -> None:
    """Paint an ellipse at each point, its long axis along ``angle``, its contour roughened by ``grain``."""
    height, width = canvas.shape
    reach = math.ceil(kind.radius * math.sqrt(kind.elongation) * math.exp(2.5 * kind.spread)) + 1
    window = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    for part in np.array_split(points, math.ceil(len(points) / 4096) or 1):
        radius, stretch, stain = (
            value * np.exp(rng.normal(0, kind.spread, (len(part), 1, 1))).astype(np.float32)
            for value in (kind.radius, kind.elongation, kind.stain)
        )
        stretch = np.sqrt(stretch)
        nearest = part.astype(int)
        turn = angle[tuple(nearest.T)][:, None, None]
        pixels = nearest[..., None, None] + window  # (n, 2, side, side)
        y, x = np.moveaxis((pixels - part[..., None, None]).astype(np.float32), 1, 0)
        row, column = np.clip(pixels[:, 0], 0, height - 1), np.clip(pixels[:, 1], 0, width - 1)
        along = (x * np.cos(turn) + y * np.sin(turn)) / (radius * stretch)
        across = (y * np.cos(turn) - x * np.sin(turn)) / (radius / stretch)
        distance = np.hypot(along, across) + 0.5 * kind.spread * grain[row, column]  # 1 on the contour
        inside = np.clip((1 - distance) * radius + 0.5, 0, 1)
        centre = np.clip(2 - 2 * distance, 0, 1)
        painted = stain * inside * (1 - kind.pallor * centre)
        np.maximum.at(canvas.reshape(-1), (row * width + column).ravel(), painted.ravel())
