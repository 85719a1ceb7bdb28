"""A data set is one entry: nothing else knows its name, and a new one is a module and a line."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data_helpers import assert_refused, contents

import study
from study.data.datasets import registry
from study.data.datasets.data_set import DataSet, Images, Labels
from study.data.datasets.registry import DATA_SETS, caption_of, data_set_of, find_data_set, labels_of, prepare
from study.data.patches.schema import Patch
from study.data.patches.store import PatchStore

ROOT = Path(study.__file__).parent
UPPER = ("experiments", "report", "prediction", "tasks", "networks")


def read(data, size, task):
    """The images of a made-up data set: two of each of five cases, of three classes."""
    rng = np.random.default_rng(len(task))
    masks = rng.integers(0, 3, (10, size, size), np.uint8)
    images = rng.integers(0, 256, (10, size, size, 3), np.uint8)
    cases = [str(n // 2) for n in range(10)]
    return Images((Patch(images[n], masks[n], cases[n], str(n)) for n in range(10)), cases, files="v1")


@pytest.fixture
def mine(monkeypatch):
    labels = Labels("mine, layers", "MINE (layers of skin)", ("background", "dermis", "epidermis"))
    entry = DataSet("mine", "MINE", "MINE: ten images.", "CC0", {"layers": labels}, read=read, needs="its folder")
    monkeypatch.setitem(registry.DATA_SETS, "mine", entry)
    return entry


def test_an_entry_is_all_that_a_new_data_set_needs(mine, tmp_path):
    (tmp_path / "images").mkdir()
    options = {"folder": tmp_path / "data", "size": 8, "count": 0}
    with assert_refused("--data PATH, its folder, or a patch store of 8 x 8"):
        prepare("mine", data=None, **options)
    assert prepare("mine", data=tmp_path / "images", make=False, **options) is None
    store = prepare("mine", data=tmp_path / "images", **options)
    assert (store.path.name, store.source) == ("mine-layers-8px.h5", "mine, layers")
    assert store.classes == ("background", "dermis", "epidermis")
    assert set(store.split) == {"train", "validation", "test"}
    assert labels_of("mine", "layers") is labels_of("mine", "") is mine.labels["layers"]
    assert caption_of(store.source) == "MINE (layers of skin)"
    assert data_set_of(store.source) is mine


def test_names_that_are_not_known_are_refused_with_those_that_are(tmp_path):
    with assert_refused("'cityscapes'", *DATA_SETS):
        find_data_set("cityscapes")
    with assert_refused("'nuclei'", "EBHI-SEG", "cancer, glands"):
        labels_of("ebhi", "nuclei")
    with assert_refused("'cityscapes'"):
        prepare("cityscapes", data=None, folder=tmp_path, size=8, count=0)
    assert contents(tmp_path) == {}


def test_every_record_of_the_repository_is_of_a_data_set_with_a_caption():
    records = [json.loads(next(folder.glob("*.json")).read_text()) for folder in ROOT.parent.glob("results/*/trials")]
    assert records
    for record in records:
        source = record["data"]["source"]
        assert data_set_of(source).name == record["settings"]["source"]
        assert caption_of(source) != source


def test_an_own_source_is_its_caption():
    assert (caption_of("my tissue"), data_set_of("my tissue")) == ("my tissue", None)


def test_entries_are_whole_and_differ():
    sources = [s for d in DATA_SETS.values() for labels in d.labels.values() for s in (labels.source, *labels.former)]
    assert len(set(sources)) == len(sources)
    for name, data_set in DATA_SETS.items():
        assert data_set.name == name
        assert data_set.about
        assert data_set.licence
        assert not data_set.packaged or (data_set.card and data_set.read)


def test_no_upper_room_knows_a_data_set_by_name():
    """In code, that is: presets name theirs, and so do texts for people."""
    names = "|".join(name for name in DATA_SETS if name not in ("store", "folder", "slides"))
    for room in UPPER:
        for file in (ROOT / room).rglob("*.py"):
            if "presets" not in file.name:
                assert not re.findall(rf"datasets\.(?:{names})|[=!]= ?\"(?:{names})\"", file.read_text()), file


def test_what_a_slide_passes_through_on_its_way_to_a_store_imports_nothing_that_comes_after():
    rooms = ["patches", "slides", "extraction", "datasets"]  # what is stored, what is read, how, and of which data set
    for n, room in enumerate(rooms):
        for file in (ROOT / "data" / room).rglob("*.py"):
            imported = set(re.findall(r"(?:from|import) study\.data\.(\w+)", file.read_text()))
            assert imported & set(rooms) <= set(rooms[: n + 1]), file


def test_listing_data_sets_imports_nothing_slow():
    code = (
        "import sys, study.data.datasets.registry as r; assert r.DATA_SETS; "
        "assert not {'torch', 'pandas', 'h5py', 'scipy', 'shapely', 'distributed', 'openslide'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent)


def test_foreground_is_every_class_but_the_background(mine, tmp_path):
    store = mine.store(tmp_path / "s.h5", tmp_path, size=8, task="")
    masks = [patch.mask for patch in read(None, 8, "layers").patches]
    assert PatchStore(store.path).foreground().tolist() == [int((mask > 0).sum()) for mask in masks]
