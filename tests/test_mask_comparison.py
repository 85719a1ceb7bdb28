"""Outlines against a mask TIFF: what is found to differ, and where."""

import numpy as np
import pytest
import shapely
from mask_helpers import FakeView, annotation_of, write_tiff

from study.data.slides.annotations import Annotation
from study.data.slides.masks import Comparison, OutlineMask, TiffMask, compare


@pytest.fixture
def compared(tmp_path):
    def compared(outlines: Annotation, tiff: Annotation, size: int = 5000) -> Comparison:
        view = FakeView(size, size, 4)
        level0 = np.zeros((size, size), np.uint8)
        for value, geometry in ((1, tiff.tumour), (2, tiff.excluded)):
            for x0, y0, x1, y1 in (map(int, part.bounds) for part in geometry.geoms):
                level0[y0:y1, x0:x1] = value
        path = write_tiff(tmp_path / "mask.tif", level0, tile=(512, 512))
        with TiffMask(path, view, partial=False) as mask:
            return compare(OutlineMask(outlines, view, partial=False), mask, view)

    return compared


def test_equal_masks(compared):
    annotation = annotation_of(shapely.box(400, 800, 4800, 4400), shapely.box(1000, 1000, 2000, 2000))
    comparison = compared(annotation, annotation)
    pixels = 1100 * 900 - 250 * 250
    assert comparison == Comparison(pixels, pixels, pixels, 0, None)
    assert comparison.dice == 1
    assert comparison.either == pixels


def test_a_shift_by_a_pixel_concerns_the_border_only(compared):
    comparison = compared(
        annotation_of(shapely.box(400, 800, 4400, 4400)), annotation_of(shapely.box(404, 804, 4404, 4404))
    )
    assert comparison.outlines == comparison.tiff == 1000 * 900
    assert comparison.both == 999 * 899
    assert comparison.dice == pytest.approx(999 * 899 / (1000 * 900))
    assert (comparison.deep, comparison.box) == (0, None)


def test_a_hole_that_one_of_them_lacks_is_found(compared):
    tumour, hole = shapely.box(400, 800, 4800, 4400), shapely.box(4040, 2000, 4200, 2400)  # across two blocks
    for a, b in (((tumour, hole), (tumour,)), ((tumour,), (tumour, hole))):
        comparison = compared(annotation_of(*a), annotation_of(*b))
        assert comparison.either - comparison.both == 40 * 100
        if len(b) == 2:
            assert comparison.deep == 40 * 100
            assert comparison.box == (4040, 2000, 4200, 2400)
        else:  # the hole's own border is the outlines', inside by a pixel
            assert comparison.deep == 38 * 98
            assert comparison.box == (4044, 2004, 4196, 2396)
        assert "x 40" in comparison.summary


def test_a_whole_tumour_that_one_of_them_lacks_is_found(compared):
    tumour = annotation_of(shapely.box(400, 800, 4800, 4400))
    comparison = compared(Annotation.empty(), tumour)
    assert (comparison.outlines, comparison.both, comparison.dice) == (0, 0, 0)
    assert comparison.deep == comparison.tiff == 1100 * 900
    assert comparison.box == (400, 800, 4800, 4400)


def test_no_tumour_in_either(compared):
    comparison = compared(Annotation.empty(), Annotation.empty(), size=500)
    assert comparison == Comparison(0, 0, 0, 0, None)
    assert comparison.dice == 1
    assert comparison.summary.startswith("Dice 1.0000")
    assert "\n" not in comparison.summary
