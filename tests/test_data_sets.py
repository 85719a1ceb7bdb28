"""Every data set ends in a patch store, made once and reused while it fits."""

import os
import shutil

import numpy as np
import pytest
from data_helpers import add_pair, assert_refused, contents, make_store

from study.data.datasets import ebhi_box
from study.data.datasets.ebhi_box import pack_box
from study.data.datasets.miniature import SOURCE as MINIATURE
from study.data.datasets.miniature_slides import VERSION, make_slide
from study.data.datasets.registry import prepare
from study.data.patches.store import PatchStore
from study.files import sha256_of

SOURCES = ["miniature", "ebhi", "nuinsseg", "store"]


class Made:
    """Tells whether a file was written since the last question, whatever the resolution of the clock."""

    def __init__(self, path):
        self.path = path

    def anew(self):
        again = not self.path.exists() or self.path.stat().st_mtime_ns != 0
        os.utime(self.path, ns=(0, 0))
        return again


# --- the miniature Camelyon ---


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A few of its slides, where the rest of it would be."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("normal_001", "normal_002", "normal_003", "tumor_001", "tumor_002", "tumor_003"):
        make_slide(folder / f"miniature-{VERSION}", name)
    return folder


def test_a_miniature_store_has_all_splits_and_is_made_once_from_slides(drawn):
    store = prepare("miniature", data=None, folder=drawn, size=16, count=60)
    assert (len(store), store.size, store.source) == (60, (16, 16), MINIATURE)
    assert set(store.split) == {"train", "validation", "test"}
    made = Made(drawn / f"miniature-{VERSION}-60-patches-16px/slides/tumor_001.h5")
    assert made.anew()
    assert prepare("miniature", data=None, folder=drawn, size=16, count=60).fingerprint == store.fingerprint
    assert not made.anew()


def test_miniature_stores_of_several_sizes_and_numbers_live_side_by_side(drawn):
    stores = [prepare("miniature", data=None, folder=drawn, size=s, count=n) for s, n in [(16, 60), (17, 60), (16, 61)]]
    assert len({store.path for store in stores}) == 3


def test_a_damaged_slide_of_the_miniature_is_named_with_the_remedy(drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "data")
    (tmp_path / f"data/miniature-{VERSION}/images/tumor_001.tif").write_bytes(b"")
    with assert_refused("tumor_001", "delete", "drawn again"):
        prepare("miniature", data=None, folder=tmp_path / "data", size=16, count=30)


# --- EBHI-SEG ---


@pytest.fixture
def ebhi(tmp_path):
    for case in range(6):
        for index in range(2):
            add_pair(tmp_path / "ebhi", f"GT{case}-1-400-{index:03d}", tissue=["Normal", "Polyp"][index])
    return tmp_path / "ebhi"


@pytest.fixture
def make_ebhi(tmp_path, ebhi):
    return lambda size=16: prepare("ebhi", data=ebhi, folder=tmp_path / "data", size=size, count=0, task="glands")


def test_an_ebhi_store_holds_every_pair_and_no_case_in_two_splits(make_ebhi):
    store = make_ebhi()
    assert (len(store), store.size, store.source) == (12, (16, 16), "EBHI-SEG, glands")
    assert set(store.split) == {"train", "validation", "test"}
    assert all(len(set(store.split[store.case == case])) == 1 for case in store.case)


def test_an_ebhi_store_is_made_once_and_again_when_a_file_is_added_or_changed(make_ebhi, ebhi):
    made = Made(make_ebhi().path)
    assert made.anew()
    make_ebhi()
    assert not made.anew()
    image, label = add_pair(ebhi, "GT7-1-400-001")
    assert len(make_ebhi()) == 13
    assert made.anew()
    add_pair(ebhi, "GT7-1-400-001", label=np.eye(16) * 200)
    assert PatchStore(made.path).fingerprint != make_ebhi().fingerprint
    assert made.anew()
    image.unlink()
    label.unlink()
    assert len(make_ebhi()) == 12
    assert made.anew()


def test_an_ebhi_store_does_not_depend_on_where_the_folder_stands(make_ebhi, ebhi, tmp_path):
    made = Made(make_ebhi().path)
    assert made.anew()
    moved = ebhi.rename(tmp_path / "elsewhere")
    prepare("ebhi", data=moved, folder=tmp_path / "data", size=16, count=0, task="glands")
    assert not made.anew()


@pytest.mark.parametrize("fault", ["truncated image", "missing label", "bad name", "too few cases", "no folder"])
def test_a_failing_ebhi_folder_leaves_the_older_good_store_in_place(make_ebhi, ebhi, tmp_path, fault):
    make_ebhi()
    old = contents(tmp_path / "data")
    image, label = add_pair(ebhi, "GT9-1-400-001" if fault != "bad name" else "x", tissue="Serrated")
    if fault == "truncated image":  # the last of all: everything else has been read by then
        image.write_bytes(image.read_bytes()[:100])
    elif fault == "missing label":
        label.unlink()
    elif fault == "too few cases":
        for file in ebhi.glob("*/*/GT[2-9]*"):
            file.unlink()
    elif fault == "no folder":
        ebhi.rename(tmp_path / "gone")
    with assert_refused("at least three" if fault == "too few cases" else ebhi):
        make_ebhi()
    assert contents(tmp_path / "data") == old


# --- EBHI-SEG as it comes with the package ---


@pytest.fixture
def box(tmp_path, ebhi, monkeypatch):
    """A small box instead of the real one; call it to put in another."""

    def put(folder=ebhi):
        pack_box(folder, tmp_path / "box.zip")
        monkeypatch.setattr(ebhi_box, "BOX", tmp_path / "box.zip")
        monkeypatch.setattr(ebhi_box, "SHA256", sha256_of(tmp_path / "box.zip"))

    put()
    return put


def from_box(tmp_path, size=16, task="cancer"):
    return prepare("ebhi", data=None, folder=tmp_path / "data", size=size, count=0, task=task)


def test_without_data_ebhi_seg_is_taken_from_the_box_once(box, ebhi, tmp_path):
    store = from_box(tmp_path)
    assert (len(store), store.size, store.source) == (12, (16, 16), "EBHI-SEG, cancer")
    made = Made(store.path)
    assert made.anew()
    assert from_box(tmp_path).fingerprint == store.fingerprint
    assert not made.anew()
    add_pair(ebhi, "GT7-1-400-001")
    box()  # as after an update of the package
    assert len(from_box(tmp_path)) == 13


def test_each_task_size_and_origin_has_a_store_of_its_own_that_its_name_tells(box, make_ebhi, tmp_path):
    stores = [from_box(tmp_path), from_box(tmp_path, task="glands"), from_box(tmp_path, size=17), make_ebhi()]
    assert [store.path.name for store in stores] == [
        *("ebhi-cancer-16px-box.h5", "ebhi-glands-16px-box.h5", "ebhi-cancer-17px-box.h5"),
        "ebhi-glands-16px-folder.h5",
    ]
    assert len({store.fingerprint for store in stores}) == 4


def test_a_store_names_the_classes_of_a_task_of_several(box, tmp_path):
    assert from_box(tmp_path, task="grades").classes == ("background", "benign gland", "cancer")
    assert from_box(tmp_path).classes is None  # two go unnamed, as in stores from before there were several


def test_more_pixels_than_the_box_has_are_refused_with_the_download(box, tmp_path):
    from_box(tmp_path, size=128)
    with assert_refused("128 x 128", "129 x 129", "--data PATH", "--download"):
        from_box(tmp_path, size=129)


@pytest.mark.parametrize("task", ["", "nuclei"])
def test_ebhi_seg_is_refused_without_one_of_its_tasks(box, tmp_path, task):
    with assert_refused(repr(task), "cancer, glands"):
        from_box(tmp_path, task=task)
    assert not (tmp_path / "data").exists()


# --- a store of one's own ---


@pytest.mark.parametrize("source", SOURCES)
def test_a_store_of_ones_own_serves_any_source_and_is_not_copied(tmp_path, source):
    own = make_store(tmp_path / "own.h5", size=16)
    store = prepare(source, data=own, folder=tmp_path / "data", size=16, count=99)
    assert (store.path, len(store)) == (own, 10)
    assert contents(tmp_path).keys() == {"own.h5"}


@pytest.mark.parametrize("source", SOURCES)
def test_a_store_of_another_size_is_refused_with_the_setting_that_fits(tmp_path, source):
    own = make_store(tmp_path / "own.h5", size=16)
    with assert_refused(own, "16 x 16", "32", "--set size=16"):
        prepare(source, data=own, folder=tmp_path, size=32, count=99)


@pytest.mark.parametrize("source", SOURCES)
def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path, source):
    own = tmp_path / "own.h5"
    own.write_text("my notes")
    with assert_refused(own, "not a patch store"):
        prepare(source, data=own, folder=tmp_path, size=16, count=99)
    assert contents(tmp_path) == {"own.h5": b"my notes"}


# --- missing data ---


@pytest.mark.parametrize(("source", "wanted"), [("nuinsseg", "NuInsSeg folder"), ("store", "16 x 16")])
def test_a_source_that_needs_data_and_has_none_is_refused_with_the_option(tmp_path, source, wanted):
    with assert_refused("--data PATH", wanted):
        prepare(source, data=None, folder=tmp_path, size=16, count=99)


@pytest.mark.parametrize("source", SOURCES)
def test_data_at_a_path_that_does_not_exist_is_refused_with_the_path(tmp_path, source):
    remedy = {"ebhi": "download EBHI-SEG", "nuinsseg": "download NuInsSeg"}.get(source, "python -m study data")
    with assert_refused(tmp_path / "none", remedy):
        prepare(source, data=tmp_path / "none", folder=tmp_path, size=16, count=99, task="cancer")
    assert contents(tmp_path) == {}
