"""Which slides of Camelyon16 are used: the table of exclusions, and what is found in a folder."""

import hashlib
from pathlib import Path

import pytest
from data_helpers import assert_refused
from slide_helpers import asap, square

from study.data.datasets import camelyon16_slides as camelyon16
from study.data.datasets.camelyon16_slides import EMPTY_ANNOTATION, INDEX, exclusions, find_slides, parse_index, select

PARTIAL = [f"tumor_{n:03}" for n in (10, 15, 18, 20, 25, 29, 33, 34, 44, 46, 51, 54, 55, 56, 67, 79, 85, 92, 95, 110)]
PARTIAL += ["test_114"]

SUM = "0123456789abcdef0123456789abcdef"


def make_files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(asap([square(1, 9)]) if name.endswith(".xml") else name)
    return folder


def names(folder: Path, selection: str = "all") -> list[str]:
    slides, problems = find_slides(folder, selection)
    assert problems == {}
    return [slide.name for slide in slides]


# --- the table ---


def test_partially_annotated_slides_are_kept_with_their_unlabelled_pixels_ignored_or_left_out():
    rows = exclusions().loc[PARTIAL]
    assert set(rows["all"]) == {"ignore unlabelled"}
    assert set(rows["clean"]) == {"left out"}


def test_the_other_rows_are_as_documented():
    others = exclusions().drop(PARTIAL)
    assert others[["all", "clean"]].T.to_dict("list") == {
        "normal_086": ["left out", "left out"],
        "normal_144": ["kept", "left out"],
        "test_049": ["left out", "left out"],
        "test_124": ["kept", "left out"],
    }


def test_every_row_has_a_finding_and_a_source():
    table = exclusions()
    assert table.index.is_unique
    assert list(table.columns) == ["finding", "all", "clean", "source"]
    assert (table[["finding", "source"]].map(len) > 5).all(axis=None)
    assert set(table["all"]) | set(table["clean"]) == {"kept", "ignore unlabelled", "left out"}


def test_a_changed_table_has_a_new_version():
    content = Path(camelyon16.__file__).with_name("camelyon16.csv").read_bytes()
    versions = {1: "09cf339f9dd20ff3226ce87110f01802"}
    assert versions[camelyon16.TABLE_VERSION] == hashlib.md5(content).hexdigest()


# --- what belongs to a slide ---


@pytest.mark.parametrize(
    "files",
    [
        ["images/tumor_001.tif", "annotations/tumor_001.xml", "masks/tumor_001_mask.tif"],
        ["training/tumor/tumor_001.tif", "training/lesion_annotations/tumor_001.xml", "m/tumor_001_mask.tif"],
        ["tumor_001.tif", "tumor_001.xml", "tumor_001_mask.tif"],
        ["a/tumor_001.tif", "a/Tumor_001.xml", "a/Tumor_001_Mask.tif"],
    ],
    ids=["bucket", "first release", "one folder", "other case"],
)
def test_a_slide_is_found_with_its_annotation_and_mask_wherever_they_lie(tmp_path, files):
    make_files(tmp_path, *files, "normal_002.tif")
    (normal, tumour), problems = find_slides(str(tmp_path))
    assert problems == {}
    assert tumour.name == "tumor_001"
    assert [tumour.path, tumour.annotation, tumour.mask] == [tmp_path / file for file in files]
    assert tumour.tumour
    assert (normal.name, normal.annotation, normal.mask, normal.tumour) == ("normal_002", None, None, False)


def test_slides_of_all_formats_come_sorted_and_without_masks_hidden_and_unfinished_files(tmp_path):
    make_files(tmp_path, "b/normal_003.tif", "a/normal_002.SVS", "normal_001.tiff", "c/mine.ndpi", "mine.xml")
    make_files(tmp_path, "masks/normal_003_mask.tif", "background_tissue/normal_003_tissue.tif", "README.md")
    make_files(tmp_path, "b/._normal_004.tif", ".trash/normal_005.tif", "b/normal_006.tif.partial", "b/.normal_007.tif")
    assert names(tmp_path) == ["mine", "normal_001", "normal_002", "normal_003"]


def test_linked_folders_are_followed_and_circles_end(tmp_path):
    make_files(tmp_path / "disk", "images/normal_001.tif")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "images").symlink_to(tmp_path / "disk" / "images")
    (tmp_path / "disk" / "images" / "back").symlink_to(folder)
    assert names(folder) == ["normal_001"]


@pytest.mark.parametrize("second", ["other/normal_001.tif", "normal_001.svs", "NORMAL_001.tif"])
def test_a_slide_that_is_there_twice_is_refused_with_both_files(tmp_path, second):
    make_files(tmp_path, "images/normal_001.tif", second)
    with assert_refused("images/normal_001.tif", second, "remove one"):
        find_slides(tmp_path)


def test_two_annotations_of_a_slide_are_refused(tmp_path):
    make_files(tmp_path, "tumor_001.tif", "old/tumor_001.xml", "new/tumor_001.xml")
    with assert_refused("old/tumor_001.xml", "new/tumor_001.xml", "remove one"):
        find_slides(tmp_path)


# --- selections ---


@pytest.fixture
def release(tmp_path) -> Path:
    """All slides that ever were in Camelyon16, and their annotations."""
    kinds = {"normal": 160, "tumor": 111, "test": 130}
    every = [f"{kind}_{n:03}" for kind, count in kinds.items() for n in range(1, count + 1)]
    make_files(tmp_path, *(f"images/{name}.tif" for name in every))
    return make_files(
        tmp_path, *(f"annotations/{name}.xml" for name in every if name[:2] == "tu" or name == "test_114")
    )


def test_all_and_clean_take_what_the_table_says(release):
    everything = {file.stem for file in release.glob("images/*")}
    gone = {"normal_086", "test_049"}
    slides, problems = find_slides(release, "all")
    assert problems == {}
    assert {slide.name for slide in slides} == everything - gone
    assert {slide.name for slide in slides if slide.partial} == set(PARTIAL)
    clean, problems = find_slides(release, "clean")
    assert problems == {}
    assert {slide.name for slide in clean} == everything - gone - set(PARTIAL) - {"normal_144", "test_124"}
    assert not any(slide.partial for slide in clean)
    assert (len(slides), len(clean)) == (399, 376)


def test_slides_are_chosen_by_name_and_pattern(release):
    assert names(release, "tumor_001,normal_003") == ["normal_003", "tumor_001"]
    assert names(release, " Tumor_001 , normal_00[12],tumor_001,") == ["normal_001", "normal_002", "tumor_001"]
    assert len(names(release, "tumor_00*,*_003")) == 9 + 2
    assert names(release, "normal_08[5-7]") == ["normal_085", "normal_087"]
    (slide,), _ = find_slides(release, "tumor_010")
    assert slide.partial


@pytest.mark.parametrize("selection", ["tumor_001,tumor_999,x*", "tumor_999,x*,normal_001"])
def test_names_that_are_not_there_are_named(release, selection):
    with assert_refused("tumor_999, x*", release, "check the names"):
        find_slides(release, selection)


def test_a_name_that_is_left_out_is_refused_with_the_reason(release):
    with assert_refused("test_049", "duplicate", "README.md", "choose other slides"):
        select(["test_050"], "test_049", where=release)


@pytest.mark.parametrize("selection", ["", " ", ","])
def test_an_empty_selection_is_refused(release, selection):
    with assert_refused("no slides chosen", "all, clean, or names"):
        find_slides(release, selection)


# --- problems ---


def problems_of(folder: Path, selection: str = "all") -> dict[str, str]:
    slides, problems = find_slides(folder, selection)
    assert not {slide.name for slide in slides} & problems.keys()
    assert all("\n" not in reason for reason in problems.values())
    return problems


def test_a_tumour_slide_without_annotation_is_listed_and_the_others_are_found(tmp_path):
    make_files(tmp_path, "tumor_001.tif", "tumor_002.tif", "tumor_002.xml")
    (slide,), problems = find_slides(tmp_path)
    assert slide.name == "tumor_002"
    assert list(problems) == ["tumor_001"]
    assert "tumor_001.tif has no annotation tumor_001.xml; get it" in problems["tumor_001"]


def test_an_annotation_without_slide_is_listed_if_it_is_selected(tmp_path):
    make_files(tmp_path, "normal_001.tif", "tumor_001.xml", "tumor_010.xml", "test_049.xml")
    assert problems_of(tmp_path).keys() == {"tumor_001", "tumor_010"}
    assert problems_of(tmp_path, "clean").keys() == {"tumor_001"}
    assert problems_of(tmp_path, "tumor_010").keys() == {"tumor_010"}
    assert problems_of(tmp_path, "normal_001") == {}
    assert str(tmp_path / "tumor_001.xml") in problems_of(tmp_path)["tumor_001"]


def test_a_test_slide_is_normal_unless_an_annotation_was_published(tmp_path):
    make_files(tmp_path, "test_001.tif", "test_002.tif", "test_003.tif", "test_001.xml")
    slides, problems = find_slides(tmp_path)
    assert problems == {}
    assert [slide.tumour for slide in slides] == [True, False, False]
    (tmp_path / INDEX).write_text(f"{SUM} *annotations/test_001.xml\n{SUM} *annotations/test_002.xml\n")
    slides, problems = find_slides(tmp_path)
    assert [(slide.name, slide.tumour) for slide in slides] == [("test_001", True), ("test_003", False)]
    assert problems.keys() == {"test_002"}
    assert "checksums.md5 lists; download it" in problems["test_002"]


def test_an_annotated_normal_slide_is_a_contradiction(tmp_path):
    make_files(tmp_path, "normal_001.tif", "normal_001.xml")
    assert "normal slide by its name" in problems_of(tmp_path)["normal_001"]


def test_a_slide_of_ones_own_needs_an_annotation_which_may_be_empty(tmp_path):
    make_files(tmp_path, "case 7.svs", "case 8.svs", "case 8.xml")
    (slide,), problems = find_slides(tmp_path)
    assert slide.name == "case 8"
    assert EMPTY_ANNOTATION in problems["case 7"]


@pytest.mark.parametrize("name", ["none", "file"])
def test_a_missing_folder_is_refused(tmp_path, name):
    (tmp_path / "file").touch()
    with assert_refused(tmp_path / name, "check the path"):
        find_slides(tmp_path / name)


def test_a_folder_without_slides_is_refused(tmp_path):
    make_files(tmp_path, "tumor_001.xml", "a/b.png", "tumor_001_mask.tif")
    with assert_refused(tmp_path, "no slides", "images/*.tif"):
        find_slides(tmp_path)


# --- the list of sums ---


def test_lists_of_sums_are_read_as_md5sum_writes_them():
    text = f"{SUM}  images/a.tif\r\n\n{SUM.upper()} *./b c.xml\n"
    assert {str(path): md5 for path, md5 in parse_index(text, where="x").items()} == {
        "images/a.tif": SUM,
        "b c.xml": SUM,
    }


@pytest.mark.parametrize("line", ["<html>", SUM, f"{SUM[1:]}  a.tif", f"{SUM}a.tif", f"{SUM}0  a.tif", "{}"])
def test_a_list_that_is_none_is_refused_with_the_line(line):
    with assert_refused("the list", "line 2", "get it again"):
        parse_index(f"{SUM}  a.tif\n{line}\n", where="the list")


@pytest.mark.parametrize("path", ["../../x.tif", "a/../../x.tif", "/etc/x.tif", "..\\x.tif", "c:/x.tif", "a/.."])
def test_paths_that_lead_out_of_the_folder_are_refused(path):
    with assert_refused("the list", "outside of its folder"):
        parse_index(f"{SUM}  {path}\n", where="the list")


def test_a_damaged_list_in_the_folder_is_named(tmp_path):
    make_files(tmp_path, "normal_001.tif")
    (tmp_path / INDEX).write_bytes(b"\xff\xfe\0")
    with assert_refused(tmp_path / INDEX, "download it again"):
        find_slides(tmp_path)


@pytest.mark.parametrize(("content", "tumour"), [(EMPTY_ANNOTATION, False), ("", True), ("<ASAP_Annot", True)])
def test_an_annotation_without_outlines_is_of_a_normal_slide_and_a_broken_one_is_not(tmp_path, content, tumour):
    (tmp_path / "mine.svs").write_text("slide")
    (tmp_path / "mine.xml").write_text(content)
    (slide,), problems = find_slides(tmp_path)
    assert (slide.tumour, problems) == (tumour, {})
