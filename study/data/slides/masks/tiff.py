"""The mask in a TIFF of the public bucket: samples are looked up among the pixels of level 0."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import tifffile

from study.data.slides.masks.mask import SAMPLES, Mask
from study.data.slides.slide import View
from study.errors import StudyError

TUMOUR, EXCLUDED = 1, 2
"""Values of the bucket's mask TIFFs; the rest is 0."""

_CACHED_TILES = 64  # decoded tiles that are kept, of 256 KiB each as ASAP writes them


class TiffMask(Mask):
    """The mask in a TIFF as large as level 0 of the slide, see :class:`MaskFile`.

    Raises:
        StudyError: if the file is missing, damaged, of another size than the slide, or no such mask.
    """

    def __init__(self, path: Path | str, view: View, *, partial: bool) -> None:
        super().__init__(view, partial=partial)
        self.path = Path(path)
        self._file = MaskFile(self.path)
        width, height, slide = self._file.width, self._file.height, view.slide
        if (width, height) != (slide.width, slide.height):
            self.close()
            raise StudyError(
                f"{self.path} is {width} x {height} but {slide.path} is {slide.width} x {slide.height} pixels; most "
                "probably the mask is another slide's"
            )

    def close(self) -> None:
        self._file.close()

    def tumour_samples(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        return self._count(TUMOUR, x, y, width, height)

    def excluded_samples(self, x: int, y: int, width: int, height: int) -> np.ndarray:
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
        top, bottom, left, right = max(y0, 0), min(y1, self._file.height), max(x0, 0), min(x1, self._file.width)
        if top >= bottom or left >= right:
            return None
        height, width = self._file.tile_height, self._file.tile_width
        for row in range(top // height, math.ceil(bottom / height)):
            for column in range(left // width, math.ceil(right / width)):
                tile = self._file.tile(row, column)
                if tile is None:
                    continue
                if window is None:
                    window = np.zeros((y1 - y0, x1 - x0), np.uint8)
                ya, yb = max(top, row * height), min(bottom, (row + 1) * height)  # where window and tile overlap
                xa, xb = max(left, column * width), min(right, (column + 1) * width)
                part = tile[ya - row * height : yb - row * height, xa - column * width : xb - column * width]
                window[ya - y0 : yb - y0, xa - x0 : xb - x0] = part
        return window


class MaskFile(AbstractContextManager):
    """Level 0 of a mask TIFF, tile by tile: 1 tumour, 2 excluded from it, 0 the rest; use it as a context manager.

    The other levels are not read; how they were made is not known. Through tifffile, as it is some seventy times faster
    here than OpenSlide, which makes RGBA of it.

    Attributes:
        path: of the file.
        height, width, tile_height, tile_width: in pixels.

    Raises:
        StudyError: if the file is missing, damaged or no such mask.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise StudyError(f"no mask at {path}; check the path")
        with self._errors():
            self._file = tifffile.TiffFile(path)
        try:
            with self._errors():
                self._page = self._file.pages.first
                self.height, self.width, self.tile_height, self.tile_width = self._sizes()
        except BaseException:
            self.close()
            raise
        self._decode = lru_cache(_CACHED_TILES)(self._decode)  # by their bytes, as most tiles of a mask are alike

    def close(self) -> None:
        self._file.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def has_tumour(self) -> bool:
        """Whether any pixel is tumour.

        Raises:
            StudyError: if a tile is damaged.
        """
        rows, columns = math.ceil(self.height / self.tile_height), math.ceil(self.width / self.tile_width)
        tiles = (self.tile(row, column) for row in range(rows) for column in range(columns))
        return any(tile is not None and bool((tile == TUMOUR).any()) for tile in tiles)

    def _sizes(self) -> tuple[int, int, int, int]:
        """Height and width of the image and of its tiles, once they are found to be a mask's."""
        page = self._page
        if not page.is_tiled or page.samplesperpixel != 1 or page.dtype != np.uint8 or page.imagedepth != 1:
            raise StudyError(f"{self.path} is no mask: expected a tiled TIFF with one channel of 8 bits")
        sizes = tuple(map(int, (page.imagelength, page.imagewidth, page.tilelength, page.tilewidth)))
        if min(sizes) < 1:
            raise ValueError("empty tiles")
        return sizes

    def tile(self, row: int, column: int) -> np.ndarray | None:
        """A tile, uint8 ``(tile height, tile width)``, or None if all of it is 0.

        Raises:
            StudyError: if it is damaged or has another value than a mask's.
        """
        index = row * math.ceil(self.width / self.tile_width) + column
        with self._errors():
            if not (length := self._page.databytecounts[index]):
                return None  # a sparse file leaves out what is all 0
            self._file.filehandle.seek(self._page.dataoffsets[index])
            return self._decode(self._file.filehandle.read(length))

    def _decode(self, data: bytes) -> np.ndarray | None:
        """The uint8 ``(tile height, tile width)`` tile of these bytes, or None if all of it is 0."""
        tile = self._page.decode(data, 0, jpegtables=self._page.jpegtables)[0]
        tile = tile.reshape(self.tile_height, self.tile_width)
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
