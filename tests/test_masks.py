"""Masks: the pixel rule against a brute force, windows, cells, and memory."""

import tracemalloc
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import shapely
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from mask_helpers import (
    NOTHING,
    FakeView,
    annotation_of,
    brute_force,
    count_inside,
    count_near_border,
    level0_mask,
    random_annotation,
    whole,
    write_tiff,
)
from properties import examples

from study.data.datasets.camelyon16_slides import GROUPS
from study.data.slides.annotations import Annotation, read_annotation
from study.data.slides.masks import OutlineMask, TiffMask, compare
from study.tasks.labels import IGNORE

REAL = Path(__file__).parents[2] / "shared" / "data" / "camelyon16_annotations"

needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real annotations are not here")


# --- the rule ---


def outlines(*, largest: int = 60):
    """Polygons of whole or any numbers, within and beyond a view of 40 x 40 pixels, that may cross themselves."""
    whole_number = st.integers(-10, largest)
    number = st.one_of(whole_number, st.floats(-10, largest).map(lambda n: round(n, 3)))
    points = [st.lists(st.tuples(kind, kind), min_size=3, max_size=8) for kind in (whole_number, number)]
    valid = partial(shapely.make_valid, method="structure", keep_collapsed=False)
    return st.lists(st.one_of(points).map(shapely.Polygon).map(valid), max_size=3).map(shapely.union_all)


@examples(40)
@given(
    tumour=outlines(),
    excluded=outlines(),
    downsample=st.sampled_from([0.25, 1, 2, 4, 4.0007, 5.37, 16]),
    corner=st.tuples(st.integers(-7, 40), st.integers(-7, 40)),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    in_part=st.booleans(),
)
def test_a_pixel_of_any_outlines_is_tumour_if_half_of_its_samples_are(
    tumour, excluded, downsample, corner, size, in_part
):
    """Samples on a border, which a ray may put on either side, count on either."""
    tumour, excluded = (shapely.affinity.scale(g, downsample, downsample, origin=(0, 0)) for g in (tumour, excluded))
    annotation, view = annotation_of(tumour, excluded), FakeView(40 * downsample, 40 * downsample, downsample)
    mask, window = OutlineMask(annotation, view, partial=in_part), (*corner, *size)
    found = mask.tumour_samples(*window), mask.excluded_samples(*window)
    for samples, geometry in zip(found, (annotation.tumour, annotation.excluded), strict=True):
        inside, near = count_inside(geometry, view, *window), count_near_border(geometry, view, *window)
        assert samples.shape == size[::-1]
        assert ((inside - near <= samples) & (samples <= inside + near)).all()
    labelled = found[0] + found[1] >= 8
    expected = np.where(found[0] >= 8, 1, np.where(labelled | (not in_part), 0, IGNORE))
    read = mask.read(*window)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("downsample", [1, 4.0007, 16])
@pytest.mark.parametrize("partial", [False, True])
def test_masks_of_crooked_tumours_are_those_of_a_brute_force(downsample, partial):
    view = FakeView(100 * downsample, 90 * downsample, downsample)
    mask = OutlineMask(random_annotation(0, 100 * downsample), view, partial=partial).read(-7, -5, 110, 101)
    annotation = random_annotation(0, 100 * downsample)
    assert (mask == brute_force(annotation, view, -7, -5, 110, 101, partial=partial)).all()
    assert set(np.unique(mask)) == ({0, 1, IGNORE} if partial else {0, 1})


def test_exactly_half_is_enough():
    view = FakeView(40, 40, 4)
    half, less = shapely.box(4, 4, 8, 6), shapely.box(20, 20, 24, 21.4)
    mask = whole(OutlineMask(annotation_of(shapely.union(half, less)), view, partial=False))
    assert np.argwhere(mask).tolist() == [[1, 1]]


@pytest.mark.parametrize("shape", [NOTHING, shapely.box(-50, -50, 500, 500), shapely.box(200, 0, 300, 100)])
def test_windows_with_nothing_or_only_tumour(shape):
    mask = OutlineMask(annotation_of(shape), FakeView(160, 120, 4), partial=False)
    assert (whole(mask) == shape.contains(shapely.box(0, 0, 160, 120))).all()


def test_a_slide_without_tumour():
    view = FakeView(160, 120, 4)
    with OutlineMask(Annotation.empty(), view, partial=False) as mask:
        assert not whole(mask).any()
        assert not mask.cell_map(16).any()
    assert (whole(OutlineMask(Annotation.empty(), view, partial=True)) == IGNORE).all()


def test_on_a_partial_slide_only_what_lies_in_an_outline_is_labelled():
    tumour, excluded = shapely.box(0, 0, 40, 40), shapely.box(16, 16, 60, 24)
    annotation, view = annotation_of(tumour, excluded), FakeView(80, 80, 4)
    mask = whole(OutlineMask(annotation, view, partial=True))
    assert (mask[4:6, 4:15] == 0).all()
    assert (mask[:10, :10].sum(), (mask[:10, :10] == 1).sum()) == (100 - 12, 100 - 12)
    assert (np.delete(mask[10:], np.s_[:], axis=0) == IGNORE).all()
    assert (mask[10:] == IGNORE).all()
    assert (mask[:4, 10:] == IGNORE).all()


def test_a_pixel_that_is_labelled_by_halves_is_not_ignored():
    tumour, excluded = shapely.box(0, 0, 4, 1), shapely.box(0, 1, 4, 2)  # a quarter each of the first pixel
    view = FakeView(8, 8, 4)
    assert whole(OutlineMask(annotation_of(tumour, excluded), view, partial=True)).tolist() == [[0, 255], [255, 255]]


# --- windows ---


@examples(60)
@given(
    annotation=st.builds(annotation_of, outlines(largest=200), outlines(largest=200)),
    downsample=st.sampled_from([3.7, 4]),
    cuts=st.tuples(*2 * [st.sets(st.integers(1, 59), max_size=3).map(lambda some: [0, *sorted(some), 60])]),
)
def test_windows_fit_together_wherever_they_are_cut(annotation, downsample, cuts):
    """Also where borders pass exactly through samples, which is where most outlines of whole numbers go."""
    mask = OutlineMask(annotation, FakeView(60 * downsample, 60 * downsample, downsample), partial=True)
    windows = [[mask.read(x, y, right - x, low - y) for x, right in pairwise(cuts[0])] for y, low in pairwise(cuts[1])]
    assert (np.block(windows) == whole(mask)).all()


@needs_real
@pytest.mark.parametrize(
    ("name", "box"), [("tumor_009", 2**14), ("tumor_011", None), ("tumor_039", None), ("patient_004_node_4", None)]
)
def test_real_outlines_keep_their_area_at_10x(name, box):
    annotation = read_annotation(REAL / f"{name}.xml", groups=GROUPS)
    x0, y0 = (int(n) // 4 - 3 for n in annotation.tumour.bounds[:2])
    x1, y1 = (int(n) // 4 + 3 for n in annotation.tumour.bounds[2:])
    if box:  # of the tumour that spreads over most of its slide, a part
        x0, y0 = (x0 + x1) // 2, (y0 + y1) // 2
        x1, y1 = min(x1, x0 + box // 4), min(y1, y0 + box // 4)
        tumour = shapely.intersection(annotation.tumour, shapely.box(4 * x0, 4 * y0, 4 * x1, 4 * y1))
    mask = OutlineMask(annotation, FakeView(100_000, 222_000, 4), partial=False)
    stitched = 0
    for y in range(y0, y1, 1000):
        for x in range(x0, x1, 1000):
            stitched += int(mask.read(x, y, min(1000, x1 - x), min(1000, y1 - y)).sum())
    area = (tumour if box else annotation.tumour).area / 16
    assert stitched == pytest.approx(area, rel=1e-2 if area < 1e5 else 1e-3)
    if (x1 - x0) * (y1 - y0) < 5e7:
        assert int(mask.read(x0, y0, x1 - x0, y1 - y0).sum()) == stitched


@needs_real
def test_real_windows_are_those_of_a_brute_force():
    annotation = read_annotation(REAL / "tumor_039.xml", groups=GROUPS)
    view = FakeView(100_000, 222_000, 4)
    mask = OutlineMask(annotation, view, partial=False)
    rng = np.random.default_rng(0)
    corners = shapely.get_coordinates(annotation.tumour)
    for x, y in rng.choice(corners, 12) // 4 - 32:
        window = (int(x), int(y), 64, 64)
        # points with one or no decimal lie on samples, where the brute force decides otherwise
        differ = (mask.read(*window) != brute_force(annotation, view, *window)).mean()
        assert differ < 0.005


# --- cells ---


@pytest.mark.parametrize("cell", [1, 7, 16, 2000])
def test_the_cells_with_any_tumour(cell, tmp_path):
    width, height = 1603, 1391
    annotation, view = random_annotation(3, 900), FakeView(width, height, 2)
    tiff = write_tiff(tmp_path / "mask.tif", level0_mask(annotation, width, height))
    for mask in (OutlineMask(annotation, view, partial=True), TiffMask(tiff, view, partial=True)):
        expected = np.zeros((-(-view.height // cell), -(-view.width // cell)), bool)
        rows, columns = np.nonzero(whole(mask) == 1)
        expected[rows // cell, columns // cell] = True
        cells = mask.cell_map(cell)
        assert cells.dtype == bool
        assert (cells == expected).all()
        mask.close()


def test_cells_across_blocks():
    annotation = annotation_of(shapely.union(shapely.box(4090, 30, 4105, 50), shapely.box(9000, 8990, 9016, 9000)))
    cells = OutlineMask(annotation, FakeView(10_000, 10_000, 4), partial=False).cell_map(16)
    assert cells.shape == (157, 157)
    assert np.argwhere(cells).tolist() == [[0, 63], [0, 64], [140, 140]]


@pytest.mark.parametrize("downsample", [4, 32])
def test_memory_is_bounded_whatever_the_size_of_the_slide(tmp_path, downsample):
    size, tile = 40_960, 512
    tiles = (np.full((tile, tile), n == 5000, np.uint8) if n in (0, 5000) else None for n in range((size // tile) ** 2))
    path = tmp_path / "mask.tif"
    options = {"shape": (size, size), "dtype": np.uint8, "tile": (tile, tile), "photometric": "minisblack"}
    tifffile.imwrite(path, tiles, compression="lzw", bigtiff=True, **options)
    view = FakeView(size, size, downsample)
    annotation = annotation_of(shapely.box(0, 0, 9000, 9000))
    tracemalloc.start()
    with TiffMask(path, view, partial=False) as tiff, OutlineMask(annotation, view, partial=False) as outlines:
        assert tiff.cell_map(16).sum() == (tile // 16 // downsample) ** 2
        assert compare(outlines, tiff, view).both == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20  # of the 1.6 GB of level 0
