"""Masks: the pixel rule against a brute force, outlines against TIFFs, windows, cells, and what is refused."""

import tracemalloc
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import shapely
import tifffile
from data_helpers import assert_refused
from shapely import MultiPolygon

from study.data.annotations import Annotation, read_annotation
from study.data.masks import Comparison, Mask, OutlineMask, TiffMask, compare
from study.data.patches import IGNORE
from study.data.slides import Slide
from study.errors import StudyError

REAL = Path(__file__).parents[2] / "shared" / "data" / "camelyon16_annotations"

NOTHING = MultiPolygon()

needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real annotations are not here")


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
    across, down = (np.arange(4 * start, 4 * (start + n)) * 0.25 + 0.125 for start, n in ((x, width), (y, height)))
    shapely.prepare(geometry)
    inside = shapely.contains_xy(geometry, *np.meshgrid(across * view.downsample, down * view.downsample))
    return inside.reshape(height, 4, width, 4).sum(axis=(1, 3))  # (rows, samples, columns, samples)


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


# --- the rule ---


@pytest.mark.parametrize("downsample", [1, 2, 4, 4.0007, 5.37, 16])
@pytest.mark.parametrize("partial", [False, True])
def test_a_pixel_is_tumour_if_half_of_its_samples_are(downsample, partial):
    view = FakeView(100 * downsample, 90 * downsample, downsample)
    for seed in range(8):
        annotation = random_annotation(seed, 100 * downsample)
        mask = OutlineMask(annotation, view, partial=partial).read(-7, -5, 110, 101)
        assert mask.dtype == np.uint8
        assert mask.shape == (101, 110)
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


@pytest.mark.parametrize("whole_numbers", [False, True])
@pytest.mark.parametrize("downsample", [3.7, 4])
def test_windows_fit_together(whole_numbers, downsample):
    """Also where borders pass exactly through samples, which is where most outlines of whole numbers go."""
    view = FakeView(60 * downsample, 60 * downsample, downsample)
    for seed in range(20):
        mask = OutlineMask(random_annotation(seed, 60 * 4, whole_numbers=whole_numbers), view, partial=True)
        windows = [[mask.read(x, y, 15, 20) for x in range(0, 60, 15)] for y in range(0, 60, 20)]
        assert (np.block(windows) == whole(mask)).all()


@needs_real
@pytest.mark.parametrize(
    ("name", "box"), [("tumor_009", 2**14), ("tumor_011", None), ("tumor_039", None), ("patient_004_node_4", None)]
)
def test_real_outlines_keep_their_area_at_10x(name, box):
    annotation = read_annotation(REAL / f"{name}.xml")
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
    annotation = read_annotation(REAL / "tumor_039.xml")
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


# --- TIFFs ---


@pytest.mark.parametrize("downsample", [1, 2, 4])
@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("tile", [(16, 32), (512, 512)])
def test_a_tiff_gives_the_mask_of_the_outlines_that_it_was_made_from(tmp_path, downsample, partial, tile):
    width, height = 333, 290
    annotation = random_annotation(1, 300)
    level0 = level0_mask(annotation, width, height)
    view = FakeView(width, height, downsample)
    path = write_tiff(tmp_path / "mask.tif", level0, tile=tile)
    with TiffMask(path, view, partial=partial) as mask:
        if downsample == 4:  # where samples are level-0 pixels
            inside = (0, 0, width // 4, height // 4)
            assert (mask.read(*inside) == OutlineMask(annotation, view, partial=partial).read(*inside)).all()
            assert (mask.read(*inside) == brute_force(annotation, view, *inside, partial=partial)).all()
        n = max(downsample, 1)
        cut = level0[: height // n * n, : width // n * n].reshape(height // n, n, width // n, n)
        tumour, labelled = ((cut == 1).mean(axis=(1, 3)) >= 0.5), ((cut > 0).mean(axis=(1, 3)) >= 0.5)
        expected = np.where(tumour, 1, np.where(labelled | (not partial), 0, IGNORE))
        assert (mask.read(0, 0, width // n, height // n) == expected).all()


@pytest.mark.parametrize(
    "window", [(-30, -20, 200, 150), (70, 60, 40, 40), (-9, -9, 5, 5), (83, 72, 9, 9), (90, 0, 9, 9), (0, 75, 9, 9)]
)
def test_windows_of_a_tiff_reach_beyond_the_slide(tmp_path, window):
    level0 = np.ones((290, 333), np.uint8)
    with TiffMask(write_tiff(tmp_path / "mask.tif", level0), FakeView(333, 290, 4), partial=False) as mask:
        x, y, width, height = window
        expected = np.zeros((400, 400), np.uint8)
        expected[100 : 100 + 73, 100 : 100 + 83] = 1  # 290 / 4 = 72.5: half of the last row is tumour
        assert (mask.read(*window) == expected[100 + y :, 100 + x :][:height, :width]).all()


@pytest.mark.parametrize("downsample", [2.6, 5.37, 16])
def test_windows_of_a_tiff_fit_together_at_any_scale(tmp_path, downsample):
    level0 = level0_mask(random_annotation(2, 600), 640, 610)
    path = write_tiff(tmp_path / "mask.tif", level0)
    with TiffMask(path, FakeView(640, 610, downsample), partial=True) as mask:
        windows = [[mask.read(x, y, 12, 9) for x in range(0, 36, 12)] for y in range(0, 36, 9)]
        assert (np.block(windows) == mask.read(0, 0, 36, 36)).all()
        at = np.floor((np.arange(4 * 36) + 0.5) / 4 * downsample).astype(int)  # the samples, one by one
        counts = (level0[np.ix_(at, at)] == 1).reshape(36, 4, 36, 4).sum(axis=(1, 3))
        assert ((mask.read(0, 0, 36, 36) == 1) == (counts >= 8)).all()


@pytest.mark.parametrize("compression", ["lzw", "zlib", "packbits", None])
def test_tiffs_of_any_lossless_compression(tmp_path, compression):
    level0 = level0_mask(random_annotation(2, 200), 200, 180)
    path = write_tiff(tmp_path / "mask.tif", level0, compression=compression)
    with TiffMask(path, FakeView(200, 180, 1), partial=False) as mask:
        assert (whole(mask) == (level0 == 1)).all()


def test_the_view_of_a_slide(tmp_path):
    """A real slide file, as the masks meet it."""
    pixels = np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)
    tifffile.imwrite(tmp_path / "slide.tif", pixels, tile=(256, 256), photometric="rgb", compression="jpeg")
    annotation = random_annotation(4, 600)
    path = write_tiff(tmp_path / "mask.tif", level0_mask(annotation, 800, 600))
    with Slide(tmp_path / "slide.tif", mpp=0.25) as slide:
        view = slide.at(magnification=10)
        outlines = OutlineMask(annotation, view, partial=False)
        with TiffMask(path, view, partial=False) as tiff:
            assert whole(outlines).shape == view.read(0, 0, view.width, view.height).shape[:2] == (150, 200)
            assert (whole(outlines) == whole(tiff)).all()
            assert (whole(outlines) == brute_force(annotation, view, 0, 0, 200, 150)).all()


# --- what is refused ---


def test_a_missing_mask_is_refused(tmp_path):
    with assert_refused(tmp_path / "none.tif", "check the path"):
        TiffMask(tmp_path / "none.tif", FakeView(64, 64, 4), partial=False)


@pytest.mark.parametrize("shape", [(64, 80), (80, 64), (32, 32)])
def test_a_mask_of_another_size_is_another_slides(tmp_path, shape):
    path = write_tiff(tmp_path / "mask.tif", np.zeros(shape, np.uint8))
    with assert_refused(path, f"{shape[1]} x {shape[0]}", "slide.tif", "64 x 64", "another slide's"):
        TiffMask(path, FakeView(64, 64, 4), partial=False)


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (np.zeros((64, 64, 3), np.uint8), {"photometric": "rgb", "tile": (16, 16)}),
        (np.zeros((64, 64), np.uint16), {"tile": (16, 16)}),
        (np.zeros((64, 64), np.uint8), {}),
        (np.zeros((64, 64), bool), {"tile": (16, 16)}),
    ],
)
def test_a_tiff_that_is_no_mask_is_refused(tmp_path, pixels, options):
    tifffile.imwrite(tmp_path / "mask.tif", pixels, **options)
    with assert_refused(tmp_path / "mask.tif", "tiled TIFF with one channel"):
        TiffMask(tmp_path / "mask.tif", FakeView(64, 64, 4), partial=False)


def test_an_unknown_value_is_named(tmp_path):
    level0 = np.zeros((128, 128), np.uint8)
    level0[100, 100] = 255
    with TiffMask(write_tiff(tmp_path / "mask.tif", level0), FakeView(128, 128, 4), partial=False) as mask:
        assert not mask.read(0, 0, 10, 10).any()
        with assert_refused(mask.path, "value 255", "0, 1 (tumour) and 2 (excluded)"):
            whole(mask)


@pytest.mark.parametrize("content", [b"", b"II*\0", b"no TIFF at all", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_tiff_is_refused(tmp_path, content):
    (tmp_path / "mask.tif").write_bytes(content)
    with assert_refused(tmp_path / "mask.tif", "damaged or not a TIFF", "get it again"):
        TiffMask(tmp_path / "mask.tif", FakeView(64, 64, 4), partial=False)


def test_a_truncated_or_damaged_mask_is_refused_wherever_it_is_cut(tmp_path):
    level0 = level0_mask(random_annotation(0, 200), 200, 200)
    content = write_tiff(tmp_path / "mask.tif", level0).read_bytes()
    path, view = tmp_path / "cut.tif", FakeView(200, 200, 4)
    first = content.index(b"\x80", 300)  # LZW data begin with this code
    for length in (3, 17, 200, first + 20, len(content) // 3):
        path.write_bytes(content[:length])
        with assert_refused(path, "damaged or not a TIFF"), TiffMask(path, view, partial=False) as mask:
            whole(mask)
    rng = np.random.default_rng(0)
    for _ in range(100):  # any damage is refused or unseen, and never another error
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[rng.integers(0, 400, 3)] = rng.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        with suppress(StudyError), TiffMask(path, view, partial=False) as mask:
            whole(mask)


# --- outlines against a TIFF ---


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
