"""Masks of tumour at the scale of a view, from outlines or from the mask TIFFs of the public bucket.

The rule, the same for both: a pixel is tumour if at least half of it is. Each pixel is judged at 4 x 4 samples, at the
centres of its 16 equal squares; 8 of them make it tumour. At 10x on a slide of 40x the samples are the centres of the
level-0 pixels. Whether a sample is tumour does not depend on the window that is read, so windows fit together exactly.

Masks are uint8: 0 is not tumour, 1 is tumour, and 255 (``IGNORE``) is what nobody labelled, on slides that were only
partially annotated: a pixel of which less than half lies in any outline, of tumour or exclusion.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import shapely
import tifffile

from study.data.annotations import Annotation
from study.data.patches import IGNORE
from study.data.slides import View
from study.errors import StudyError

SAMPLES = 4
"""Per pixel, in either direction."""

HALF = SAMPLES**2 // 2

TUMOUR, EXCLUDED = 1, 2
"""Values of the bucket's mask TIFFs; the rest is 0."""

_BLOCK, _BLOCK_LEVEL0 = 512, 4096
"""Pixels of a view, and of level 0, in either direction, that are held at a time where a slide is gone through."""

_CACHED_TILES = 64  # decoded tiles of a TIFF that are kept, of 256 KiB each as ASAP writes them


class Mask(AbstractContextManager):
    """Where the tumour is on one slide; use it as a context manager.

    Attributes:
        view: the slide at the scale of the mask.
        partial: whether the slide was annotated only in part.
    """

    def __init__(self, view: View, *, partial: bool) -> None:
        self.view, self.partial = view, partial

    def read(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """A window as uint8 ``(height, width)`` of 0, 1 and, on partially annotated slides, 255.

        Args:
            x, y: of the window's upper left corner, in pixels of the view.
            width, height: in pixels of the view.

        Raises:
            StudyError: if the file of the mask is damaged there.
        """
        if not self.partial and not self._near_tumour(x, y, width, height):
            return np.zeros((height, width), np.uint8)
        tumour = self._tumour(x, y, width, height)
        mask = (tumour >= HALF).astype(np.uint8)
        if self.partial:
            mask[tumour + self._excluded(x, y, width, height) < HALF] = IGNORE
        return mask

    def cell_map(self, cell: int) -> np.ndarray:
        """Which cells of ``cell`` x ``cell`` pixels have any pixel of tumour, as bool ``(rows, columns)``.

        The cells cover the view from its upper left corner; the last ones can reach beyond it. Memory is bounded.
        """
        cells = np.zeros((math.ceil(self.view.height / cell), math.ceil(self.view.width / cell)), bool)
        for x, y, w, h in _blocks(self.view, cell):
            if self._near_tumour(x, y, w, h) and (tumour := self._tumour(x, y, w, h) >= HALF).any():
                tumour = np.pad(tumour, ((0, -h % cell), (0, -w % cell)))
                rows = tumour.reshape(-1, cell, tumour.shape[1]).any(axis=1)  # (rows, cell, W) -> (rows, W)
                block = rows.reshape(len(rows), -1, cell).any(axis=2)  # (rows, columns, cell) -> (rows, columns)
                cells[y // cell :, x // cell :][: block.shape[0], : block.shape[1]] = block
        return cells

    def close(self) -> None:
        """Release the file, if there is one."""

    def __exit__(self, *_: object) -> None:
        self.close()

    def _near_tumour(self, x: int, y: int, width: int, height: int) -> bool:
        """Whether there may be tumour in a window, as far as that is known at no cost."""
        return True

    @abstractmethod
    def _tumour(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """How many samples of each pixel are tumour, int8 ``(height, width)``."""

    @abstractmethod
    def _excluded(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """How many samples of each pixel are labelled as not tumour, int8 ``(height, width)``."""


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

    def _tumour(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        return self._tumour_edges.count(x, y, width, height)

    def _excluded(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        return self._excluded_edges.count(x, y, width, height)


class TiffMask(Mask):
    """The mask in a TIFF as large as level 0 of the slide: 1 tumour, 2 excluded from it, 0 the rest.

    Only level 0 of the file is read, and reduced by the rule above; how its other levels were made is not known.
    Through tifffile, as it is some seventy times faster here than OpenSlide, which makes RGBA of it.

    Raises:
        StudyError: if the file is missing, damaged, of another size than the slide, or no such mask.
    """

    def __init__(self, path: Path | str, view: View, *, partial: bool) -> None:
        super().__init__(view, partial=partial)
        self.path = Path(path)
        if not self.path.is_file():
            raise StudyError(f"no mask at {path}; check the path")
        with self._errors():
            self._file = tifffile.TiffFile(self.path)
        try:
            with self._errors():
                self._page = self._file.pages.first
                self._height, self._width, self._tile_height, self._tile_width = self._sizes()
        except BaseException:
            self.close()
            raise
        self._decode = lru_cache(_CACHED_TILES)(self._decode)  # by their bytes, as most tiles of a mask are alike

    def close(self) -> None:
        self._file.close()

    def _sizes(self) -> tuple[int, int, int, int]:
        """Height and width of the image and of its tiles, once they are found to be a mask's of this slide."""
        page, slide = self._page, self.view.slide
        if not page.is_tiled or page.samplesperpixel != 1 or page.dtype != np.uint8 or page.imagedepth != 1:
            raise StudyError(f"{self.path} is no mask: expected a tiled TIFF with one channel of 8 bits")
        if (page.imagewidth, page.imagelength) != (slide.width, slide.height):
            raise StudyError(
                f"{self.path} is {page.imagewidth} x {page.imagelength} but {slide.path} is {slide.width} x "
                f"{slide.height} pixels; most probably the mask is another slide's"
            )
        sizes = tuple(map(int, (page.imagelength, page.imagewidth, page.tilelength, page.tilewidth)))
        if min(sizes) < 1:
            raise ValueError("empty tiles")
        return sizes

    def _tumour(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        return self._count(TUMOUR, x, y, width, height)

    def _excluded(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        return self._count(EXCLUDED, x, y, width, height)

    def _count(self, value: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """How many samples of each pixel lie in level-0 pixels of that value, int8 ``(height, width)``."""
        step = self.view.downsample / SAMPLES
        rows, columns = (  # level-0 pixels in which the samples lie
            np.floor((np.arange(SAMPLES * first, SAMPLES * (first + length)) + 0.5) * step).astype(np.int64)
            for first, length in ((y, height), (x, width))
        )
        level0 = self._read_level0(columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        if level0 is None:
            return np.zeros((height, width), np.int8)
        samples = level0 == value
        if samples.shape != (len(rows), len(columns)):  # otherwise every level-0 pixel is a sample
            samples = samples[np.ix_(rows - rows[0], columns - columns[0])]
        samples = samples.view(np.int8).reshape(height, SAMPLES, width * SAMPLES)  # (rows, samples down, all samples)
        per_row = sum(samples[:, n] for n in range(SAMPLES))
        return sum(per_row[:, n::SAMPLES] for n in range(SAMPLES))  # slices add up faster than an axis of 4 does

    def _read_level0(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray | None:
        """A window of level 0, uint8 ``(y1 - y0, x1 - x0)``, or None if all of it is 0."""
        window = None
        top, bottom, left, right = max(y0, 0), min(y1, self._height), max(x0, 0), min(x1, self._width)
        if top >= bottom or left >= right:
            return None
        height, width = self._tile_height, self._tile_width
        for row in range(top // height, math.ceil(bottom / height)):
            for column in range(left // width, math.ceil(right / width)):
                tile = self._read_tile(row, column)
                if tile is None:
                    continue
                if window is None:
                    window = np.zeros((y1 - y0, x1 - x0), np.uint8)
                ya, yb = max(top, row * height), min(bottom, (row + 1) * height)  # where window and tile overlap
                xa, xb = max(left, column * width), min(right, (column + 1) * width)
                part = tile[ya - row * height : yb - row * height, xa - column * width : xb - column * width]
                window[ya - y0 : yb - y0, xa - x0 : xb - x0] = part
        return window

    def _read_tile(self, row: int, column: int) -> np.ndarray | None:
        index = row * math.ceil(self._width / self._tile_width) + column
        with self._errors():
            if not (length := self._page.databytecounts[index]):
                return None  # a sparse file leaves out what is all 0
            self._file.filehandle.seek(self._page.dataoffsets[index])
            return self._decode(self._file.filehandle.read(length))

    def _decode(self, data: bytes) -> np.ndarray | None:
        """The uint8 ``(tile height, tile width)`` tile of these bytes, or None if all of it is 0."""
        tile = self._page.decode(data, 0, jpegtables=self._page.jpegtables)[0]
        tile = tile.reshape(self._tile_height, self._tile_width)
        if (largest := tile.max()) > EXCLUDED:
            raise StudyError(f"{self.path} has the value {largest}; a mask has 0, 1 (tumour) and 2 (excluded)")
        return tile if largest else None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except StudyError:
            raise
        except Exception as error:  # damaged tags make tifffile stumble in every way
            reason = " ".join(str(error).split())
            raise StudyError(f"{self.path} is damaged or not a TIFF ({reason}); get it again") from error


class _Edges:
    """The edges of polygons, for counting samples inside them by scanning along the rows of samples.

    Coordinates are in samples. An edge that is crossed going to the right either leads into a polygon or out of it,
    which its direction tells, as all outer rings turn one way and all holes the other.
    """

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


@dataclass(frozen=True)
class Comparison:
    """Outlines against a mask TIFF, in pixels of a view.

    Attributes:
        outlines, tiff, both: pixels of tumour by the outlines, by the TIFF, and by both.
        deep: pixels that differ although the outlines' mask is the same all around them: more than the border is wrong.
        box: the smallest box that holds the deep ones, as (x0, y0, x1, y1) in level-0 pixels; None if there are none.
    """

    outlines: int
    tiff: int
    both: int
    deep: int
    box: tuple[int, int, int, int] | None

    @property
    def either(self) -> int:
        return self.outlines + self.tiff - self.both

    @property
    def dice(self) -> float:
        """1 where neither has tumour."""
        return 2 * self.both / (self.outlines + self.tiff) if self.either else 1.0

    @property
    def summary(self) -> str:
        """One line for people."""
        text = (
            f"Dice {self.dice:.4f}; tumour pixels: {self.both:,} in both, {self.outlines - self.both:,} in the "
            f"outlines only, {self.tiff - self.both:,} in the TIFF only; {self.deep:,} differ away from the border"
        )
        return f"{text}, within x {self.box[0]}-{self.box[2]}, y {self.box[1]}-{self.box[3]}" if self.box else text


def compare(outlines: OutlineMask, tiff: TiffMask, view: View) -> Comparison:
    """Compare the two masks of a view, block by block.

    Borders differ by up to a pixel for good reasons: ASAP, which made the bucket's TIFFs, judged level-0 pixels at
    their corners, and drew splines as polygons.

    Raises:
        StudyError: if the TIFF is damaged.
    """
    in_outlines = in_tiff = in_both = deep = 0
    boxes = []
    for x, y, w, h in _blocks(view):
        around = outlines._tumour(x - 1, y - 1, w + 2, h + 2) >= HALF
        a, b = around[1:-1, 1:-1], tiff._tumour(x, y, w, h) >= HALF
        in_outlines, in_tiff, in_both = in_outlines + a.sum(), in_tiff + b.sum(), in_both + (a & b).sum()
        differ = a != b
        if differ.any():
            for dy in range(3):
                for dx in range(3):
                    differ &= around[dy : dy + h, dx : dx + w] == a
            rows, columns = np.nonzero(differ)
            if len(rows):
                deep += len(rows)
                boxes.append((x + columns.min(), y + rows.min(), x + columns.max() + 1, y + rows.max() + 1))
    box = None
    if boxes:
        low, high = np.min(boxes, axis=0)[:2], np.max(boxes, axis=0)[2:]
        box = tuple(round(n * view.downsample) for n in (*low.tolist(), *high.tolist()))
    return Comparison(int(in_outlines), int(in_tiff), int(in_both), deep, box)


def _blocks(view: View, cell: int = 1) -> Iterator[tuple[int, int, int, int]]:
    """x, y, width and height of the blocks that make up a view, of whole cells each but for the last ones."""
    step = max(1, int(min(_BLOCK, _BLOCK_LEVEL0 / view.downsample)) // cell) * cell
    for y in range(0, view.height, step):
        for x in range(0, view.width, step):
            yield x, y, min(step, view.width - x), min(step, view.height - y)
