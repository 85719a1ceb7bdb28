"""Slides read at the scale that is asked for, with the same pixels in every window."""

import ctypes
import shlex
from pathlib import Path

import numpy as np
import pytest
import tifffile
from data_helpers import assert_refused
from PIL import Image
from slide_helpers import SIDE, make_slide

from study.data.slides.pyramid import write_pyramid
from study.data.slides.slide import Slide
from study.errors import StudyError

SVS = Path(__file__).parents[2] / "shared" / "data" / "slides" / "CMU-1-Small-Region.svs"


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return make_slide(tmp_path_factory.mktemp("slides") / "slide.tif")  # 768 x 768 at 0.5 µm, and a level at 1 µm


@pytest.fixture
def slide(path):
    with Slide(path) as opened:
        yield opened


def test_the_scale_is_what_the_file_says(slide):
    assert (slide.name, slide.width, slide.height) == ("slide", SIDE, SIDE)
    assert (slide.mpp, slide.magnification) == (pytest.approx(0.5), 20)  # of micrometres alone: the nearest power


@pytest.mark.parametrize(
    ("asked", "level", "resampled", "downsample"),
    [
        ({"magnification": 20}, 0, False, 1),
        ({"magnification": 10}, 1, False, 2),
        ({"mpp": 1.0}, 1, False, 2),
        ({"mpp": 1.009}, 1, False, 2),  # within a hundredth
        ({"mpp": 0.8}, 0, True, 1.6),
        ({"mpp": 1.5}, 1, True, 3),
        ({"magnification": 2.5}, 1, True, 8),
    ],
)
def test_a_level_is_taken_where_one_fits_and_the_next_finer_resampled_elsewhere(
    slide, asked, level, resampled, downsample
):
    view = slide.at(**asked)
    assert (view.level, view.resampled) == (level, resampled)
    assert view.downsample == pytest.approx(downsample, rel=1e-3)
    assert view.mpp == pytest.approx(0.5 * downsample, rel=1e-3)
    assert (view.width, view.height) == (round(SIDE / view.downsample),) * 2


@pytest.mark.parametrize("asked", [{"magnification": 20}, {"magnification": 10}, {"mpp": 0.8}, {"mpp": 1.37}])
def test_a_pixel_is_the_same_in_every_window(slide, asked):
    view = slide.at(**asked)
    whole = view.read(0, 0, view.width, view.height)
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = rng.integers(0, view.width - 40, 2)
        width, height = rng.integers(1, 40, 2)
        np.testing.assert_array_equal(view.read(x, y, width, height), whole[y : y + height, x : x + width])


def test_resampling_averages_what_it_covers(slide):
    fine, coarse = slide.at(magnification=20), slide.at(magnification=5)
    whole = Image.fromarray(fine.read(0, 0, SIDE, SIDE)).resize((SIDE // 4, SIDE // 4), Image.Resampling.BOX)
    difference = np.abs(coarse.read(0, 0, coarse.width, coarse.height).astype(int) - np.asarray(whole))
    assert difference.mean() < 6  # noise of 40 grey levels: Lanczos and JPEG leave a little


def test_beyond_the_border_it_is_white(slide):
    for view in (slide.at(magnification=10), slide.at(mpp=1.37)):
        window = view.read(-20, view.height - 5, 60, 30)
        assert (window[:, :15] == 255).all()
        assert (window[10:] == 255).all()


def test_a_scale_finer_than_the_slide_is_refused(slide):
    with assert_refused("slide.tif", "20x", "40x"):
        slide.at(magnification=40)
    with assert_refused("slide.tif", "0.5 µm", "0.25"):
        slide.at(mpp=0.25)
    with assert_refused("positive"):
        slide.at(mpp=0)


def test_a_slide_that_does_not_say_its_scale_needs_it_stated(tmp_path):
    tifffile.imwrite(tmp_path / "bare.tif", np.zeros((512, 512, 3), np.uint8), tile=(256, 256), photometric="rgb")
    with assert_refused("bare.tif", "--slide-mpp"):
        Slide(tmp_path / "bare.tif")
    with Slide(tmp_path / "bare.tif", mpp=0.243) as slide:
        assert (slide.mpp, slide.magnification, slide.stated) == (0.243, 40, 0.243)


@pytest.mark.parametrize(("stated", "power"), [(0.25, 40), (1.0, 10)])
def test_what_is_stated_counts_more_than_what_the_file_says_and_there_is_a_notice(path, stated, power):
    with Slide(path, mpp=stated) as slide:
        assert (slide.mpp, slide.magnification, slide.stated) == (stated, power, stated)
        assert slide.at(magnification=10).mpp == pytest.approx(1, rel=1e-3)
        assert slide.notice == f"{path} says 0.5 µm per pixel; it is taken for {stated:g}, as --slide-mpp states"


@pytest.mark.parametrize("stated", [None, 0.5, 0.504])
def test_there_is_no_notice_where_both_agree(path, stated):
    with Slide(path, mpp=stated) as slide:
        assert (slide.notice, slide.magnification) == ("", 20)
        assert slide.mpp == pytest.approx(stated or 0.5)


def test_dots_per_inch_of_an_image_editor_are_named_and_can_be_corrected(tmp_path):
    image = np.zeros((512, 512, 3), np.uint8)
    dots = {"resolution": (72, 72), "resolutionunit": "INCH"}
    tifffile.imwrite(tmp_path / "dots.tif", image, tile=(256, 256), photometric="rgb", **dots)
    with Slide(tmp_path / "dots.tif") as slide, assert_refused("352.8 µm per pixel", "--slide-mpp"):
        slide.at(magnification=10)
    with Slide(tmp_path / "dots.tif", mpp=0.25) as slide:
        assert (slide.at(magnification=10).width, slide.at(magnification=10).mpp) == (128, 1.0)


@pytest.mark.parametrize("content", [b"", b"no slide", None], ids=["zero bytes", "text", "truncated"])
def test_what_is_no_slide_is_named(path, tmp_path, content):
    bad = tmp_path / "bad.tif"
    bad.write_bytes(path.read_bytes()[:5000] if content is None else content)
    with assert_refused(bad, "damaged or not a slide"), Slide(bad) as slide:
        slide.at(magnification=10).read(0, 0, 300, 300)
    with assert_refused("nowhere.svs", "check the path"):
        Slide(tmp_path / "nowhere.svs")


@pytest.mark.parametrize(("name", "kind"), [("a b.png", "PNG"), ("a.jpg", "JPEG"), ("a.tif", "TIFF in strips")])
def test_an_image_without_tiles_is_not_called_damaged_and_the_command_is_given(tmp_path, name, kind):
    Image.fromarray(np.full((300, 400, 3), 200, np.uint8)).save(tmp_path / name)
    with pytest.raises(StudyError) as caught:
        Slide(tmp_path / name)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / name} is a {kind}, and slides are read in tiles")
    assert "damaged" not in message
    assert "\n" not in message
    command = shlex.split(message.split("`")[1])
    assert command[:3] == ["vips", "tiffsave", str(tmp_path / name)]
    assert Path(command[3]).suffix == ".tif"
    assert Path(command[3]) != tmp_path / name
    assert command[4:] == ["--tile", "--pyramid", "--compression", "jpeg"]
    assert "--slide-mpp" in message


def test_a_map_of_probabilities_is_no_slide(tmp_path):
    write_pyramid(tmp_path / "p.tif", [np.zeros((600, 600), np.float32)], (600, 600), np.float32, mpp=1)
    with Slide(tmp_path / "p.tif") as slide, assert_refused("p.tif", "TIFF of float32", "8 bits"):
        slide.at(mpp=1).read(0, 0, 9, 9)


def test_damage_within_a_slide_is_named_when_it_is_read(path, tmp_path):
    bad = tmp_path / "bad.tif"
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        for offset, length in zip(file.pages[0].dataoffsets, file.pages[0].databytecounts, strict=True):
            data[offset : offset + length] = b"\0" * length
    bad.write_bytes(data)
    with Slide(bad) as slide, assert_refused(bad, "damaged"):
        slide.at(magnification=20).read(0, 0, 300, 300)


def test_a_slide_is_closed_again(path):
    with Slide(path) as slide:
        view = slide.at(magnification=10)
    with pytest.raises(ctypes.ArgumentError, match="closed"):
        view.slide._slide.read_region((0, 0), 0, (4, 4))


@pytest.mark.skipif(not SVS.is_file(), reason="the real slide is not there")
def test_a_real_slide():
    with Slide(SVS) as slide:
        assert (slide.width, slide.height, slide.mpp, slide.magnification) == (2220, 2967, 0.499, 20)
        view = slide.at(magnification=10)
        assert (view.width, view.height, view.mpp, view.resampled) == (1110, 1484, 0.998, True)
        tissue = view.read(300, 300, 320, 320)
        assert tissue.shape == (320, 320, 3)
        assert tissue.mean(axis=(0, 1))[1] < min(tissue.mean(axis=(0, 1))[[0, 2]])  # pink: least green
