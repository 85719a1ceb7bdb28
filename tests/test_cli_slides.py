"""The commands on slides as a user meets them: what they make, what they say, and their exit codes."""

import json
import shutil

import pytest
import tifffile
from slide_helpers import SIDE, TUMOUR, asap, make_slides, square

from study.data.datasets import miniature_slides as miniature
from study.data.patches.manifest import read_manifest
from study.data.patches.store import PatchStore

NAMES = ["normal_001", "normal_002", "tumor_001", "tumor_002"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return make_slides(tmp_path_factory.mktemp("slides"), NAMES)


@pytest.fixture
def run(tmp_path, monkeypatch, run_command, drawn):
    """Run a command in a folder with ``slides/``; returns the exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    shutil.copytree(drawn, "slides")

    return lambda text: run_command(*text.split())


EXTRACT = "data camelyon16 slides store --patches 60 --patch-size 32 --workers 1"


@pytest.mark.slow
def test_slides_become_a_store_and_a_manifest_makes_it_again(run, tmp_path):
    code, output, _ = run(EXTRACT)
    assert code == 0
    assert "60 patches of 32 x 32 (Camelyon16" in " ".join(output.split())
    code, output, _ = run("data camelyon16 slides again --manifest store/manifest.csv --workers 1")
    assert code == 0
    assert PatchStore(tmp_path / "again").fingerprint == PatchStore(tmp_path / "store").fingerprint


@pytest.mark.slow
def test_what_is_missing_is_listed_the_rest_is_done_and_the_exit_code_is_1(run, tmp_path):
    (tmp_path / "slides/images/normal_002.tif").write_bytes(b"")
    (tmp_path / "slides/annotations/tumor_002.xml").unlink()
    shutil.copy(tmp_path / "slides/annotations/tumor_001.xml", tmp_path / "slides/annotations/tumor_077.xml")
    code, output, error = run(EXTRACT)
    assert code == 1
    assert "Traceback" not in output + error
    listed = [line.split(":")[1].strip() for line in output.splitlines() if line.startswith("missing: ")]
    assert listed == ["normal_002", "tumor_002", "tumor_077"]
    assert "3 slides are missing" in output
    assert set(read_manifest(tmp_path / "store").slide) == {"normal_001", "tumor_001"}
    # as the last line says: mended, the same command goes on
    (tmp_path / "slides/annotations/tumor_077.xml").rename(tmp_path / "slides/annotations/tumor_002.xml")
    shutil.copy(tmp_path / "slides/images/normal_001.tif", tmp_path / "slides/images/normal_002.tif")
    shutil.copy(tmp_path / "slides/images/tumor_001.tif", tmp_path / "slides/images/tumor_077.tif")
    shutil.copy(tmp_path / "slides/annotations/tumor_001.xml", tmp_path / "slides/annotations/tumor_077.xml")
    assert run(EXTRACT)[0] == 0
    assert set(read_manifest(tmp_path / "store").slide) == {*NAMES, "tumor_077"}


GEOJSON = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[*map(list, square(*TUMOUR)), [TUMOUR[0], TUMOUR[0]]]]},
            "properties": {"objectType": "annotation", "classification": {"name": "Carcinoma"}},
        }
    ],
}


@pytest.mark.slow
def test_own_slides_with_annotations_of_qupath_become_a_store(run, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    for n, name in enumerate(NAMES):
        (tmp_path / f"slides/images/{name}.tif").rename(mine / f"case {n}.tif")
        content = GEOJSON if name.startswith("tumor") else {**GEOJSON, "features": []}
        (mine / f"case {n}.geojson").write_text(json.dumps(content))
    extract = "slides extract mine store --patches 60 --patch-size 32 --workers 1"
    code, output, _ = run(extract)
    assert (code, output.count("--group NAME=KIND")) == (1, 2)
    code, output, _ = run(f"{extract} --group Carcinoma=tumour")
    assert code == 0
    assert "60 patches of 32 x 32 (own slides" in " ".join(output.split())
    rows = read_manifest(tmp_path / "store")
    assert set(rows.slide[rows.tumour > 0]) == {"case 2", "case 3"}


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("slides extract slides", "give OUTPUT"),
        ("slides extract slides store --of cats", "miniature, camelyon16, slides"),
        ("slides extract slides store --group Tumor", "NAME=KIND"),
        ("slides extract slides store --group Tumor=tumor", "tumour, excluded, unused"),
        ("slides extract slides store --slides none", "no slide named none"),
        ("slides compare-masks slides", "both an annotation and a mask"),
        ("data camelyon16 nowhere store", "nowhere"),
        ("data camelyon16 slides", "give OUTPUT"),
        ("data camelyon16 slides store --slides tumor_099", "tumor_099"),
        ("data camelyon16 slides store --masks tiff", "tumor_001_mask.tif"),
        ("data camelyon16 slides store --slide-mpp -1", "--slide-mpp is -1.0"),
        ("data camelyon16 slides store --mpp 0", "--mpp is 0.0"),
        ("data camelyon16 slides store --masks png", "outlines, tiff"),
        ("data camelyon16 slides store --mpp 1 --magnification 10", "give one of them"),
        ("data camelyon16 slides store --manifest nothing.csv", "nothing.csv"),
        ("data camelyon16 slides store --manifest m.csv --patch-size 321", "--patch-size and --manifest"),
        ("data camelyon16 slides store --patches 9 --scheduler nonsense", "nonsense"),
        ("data compare-masks slides", "both an annotation and a mask"),
        ("data miniature slides", "choose another folder"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(run, command, named):
    code, _, error = run(command)
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert named in error


def test_masks_are_compared(run, tmp_path):
    mask = tmp_path / "slides/masks/tumor_001_mask.tif"
    mask.parent.mkdir()
    low, high = TUMOUR
    tumour = [[int(low <= y < high and low <= x < high) for x in range(SIDE)] for y in range(SIDE)]
    tifffile.imwrite(mask, tumour, dtype="uint8", tile=(256, 256), photometric="minisblack")
    code, output, _ = run("data compare-masks slides")
    assert code == 0
    assert "tumor_001: 1 tumour and 0 exclusion outlines with 4 points" in output
    assert "Dice 1.0000" in output
    assert "Dice 1.0000" in run("slides compare-masks slides --of camelyon16")[1]
    (tmp_path / "slides/annotations/tumor_001.xml").write_text(asap([square(low, high - 100)]))
    assert "Dice 1.0000" not in run("data compare-masks slides")[1]
    mask.write_bytes(b"")
    code, output, _ = run("data compare-masks slides")
    assert (code, "missing: tumor_001: " in output) == (1, True)


def test_a_miniature_is_drawn_and_the_next_step_named(run, tmp_path, monkeypatch):
    monkeypatch.setattr(miniature, "PLANS", {name: miniature.PLANS[name] for name in ("normal_001",)})
    code, output, _ = run("data miniature drawn")
    assert code == 0
    assert "python -m study data camelyon16 drawn" in output
    assert (tmp_path / "drawn/images/normal_001.tif").is_file()
