"""The paper's filter: tissue and pale tissue are found; glass, grey, black and fat without walls are not."""

import numpy as np
import pytest

from study.data.slides.tissue import tissue_map

CELL = 16
PATCHES = {
    # rows, columns of cells: colour, is tissue
    (2, 2): ((200, 120, 170), True),  # H&E
    (2, 10): ((235, 212, 228), True),  # pale: saturation 0.10
    (2, 18): ((240, 240, 240), False),  # glass
    (10, 2): ((128, 128, 128), False),  # grey, out of focus dust
    (10, 10): ((20, 5, 10), False),  # black ink: saturated, but dark
    (10, 18): ((240, 230, 236), False),  # saturation 0.04
}


class Picture:
    """A picture in the place of a slide: a view of itself at every scale."""

    def __init__(self, pixels, downsample=1.0, mpp=1.0):
        self.pixels, self.downsample, self.mpp, self.factor = pixels, downsample, mpp, 1.0
        self.height, self.width = pixels.shape[:2]
        self.slide = self

    def at(self, *, mpp):
        step = round(mpp / self.mpp)
        rows, columns = (n // step for n in self.pixels.shape[:2])
        small = self.pixels[: rows * step, : columns * step].reshape(rows, step, columns, step, 3)
        return Picture(small.mean(axis=(1, 3)).astype(np.uint8), step, mpp)

    def read(self, x, y, width, height):
        return self.pixels[y : y + height, x : x + width]


@pytest.fixture(scope="module")
def tissue():
    pixels = np.full((18 * CELL, 26 * CELL, 3), 245, np.uint8)
    for (row, column), (colour, _) in PATCHES.items():
        pixels[row * CELL : (row + 6) * CELL, column * CELL : (column + 6) * CELL] = colour
    return tissue_map(Picture(pixels), CELL)


@pytest.mark.parametrize(("place", "expected"), [(place, is_tissue) for place, (_, is_tissue) in PATCHES.items()])
def test_what_is_tissue(tissue, place, expected):
    row, column = place
    assert (tissue[row + 2 : row + 4, column + 2 : column + 4] == expected).all()


def test_the_map_has_a_cell_for_every_begun_one():
    assert tissue_map(Picture(np.zeros((33, 50, 3), np.uint8)), CELL).shape == (3, 4)


def test_background_is_none(tissue):
    assert not tissue[:, -1].any()
