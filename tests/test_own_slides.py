"""Slides of one's own: which file says where their tumour is, and why a slide cannot be used."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from data_helpers import assert_refused
from PIL import Image
from slide_helpers import SIDE, TUMOUR, asap, make_slides, square
from test_qupath import collection, feature

from study.data.datasets import camelyon16_slides
from study.data.extraction.one_slide import Scale
from study.data.extraction.plan import extract_store, plan
from study.data.patches.manifest import read_manifest
from study.data.slides.annotations import EMPTY_ANNOTATION, GROUPS
from study.data.slides.files import find_slides, has_tumour
from study.data.slides.masks import MaskFile
from study.locks import only_one

NAMES = ["a", "b", "c", "d"]
ILL = {"c", "d"}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return make_slides(tmp_path_factory.mktemp("slides"), NAMES) / "images"


@pytest.fixture
def folder(drawn, tmp_path) -> Path:
    """Slides and nothing else."""
    shutil.copytree(drawn, tmp_path / "slides")
    return tmp_path / "slides"


def write_mask(path: Path, *, ill: bool, side: int = SIDE, value: int = 1) -> Path:
    mask = np.zeros((side, side), np.uint8)
    mask[slice(*TUMOUR), slice(*TUMOUR)] = value * ill
    tifffile.imwrite(path, mask, tile=(256, 256), photometric="minisblack", compression="zlib")
    return path


def extract(folder: Path, *, problems: dict | None = None, **labels) -> set[str]:
    """The slides that gave patches with tumour."""
    slides, found = find_slides(folder, "all", **labels)
    assert found == (problems or {})
    store = folder.parent / "store"
    result = extract_store(store, plan(slides, scale=Scale(32), patches=60, seed=0, source="test", **labels), workers=0)
    assert (result.failed, result.short, result.patches) == ({}, {}, 60)
    rows = read_manifest(store)
    return set(rows.slide[rows.tumour > 0])


# --- which labels are in use ---


def test_masks_alone_are_enough(folder):
    for name in NAMES:
        write_mask(folder / f"{name}_mask.tif", ill=name in ILL)
    assert extract(folder, tiff_masks=True) == ILL


def test_where_masks_are_in_use_they_say_which_slides_have_tumour_whatever_the_annotations_say(folder):
    for name in NAMES:
        (folder / f"{name}.xml").write_text(EMPTY_ANNOTATION if name in ILL else asap([square(*TUMOUR)]))
        write_mask(folder / f"{name}_mask.tif", ill=name in ILL)
    assert extract(folder, tiff_masks=True) == ILL


def test_an_empty_annotation_stands_for_the_mask_of_a_slide_without_tumour(folder):
    for name in NAMES:
        if name in ILL:
            write_mask(folder / f"{name}_mask.tif", ill=True)
        else:
            (folder / f"{name}.xml").write_text(EMPTY_ANNOTATION)
    assert extract(folder, tiff_masks=True) == ILL


def test_a_slide_may_have_any_name(folder):
    (folder / "a.tif").rename(folder / "a_tissue.tif")
    found, problems = find_slides(folder, "all")
    assert {files.name for files in found} | problems.keys() == {"a_tissue", *NAMES} - {"a"}


def test_a_folder_to_which_another_process_extracts_is_left_to_it(folder, tmp_path):
    for name in NAMES:
        (folder / f"{name}.xml").write_text(asap([square(*TUMOUR)]) if name in ILL else EMPTY_ANNOTATION)
    with only_one(tmp_path / "store", "extracts to"), assert_refused("extracts to", "store"):
        extract(folder)


def test_where_outlines_are_in_use_masks_do_not_count(folder):
    for name in NAMES:
        (folder / f"{name}.xml").write_text(asap([square(*TUMOUR)]) if name in ILL else EMPTY_ANNOTATION)
        write_mask(folder / f"{name}_mask.tif", ill=name not in ILL)
    assert extract(folder) == ILL


@pytest.mark.parametrize("ending", ["xml", "geojson"])
def test_names_of_groups_of_other_projects_are_mapped_and_tissue_alone_is_no_tumour(folder, ending):
    outlines = {"tissue": square(100, 700), "tumor": square(*TUMOUR)}
    for name in NAMES:
        own = {group: points for group, points in outlines.items() if group == "tissue" or name in ILL}
        if ending == "geojson":
            text = collection(*(feature(points, label=group) for group, points in own.items()))
            (folder / f"{name}.geojson").write_text(str(text).replace("'", '"'))
        else:
            parts = [asap([points], group=group) for group, points in own.items()]
            both = "".join(part.split("<Annotations>")[1].split("</Annotations>")[0] for part in parts)
            (folder / f"{name}.xml").write_text(
                f"<ASAP_Annotations><Annotations>{both}</Annotations></ASAP_Annotations>"
            )
    groups = {**GROUPS, "tissue": "unused", "tumor": "tumour"}
    assert extract(folder, groups=groups) == ILL


def test_a_group_that_nobody_explained_is_refused_when_it_is_used(folder):
    (folder / "a.xml").write_text(asap([square(*TUMOUR)], group="tissue"))
    assert has_tumour(folder / "a.xml", GROUPS)
    assert not has_tumour(folder / "a.xml", {**GROUPS, "tissue": "unused"})


def test_a_tumour_that_is_cut_out_as_a_whole_is_none(folder):
    (folder / "a.xml").write_text(asap([square(*TUMOUR)]))
    assert has_tumour(folder / "a.xml", GROUPS)
    assert not has_tumour(folder / "a.xml", {**GROUPS, "Tumor": "excluded"})


@pytest.mark.parametrize("place", [(0, 0), (299, 0), (0, 249), (299, 249), (150, 130)])
def test_one_pixel_of_a_mask_is_tumour_wherever_it_is(tmp_path, place):
    mask = np.full((300, 250), 2, np.uint8)
    tifffile.imwrite(tmp_path / "m.tif", mask, tile=(64, 48), photometric="minisblack")
    with MaskFile(tmp_path / "m.tif") as file:
        assert not file.has_tumour()
    mask[place] = 1
    tifffile.imwrite(tmp_path / "m.tif", mask, tile=(64, 48), photometric="minisblack")
    with MaskFile(tmp_path / "m.tif") as file:
        assert file.has_tumour()


@pytest.mark.parametrize("content", [b"", b"no TIFF", None])
def test_a_mask_that_cannot_be_read_is_refused_when_it_is_used(tmp_path, content):
    path = write_mask(tmp_path / "a_mask.tif", ill=True, value=255)  # not a value of masks
    if content is not None:
        path.write_bytes(content)
    assert has_tumour(path, GROUPS)


def test_camelyon16_with_masks_alone(tmp_path, drawn):
    for name in ("normal_001", "tumor_001", "tumor_002", "test_001", "test_002", "mine"):
        shutil.copy(drawn / "a.tif", tmp_path / f"{name}.tif")
    for name in ("tumor_001", "test_001"):
        write_mask(tmp_path / f"{name}_mask.tif", ill=True)
    slides, problems = camelyon16_slides.find_slides(tmp_path, tiff_masks=True)
    expected = {"normal_001": False, "test_001": True, "test_002": False, "tumor_001": True}
    assert {slide.name: slide.tumour for slide in slides} == expected
    assert problems.keys() == {"mine", "tumor_002"}
    assert "has no mask tumor_002_mask.tif; get it" in problems["tumor_002"]
    write_mask(tmp_path / "normal_001_mask.tif", ill=True)
    assert "normal slide by its name" in camelyon16_slides.find_slides(tmp_path, tiff_masks=True)[1]["normal_001"]
    write_mask(tmp_path / "normal_001_mask.tif", ill=False)
    assert "normal_001" not in camelyon16_slides.find_slides(tmp_path, tiff_masks=True)[1]


# --- why a slide cannot be used ---


def test_a_slide_without_labels_is_told_which_file_it_lacks(folder):
    (folder / "b_mask.tif").touch()
    _, problems = find_slides(folder, "a,b")
    assert "a.tif has no annotation a.xml or a.geojson; make one" in problems["a"]
    assert "b_mask.tif with --masks tiff" in problems["b"]
    _, problems = find_slides(folder, "a", tiff_masks=True)
    assert "a.tif has no mask a_mask.tif; make one" in problems["a"]
    assert EMPTY_ANNOTATION in problems["a"]


@pytest.mark.parametrize("name", ["e.png", "e.jpg", "e.JPEG"])
def test_a_picture_with_an_annotation_is_to_become_a_slide(folder, name):
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / name)
    assert "e" not in find_slides(folder, "all")[1]  # an overview perhaps
    (folder / "e.xml").write_text(EMPTY_ANNOTATION)
    assert f"{name} is a {'PNG' if 'png' in name else 'JPEG'}" in find_slides(folder, "all")[1]["e"]
    assert "vips tiffsave" in find_slides(folder, "all")[1]["e"]
    (folder / name).write_bytes(b"")
    assert "e.xml has no slide" in find_slides(folder, "all")[1]["e"]


def test_a_folder_of_pictures_alone_is_told_what_to_do(tmp_path):
    with assert_refused(tmp_path, "no slides", "<slide>.xml"):
        find_slides(tmp_path, "all")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "e.png")
    with assert_refused("no slides", "e.png is a PNG", "vips tiffsave"):
        find_slides(tmp_path, "all")
    (tmp_path / "e.xml").write_text(EMPTY_ANNOTATION)
    slides, problems = find_slides(tmp_path, "all")
    assert (slides, list(problems)) == ([], ["e"])


@pytest.mark.parametrize(
    "command", ["extract slides store", "extract slides store --manifest m.csv", "compare-masks slides"]
)
def test_where_no_slide_can_be_used_every_reason_is_listed(folder, monkeypatch, run_command, command):
    monkeypatch.chdir(folder.parent)
    code, output, error = run_command("slides", *command.split())
    listed = [line for line in output.splitlines() if line.startswith("missing: ")]
    assert (code, error, len(listed)) == (1, "", 4)
    assert "a.tif has no annotation a.xml or a.geojson" in listed[0]
    assert not Path("store").exists()


def test_a_slide_of_a_manifest_that_cannot_be_used_is_named_with_the_reason(folder, monkeypatch, run_command):
    for name in NAMES:
        write_mask(folder / f"{name}_mask.tif", ill=name in ILL)
    extract(folder, tiff_masks=True)
    (folder / "c_mask.tif").unlink()
    monkeypatch.chdir(folder.parent)
    again = "slides extract slides again --masks tiff --manifest store/manifest.csv"
    code, _, error = run_command(*again.split())
    assert (code, error.count("\n")) == (2, 1)
    assert "the manifest needs the slide c: " in error
    assert "has no mask c_mask.tif" in error


def test_a_stated_scale_is_noted_by_the_comparison_too(folder, monkeypatch, run_command):
    (folder / "c.xml").write_text(asap([square(*TUMOUR)]))
    write_mask(folder / "c_mask.tif", ill=True)
    monkeypatch.chdir(folder.parent)
    command = "slides compare-masks slides --slides c --slide-mpp 0.25"
    code, output, error = run_command(*command.split())
    assert code == 0
    assert error.startswith("note: c: ")
    assert "says 0.5 µm per pixel; it is taken for 0.25" in error
    assert "Dice 1.0000" in output
