"""Made annotations, their masks by brute force, and mask TIFFs, for tests."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import shapely
import tifffile
from shapely import MultiPolygon

from study.data.slides.annotations import Annotation
from study.data.slides.masks import Mask
from study.tasks.labels import IGNORE

NOTHING = MultiPolygon()


@dataclass
class FakeView:
    """What masks need of a View: the size of the slide and the scale."""

    slide_width: int
    slide_height: int
    downsample: float
    slide: SimpleNamespace = field(init=False)

    def __post_init__(self) -> None:
        self.slide = SimpleNamespace(width=self.slide_width, height=self.slide_height, path="slide.tif")
        self.width, self.height = (round(n / self.downsample) for n in (self.slide_width, self.slide_height))


def annotation_of(tumour: shapely.Geometry, excluded: shapely.Geometry = NOTHING) -> Annotation:
    parts = (shapely.get_parts(g) for g in (shapely.difference(tumour, excluded), excluded))
    return Annotation(*(MultiPolygon([p for p in part if p.geom_type == "Polygon"]) for part in parts))


def random_annotation(seed: int, size: float, *, whole_numbers: bool = False) -> Annotation:
    """Several crooked tumours with holes, and exclusions inside, across and outside of them."""
    rng = np.random.default_rng(seed)

    def blobs(count: int, radius: float) -> shapely.Geometry:
        shapes = []
        for centre in rng.uniform(0, size, (count, 1, 2)):
            angle = np.sort(rng.uniform(0, 2 * np.pi, 12))
            points = centre + (rng.uniform(0.2, 1, 12) * radius * np.stack([np.cos(angle), np.sin(angle)])).T
            shapes.append(shapely.make_valid(shapely.Polygon(np.round(points) if whole_numbers else points)))
        return shapely.union_all(shapes)

    return annotation_of(blobs(4, size / 2), blobs(6, size / 6))


def count_inside(geometry: shapely.Geometry, view: FakeView, x: int, y: int, width: int, height: int) -> np.ndarray:
    """How many of the 16 samples of each pixel lie inside, one by one: (height, width)."""
    shapely.prepare(geometry)
    return _count(shapely.contains_xy(geometry, *_samples(view, x, y, width, height)))


def count_near_border(
    geometry: shapely.Geometry, view: FakeView, x: int, y: int, width: int, height: int
) -> np.ndarray:
    """How many of the 16 samples of each pixel lie on the border, as far as floats can tell: (height, width)."""
    border, points = geometry.boundary, shapely.points(*_samples(view, x, y, width, height))
    shapely.prepare(border)
    return _count(shapely.dwithin(border, points, 1e-9 * view.downsample))


def _samples(view: FakeView, x: int, y: int, width: int, height: int) -> list[np.ndarray]:
    """x and y of all samples of a window, each (4 * height, 4 * width)."""
    across, down = (np.arange(4 * start, 4 * (start + n)) * 0.25 + 0.125 for start, n in ((x, width), (y, height)))
    return np.meshgrid(across * view.downsample, down * view.downsample)


def _count(samples: np.ndarray) -> np.ndarray:
    height, width = (n // 4 for n in samples.shape)
    return samples.reshape(height, 4, width, 4).sum(axis=(1, 3))  # (rows, samples, columns, samples)


def brute_force(annotation: Annotation, view: FakeView, *window: int, partial: bool = False) -> np.ndarray:
    tumour, excluded = (count_inside(g, view, *window) for g in (annotation.tumour, annotation.excluded))
    unlabelled = IGNORE if partial else 0
    return np.where(tumour >= 8, 1, np.where(tumour + excluded >= 8, 0, unlabelled)).astype(np.uint8)


def level0_mask(annotation: Annotation, width: int, height: int) -> np.ndarray:
    """0, 1 and 2 as in the bucket's TIFFs, by the centres of the level-0 pixels."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    tumour, excluded = (shapely.contains_xy(g, x, y) for g in (annotation.tumour, annotation.excluded))
    return np.where(excluded, 2, tumour).astype(np.uint8)


def write_tiff(path: Path, mask: np.ndarray, *, tile: tuple[int, int] = (64, 48), **options) -> Path:
    """A pyramid whose reduced level is wrong."""
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        options = {"photometric": "minisblack", "tile": tile, "compression": "lzw"} | options
        file.write(mask, **options)
        file.write(np.full_like(mask[::2, ::2], 2), subfiletype=1, **options)
    return path


def whole(mask: Mask) -> np.ndarray:
    return mask.read(0, 0, mask.view.width, mask.view.height)
