"""The miniature Camelyon: laid out as the real one, outlines and masks true to what was drawn, reproducible."""

import errno
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from data_helpers import assert_refused, contents
from rasterio.features import rasterize
from scipy.ndimage import binary_dilation, binary_erosion

from study.data.datasets import miniature_slides as miniature
from study.data.datasets.camelyon16_slides import GROUPS, exclusions, find_slides
from study.data.datasets.miniature import MARKER
from study.data.datasets.miniature_slides import PARTIAL, PLANS, make_miniature, make_slide
from study.data.slides.annotations import read_annotation
from study.data.slides.slide import Slide

NAMES = ("normal_001", "tumor_001", "tumor_002", "tumor_003", "tumor_010")  # pen, holes, two points, spline, partial
TUMOUR = NAMES[1:]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The folder, and where metastases were drawn at 10x by slide."""
    folder = tmp_path_factory.mktemp("miniature")
    return SimpleNamespace(folder=folder, metastases={name: make_slide(folder, name) for name in NAMES})


def _image(folder, name, *, magnification=10):
    with Slide(folder / "images" / f"{name}.tif") as slide:
        view = slide.at(magnification=magnification)
        return view.read(0, 0, view.width, view.height)


def _annotation(folder, name):
    size = (PLANS[name].width, PLANS[name].height)
    return read_annotation(folder / "annotations" / f"{name}.xml", groups=GROUPS, size=size)


def _annotated(drawn, name):
    """What the annotation should outline, at 10x."""
    return drawn.metastases[name] == 1 if name in PARTIAL else drawn.metastases[name] > 0


# --- which slides there are ---


def test_every_kind_and_quirk_of_the_real_data_is_there():
    tumours = {name: plan for name, plan in PLANS.items() if name.startswith("tumor")}
    assert len(tumours) >= 15  # so that two are for validation and two for test
    assert len(PLANS) - len(tumours) >= 8
    assert all((plan.metastases > 0) == (name in tumours) for name, plan in PLANS.items())
    assert {plan.ink for plan in PLANS.values()} == {None, "blue", "green", "black"}
    for kind in (tumours, PLANS.keys() - tumours.keys()):
        for quirk in ("ink", "fold", "out_of_focus"):
            assert any(getattr(PLANS[name], quirk) for name in kind)
    assert {GROUPS[plan.groups[0]] for plan in tumours.values()} == {"tumour"}
    assert {GROUPS[plan.groups[1]] for plan in tumours.values()} == {"excluded"}
    assert len({plan.groups for plan in tumours.values()}) == 3
    assert len({(plan.width, plan.height) for plan in PLANS.values()}) == len(PLANS)


def test_the_table_of_exclusions_says_the_same_of_these_slides_as_of_the_real_ones():
    known = exclusions()["all"]
    assert [name for name in PLANS if name in known.index] == list(PARTIAL)
    assert set(known[list(PARTIAL)]) == {"ignore unlabelled"}


def test_the_folder_is_laid_out_as_camelyon16(drawn):
    found, problems = find_slides(drawn.folder)
    assert (problems, tuple(slide.name for slide in found)) == ({}, NAMES)
    for slide in found:
        assert slide.tumour == (slide.name in TUMOUR) == (slide.mask is not None)
        assert slide.partial == (slide.name in PARTIAL)


# --- slides ---


@pytest.mark.parametrize("name", NAMES)
def test_slides_are_pyramids_with_10x_as_a_level(drawn, name):
    plan = PLANS[name]
    with Slide(drawn.folder / "images" / f"{name}.tif") as slide:
        assert (slide.width, slide.height) == (plan.width, plan.height)
        assert slide.mpp == pytest.approx(0.5)
        assert slide.magnification == 20
        view = slide.at(magnification=10)
        assert (view.level, view.resampled, view.downsample) == (1, False, 2)
        assert drawn.metastases.get(name).shape == (view.height, view.width)
        assert (slide.at(magnification=5).level, slide.at(magnification=5).downsample) == (2, 4)


@pytest.mark.parametrize("name", NAMES)
def test_slides_are_part_tissue_part_white_glass(drawn, name):
    image = _image(drawn.folder, name, magnification=5).astype(float)
    glass = image.min(axis=-1) > 210
    assert 0.4 < glass.mean() < 0.75
    assert np.ptp(image[glass].mean(axis=0)) < 12
    tissue = image[~glass].mean(axis=0)
    assert tissue[1] < tissue[[0, 2]].min() - 15  # pink and violet: least green


def test_the_pen_is_as_blue_as_no_tissue(drawn):
    def ink(name):
        red, green, blue = np.moveaxis(_image(drawn.folder, name, magnification=5).astype(int), -1, 0)
        return ((blue - red > 70) & (green - red > 15)).mean()

    assert PLANS["normal_001"].ink == "blue"
    assert ink("normal_001") > 0.005
    assert ink("tumor_001") < 1e-4


def test_no_direction_is_preferred(drawn):
    changes = []
    for name in NAMES:
        image = _image(drawn.folder, name).astype(float)
        changes.append([np.abs(np.diff(image, axis=axis)).mean() for axis in (0, 1)])
    down, right = np.mean(changes, axis=0)
    assert right / down == pytest.approx(1, abs=0.05)


def test_metastases_cannot_be_told_by_their_colour_alone(drawn):
    """The best threshold on the mean colour of 16 µm squares of tissue errs on many of them."""
    for name in TUMOUR:
        image, tumour = _image(drawn.folder, name), drawn.metastases[name] > 0
        rows, columns = (n // 16 for n in tumour.shape)

        def squares(a, rows=rows, columns=columns):
            a = a[: 16 * rows, : 16 * columns].astype(float)
            return a.reshape(rows, 16, columns, 16, -1).mean(axis=(1, 3)).reshape(rows * columns, -1)

        colour, share = squares(image), squares(tumour)[:, 0]
        tissue = (colour.min(axis=1) < 200) & ((share == 0) | (share == 1))
        for channel in colour[tissue].T:
            found = channel < np.quantile(channel, np.linspace(0.05, 0.95, 19))[:, None]  # (thresholds, squares)
            right = (found == (share[tissue] == 1)).mean(axis=1)
            assert max(right.max(), 1 - right.min()) < 0.9


# --- annotations and masks ---


@pytest.mark.parametrize("name", TUMOUR)
def test_outlines_are_the_truth_to_a_pixel_of_10x(drawn, name):
    annotated = _annotated(drawn, name)
    annotation = _annotation(drawn.folder, name)
    inside = rasterize([annotation.tumour], annotated.shape, transform=(2, 0, 0, 0, 2, 0)).astype(bool)
    near = np.ones((3, 3), bool)
    assert not (inside & ~binary_dilation(annotated, near)).any()
    assert not (binary_erosion(annotated, near) & ~inside).any()
    assert (inside & annotated).sum() / (inside | annotated).sum() > 0.97


@pytest.mark.parametrize("name", TUMOUR)
def test_masks_are_the_truth_with_what_is_cut_out_as_2(drawn, name):
    path = drawn.folder / "masks" / f"{name}_mask.tif"
    mask = tifffile.imread(path, key=0)
    assert (mask.shape, mask.dtype) == ((PLANS[name].height, PLANS[name].width), np.uint8)
    np.testing.assert_array_equal(mask == 1, _annotated(drawn, name).repeat(2, axis=0).repeat(2, axis=1))
    excluded = _annotation(drawn.folder, name).excluded.area
    assert (mask == 2).sum() == pytest.approx(excluded, rel=0.03)
    assert mask.max() <= 2
    with tifffile.TiffFile(path) as file:
        assert all(page.is_tiled for page in file.pages)


def test_most_slides_with_metastases_have_some_with_holes(drawn):
    annotations = [_annotation(drawn.folder, name) for name in TUMOUR]
    assert all(annotation.holes == annotation.exclusions for annotation in annotations)
    assert sum(annotation.holes > 0 for annotation in annotations) >= 3


def test_metastases_are_of_many_sizes(drawn):
    for name in TUMOUR:
        areas = np.bincount(drawn.metastases[name].ravel())[1:]
        assert len(areas) == PLANS[name].metastases
        assert areas.max() > 2 * areas.min() > 0


def test_a_partial_slide_has_metastases_that_nobody_outlined(drawn):
    for name in PARTIAL:
        drawn_area = 4 * (drawn.metastases[name] > 0).sum()
        assert _annotation(drawn.folder, name).tumour.area < 0.8 * drawn_area
        assert drawn.metastases[name].max() == PLANS[name].metastases > 1


def test_quirks_of_the_files_are_as_planned(drawn):
    for name in TUMOUR:
        annotation, plan = _annotation(drawn.folder, name), PLANS[name]
        assert len(annotation.two_point) == plan.two_point
        assert len(annotation.splines) == (annotation.outlines + annotation.exclusions) * (plan.outline == "Spline")
        text = (drawn.folder / "annotations" / f"{name}.xml").read_text()
        used = {group for group in plan.groups if f'PartOfGroup="{group}"' in text}
        assert used == set(plan.groups if annotation.exclusions else plan.groups[:1])
        assert all(f'<Group Name="{group}"' in text for group in used)


# --- reproducible, whole or not at all ---


def test_a_slide_depends_on_the_seed_and_its_name_only(drawn, tmp_path):
    make_slide(tmp_path / "again", "tumor_001")
    make_slide(tmp_path / "other", "tumor_001", seed=1)
    for file in ("images/tumor_001.tif", "annotations/tumor_001.xml", "masks/tumor_001_mask.tif"):
        original = (drawn.folder / file).read_bytes()
        assert (tmp_path / "again" / file).read_bytes() == original
        assert (tmp_path / "other" / file).read_bytes() != original


@pytest.fixture
def two_plans(monkeypatch):
    plans = {"normal_001": PLANS["normal_001"], "tumor_001": PLANS["tumor_001"]}
    plans = {name: plan._replace(width=1040, height=1200) for name, plan in plans.items()}
    monkeypatch.setattr(miniature, "PLANS", plans)
    return plans


def test_the_whole_is_all_its_slides_and_nothing_else(two_plans, tmp_path):
    (tmp_path / "m").mkdir()  # an empty folder is in nobody's way
    make_miniature(tmp_path / "m")
    for name in two_plans:
        make_slide(tmp_path / "alone", name)
    drawn = contents(tmp_path / "m")
    assert b"drawn by a program" in drawn.pop(MARKER)
    assert drawn == contents(tmp_path / "alone")
    assert len(drawn) == 4
    assert {path.name for path in tmp_path.iterdir()} == {"m", "alone"}


def test_what_is_there_already_is_left_alone(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine.txt").write_text("mine")
    for path in (tmp_path / "m", tmp_path / "m" / "mine.txt"):
        with assert_refused(path, "remove it"):
            make_miniature(path)
    assert contents(tmp_path) == {"m/mine.txt": b"mine"}


def test_a_full_disk_leaves_nothing_behind(two_plans, tmp_path, monkeypatch):
    real, calls = miniature.write_pyramid, []

    def full_the_second_time(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*args, **kwargs)

    monkeypatch.setattr(miniature, "write_pyramid", full_the_second_time)
    with assert_refused(tmp_path / "m", "the disk is full"):
        make_miniature(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_negative_seed_is_refused(tmp_path):
    with assert_refused("seed is -1", "at least 0"):
        make_miniature(tmp_path / "m", seed=-1)
    assert list(tmp_path.iterdir()) == []
