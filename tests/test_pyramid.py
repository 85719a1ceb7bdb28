"""Pyramids: read back by tifffile and OpenSlide, averages against brute force, bounded memory, all or nothing."""

import errno
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
from data_helpers import assert_refused, contents
from PIL import Image

from study.data.slides import pyramid
from study.data.slides.pyramid import write_pyramid
from study.data.slides.slide import Slide
from study.errors import StudyError

SHAPE = (1301, 1090)  # three levels, an odd number of rows and no whole number of tiles


def _photograph() -> np.ndarray:
    """Smooth RGB (1301, 1090, 3), of which JPEG keeps all but little."""
    small = np.random.default_rng(0).integers(40, 255, (14, 12, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize(SHAPE[::-1], Image.Resampling.BICUBIC))


def _strips(image: np.ndarray, *heights: int):
    for top, bottom in zip((0, *np.cumsum(heights)), (*np.cumsum(heights), len(image)), strict=True):
        yield image[top:bottom]


def _levels(path: Path) -> list[np.ndarray]:
    with tifffile.TiffFile(path) as file:
        return [page.asarray() for page in file.pages]


def _mean_of_what_there_is(image: np.ndarray) -> np.ndarray:
    """The 2 x 2 averages one by one, in float64."""
    height, width = image.shape[:2]
    means = np.empty((-(-height // 2), -(-width // 2), *image.shape[2:]))
    for y, x in np.ndindex(means.shape[:2]):
        means[y, x] = image[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].astype(float).mean(axis=(0, 1))
    return means


def test_openslide_reads_what_was_written(tmp_path):
    image = _photograph()
    write_pyramid(tmp_path / "s.tif", _strips(image, 1, 700), image.shape, np.uint8, mpp=0.5, compression="jpeg")
    with Slide(tmp_path / "s.tif") as slide:
        assert (slide.width, slide.height) == SHAPE[::-1]
        assert slide.mpp == pytest.approx(0.5, rel=1e-6)
        assert slide.magnification == 20
        view = slide.at(magnification=10)
        assert (view.level, view.resampled, view.width, view.height) == (1, False, 545, 651)
        level_0 = slide.at(magnification=20).read(0, 0, slide.width, slide.height)
        assert np.abs(level_0.astype(int) - image).mean() < 2
        assert np.abs(view.read(0, 0, 545, 651) - _mean_of_what_there_is(image)).mean() < 2
        assert slide.at(mpp=2).level == 2


def test_every_page_says_its_scale_and_only_the_first_is_whole(tmp_path):
    write_pyramid(tmp_path / "s.tif", [np.zeros(SHAPE, np.uint8)], SHAPE, np.uint8, mpp=0.25)
    with tifffile.TiffFile(tmp_path / "s.tif") as file:
        assert file.is_bigtiff
        assert [page.shape for page in file.pages] == [SHAPE, (651, 545), (326, 273)]
        assert [int(page.subfiletype) for page in file.pages] == [0, 1, 1]
        assert all(page.tilewidth == page.tilelength == 512 for page in file.pages)
        for level, page in enumerate(file.pages):
            pixels, centimetres = page.tags["XResolution"].value
            assert 1e4 / (pixels / centimetres) == pytest.approx(0.25 * 2**level, rel=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_levels_are_means_of_two_by_two_pixels(tmp_path, monkeypatch, dtype, channels):
    monkeypatch.setattr(pyramid, "SMALLEST", 10)
    image = (np.random.default_rng(0).random((71, 45, *channels)) * 255).astype(dtype)
    write_pyramid(tmp_path / "s.tif", _strips(image, 5, 30), image.shape, dtype, mpp=1, tile=16)
    levels = _levels(tmp_path / "s.tif")
    assert [level.shape[:2] for level in levels] == [(71, 45), (36, 23), (18, 12), (9, 6)]
    np.testing.assert_array_equal(levels[0], image)
    for finer, coarser in pairwise(levels):
        assert coarser.dtype == dtype
        expected = _mean_of_what_there_is(finer)
        if dtype is np.uint8:
            np.testing.assert_array_equal(coarser, np.floor(expected + 0.5))
        else:
            np.testing.assert_allclose(coarser, expected, rtol=1e-6)


def test_labels_are_never_mixed(tmp_path, monkeypatch):
    monkeypatch.setattr(pyramid, "SMALLEST", 10)
    labels = np.random.default_rng(0).choice(np.array([0, 2], np.uint8), (43, 31))
    write_pyramid(tmp_path / "s.tif", [labels], labels.shape, np.uint8, mpp=1, reduce="nearest", tile=16)
    for level, written in enumerate(_levels(tmp_path / "s.tif")):
        np.testing.assert_array_equal(written, labels[:: 2**level, :: 2**level])


def test_an_image_smaller_than_a_tile_is_one_level(tmp_path):
    image = np.full((3, 5), 0.25, np.float32)
    write_pyramid(tmp_path / "deep" / "s.tif", [image], image.shape, np.float32, mpp=1)
    [level] = _levels(tmp_path / "deep" / "s.tif")
    np.testing.assert_array_equal(level, image)


def test_strips_may_be_one_array_used_again(tmp_path):
    def strips():
        strip = np.empty((100, 40), np.uint8)
        for n in range(20):
            strip[:] = n
            yield strip

    write_pyramid(tmp_path / "s.tif", strips(), (2000, 40), np.uint8, mpp=1)
    np.testing.assert_array_equal(_levels(tmp_path / "s.tif")[0][:, 0], np.repeat(np.arange(20), 100))


@pytest.mark.parametrize(
    ("strip", "count"),
    [
        (np.zeros((600, 40), np.uint8), 1),
        (np.zeros((600, 40), np.uint8), 3),
        (np.zeros((600, 41), np.uint8), 2),
        (np.zeros((600, 40), np.float32), 2),
    ],
)
def test_strips_that_do_not_make_up_the_image_leave_the_old_file(tmp_path, strip, count):
    (tmp_path / "s.tif").write_bytes(b"old")
    with pytest.raises(ValueError, match="strip"):
        write_pyramid(tmp_path / "s.tif", [strip] * count, (1200, 40), np.uint8, mpp=1)
    assert contents(tmp_path) == {"s.tif": b"old"}


def test_an_error_of_the_caller_leaves_nothing_behind(tmp_path):
    def strips():
        yield np.zeros((600, 40), np.uint8)
        raise StudyError("the slide is damaged")

    with assert_refused("the slide is damaged"):
        write_pyramid(tmp_path / "s.tif", strips(), (1200, 40), np.uint8, mpp=1)
    assert contents(tmp_path) == {}


def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path):
    def strips():
        yield np.zeros((600, 40), np.uint8)
        raise OSError(errno.ENOSPC, "No space left on device")

    with assert_refused(tmp_path / "s.tif", "the disk is full"):
        write_pyramid(tmp_path / "s.tif", strips(), (1200, 40), np.uint8, mpp=1)
    assert contents(tmp_path) == {}


def test_a_disk_too_small_is_refused_before_the_first_strip(tmp_path):
    side = 10**8

    def strips():
        raise AssertionError("asked for a strip")
        yield

    with assert_refused(tmp_path / "s.tif", "the disk is full"):
        write_pyramid(tmp_path / "s.tif", strips(), (side, side), np.float32, mpp=1)
    assert contents(tmp_path) == {}


MEMORY = """
import resource, sys
import numpy as np
from study.data.slides.pyramid import write_pyramid

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

def write(height):
    strip = np.zeros((256, 8000), np.float32)
    write_pyramid(sys.argv[1], (strip[: height - y] for y in range(0, height, 256)), (height, 8000), np.float32, mpp=1)

write(2000)
before = peak()
write(24000)
print(peak() - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_image(tmp_path):
    """768 MB of image, after 64 MB of it."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "s.tif")],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 40e6
