"""Masks from TIFFs: against the outlines that they were made from, and what is refused."""

from contextlib import suppress

import numpy as np
import pytest
import tifffile
from data_helpers import assert_refused
from mask_helpers import FakeView, brute_force, level0_mask, random_annotation, whole, write_tiff

from study.data.slides.masks import OutlineMask, TiffMask
from study.data.slides.slide import Slide
from study.errors import StudyError
from study.tasks.labels import IGNORE

# --- what is read ---


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
