"""The mask of outlines: samples inside polygons are counted by scanning along the rows of samples."""

import numpy as np
import shapely

from study.data.slides.annotations import Annotation
from study.data.slides.masks.mask import SAMPLES, Mask
from study.data.slides.slide import View


class OutlineMask(Mask):
    """The mask of an annotation; that of a slide without tumour is the mask of ``Annotation.empty()``."""

    def __init__(self, annotation: Annotation, view: View, *, partial: bool) -> None:
        super().__init__(view, partial=partial)
        self._tumour_edges = _Edges(annotation.tumour, view.downsample)
        self._area = annotation.tumour
        shapely.prepare(self._area)
        self._excluded_edges = _Edges(annotation.excluded, view.downsample)

    def _near_tumour(self, x: int, y: int, width: int, height: int) -> bool:
        corners = (n * self.view.downsample for n in (x, y, x + width, y + height))
        return self._area.intersects(shapely.box(*corners))

    def tumour_samples(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        return self._tumour_edges.count(x, y, width, height)

    def excluded_samples(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        return self._excluded_edges.count(x, y, width, height)


class _Edges:
    """The edges of polygons, for counting samples inside them by scanning along the rows of samples.

    Coordinates are in samples. An edge that is crossed going to the right either leads into a polygon or out of it,
    which its direction tells, as all outer rings turn one way and all holes the other.
    """

    # not rasterio's rasterize: where borders meet samples its answer depends on the window, and it is 170 times as slow

    def __init__(self, polygons: shapely.MultiPolygon, downsample: float) -> None:
        parts = shapely.get_parts(shapely.orient_polygons(polygons))
        self._boxes = shapely.bounds(parts).reshape(-1, 4) * (SAMPLES / downsample)  # (parts, x0 y0 x1 y1)
        rings = shapely.get_rings(parts)
        points, ring = shapely.get_coordinates(rings, return_index=True)
        points *= SAMPLES / downsample
        self._rightmost = points[:, 0].max(initial=-np.inf)
        start, end = (p[ring[1:] == ring[:-1]] for p in (points[:-1], points[1:]))
        rows = np.ceil(np.stack([start[:, 1], end[:, 1]]) - 0.5).astype(np.int64)  # row n lies at the height n + 1/2
        crossed = rows[0] != rows[1]
        start, end, rows = start[crossed], end[crossed], rows[:, crossed]
        self._top, self._bottom = rows.min(axis=0), rows.max(axis=0)  # rows crossed: from top to before bottom
        self._left = np.minimum(start[:, 0], end[:, 0])
        self._x, self._y = start.T
        self._slope = (end[:, 0] - start[:, 0]) / (end[:, 1] - start[:, 1])
        self._sign = np.where(rows[0] > rows[1], 1, -1).astype(np.int8)  # +1 leads in

    def count(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """How many samples of each pixel of a window are inside, int8 ``(height, width)``."""
        left, first, right, last = window = np.array([x, y, x + width, y + height]) * SAMPLES
        if not ((self._boxes[:, :2] < window[2:]) & (self._boxes[:, 2:] > window[:2])).all(axis=1).any():
            return np.zeros((height, width), np.int8)
        edges = np.flatnonzero((self._top < last) & (self._bottom > first) & (self._left < right))
        if not len(edges) or left >= self._rightmost:
            return np.zeros((height, width), np.int8)
        top = np.maximum(self._top[edges], first)
        crossings = np.minimum(self._bottom[edges], last) - top
        edge = np.repeat(edges, crossings)  # (crossings,) as all below
        row = np.arange(len(edge)) + np.repeat(top - (np.cumsum(crossings) - crossings), crossings)
        position = self._x[edge] + (row + 0.5 - self._y[edge]) * self._slope[edge]
        column = np.clip(np.ceil(position - 0.5), left, right).astype(np.int64)  # the first sample after the crossing
        pixel, before = np.divmod(column - left, SAMPLES)
        # what a crossing adds to the count from one pixel to the next, first in its own and then in all that follow;
        # sums may pass through the bounds of int8, which does no harm as the counts themselves are small
        change = np.zeros(height * (width + 2), np.int8)
        index = (row - first) // SAMPLES * (width + 2) + pixel
        np.add.at(change, index, self._sign[edge] * (SAMPLES - before).astype(np.int8))
        np.add.at(change, index + 1, self._sign[edge] * before.astype(np.int8))
        counts = np.cumsum(change.reshape(height, width + 2), axis=1, dtype=np.int8)  # (rows, columns and two more)
        return counts[:, :width]
