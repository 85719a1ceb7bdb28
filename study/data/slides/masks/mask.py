"""The rule that makes a mask, the same wherever the labels come from: a pixel is tumour if at least half of it is.

Each pixel is judged at 4 x 4 samples, at the centres of its 16 equal squares; 8 of them make it tumour. At 10x on a
slide of 40x the samples are the centres of the level-0 pixels. Whether a sample is tumour does not depend on the window
that is read, so windows fit together exactly.

Masks are uint8: 0 is not tumour, 1 is tumour, and 255 (``IGNORE``) is what nobody labelled, on slides that were only
partially annotated: a pixel of which less than half lies in any outline, of tumour or exclusion.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager

import numpy as np

from study.data.slides.slide import View
from study.tasks.labels import IGNORE

SAMPLES = 4
"""Per pixel, in either direction."""

HALF = SAMPLES**2 // 2

_BLOCK, _BLOCK_LEVEL0 = 512, 4096
"""Pixels of a view, and of level 0, in either direction, that are held at a time where a slide is gone through."""


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
        tumour = self.tumour_samples(x, y, width, height)
        mask = (tumour >= HALF).astype(np.uint8)
        if self.partial:
            mask[tumour + self.excluded_samples(x, y, width, height) < HALF] = IGNORE
        return mask

    def cell_map(self, cell: int) -> np.ndarray:
        """Which cells of ``cell`` x ``cell`` pixels have any pixel of tumour, as bool ``(rows, columns)``.

        The cells cover the view from its upper left corner; the last ones can reach beyond it. Memory is bounded.
        """
        cells = np.zeros((math.ceil(self.view.height / cell), math.ceil(self.view.width / cell)), bool)
        for x, y, w, h in blocks(self.view, cell):
            if self._near_tumour(x, y, w, h) and (tumour := self.tumour_samples(x, y, w, h) >= HALF).any():
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
    def tumour_samples(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """How many samples of each pixel are tumour, int8 ``(height, width)``."""

    @abstractmethod
    def excluded_samples(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """How many samples of each pixel are labelled as not tumour, int8 ``(height, width)``."""


def blocks(view: View, cell: int = 1) -> Iterator[tuple[int, int, int, int]]:
    """x, y, width and height of the blocks that make up a view, of whole cells each but for the last ones."""
    step = max(1, int(min(_BLOCK, _BLOCK_LEVEL0 / view.downsample)) // cell) * cell
    for y in range(0, view.height, step):
        for x in range(0, view.width, step):
            yield x, y, min(step, view.width - x), min(step, view.height - y)
