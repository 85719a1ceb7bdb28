"""From slides to patches: the same ones whoever extracts them and however often it is cut, and nothing bad passes."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
import tifffile
from data_helpers import assert_refused, flip_byte
from distributed import LocalCluster
from slide_helpers import SIDE, TISSUE, TUMOUR, asap, make_slides, square

from study.data.datasets.camelyon16_slides import EMPTY_ANNOTATION, find_slides, kind_of
from study.data.extraction.one_slide import Scale, extract_slide, read_rows
from study.data.extraction.plan import Plan, extract_store, plan, plan_again
from study.data.patches.integrity import text
from study.data.patches.loading import PatchDataset
from study.data.patches.manifest import manifest_path, read_manifest, slide_file
from study.data.patches.splits import stored_split
from study.data.patches.store import PatchStore
from study.data.slides.slide import Slide
from study.tasks.labels import IGNORE

NAMES = ["normal_001", "normal_002", "normal_003", "tumor_001", "tumor_002", "tumor_003", "tumor_010"]
PARTIAL = "tumor_010"  # by the table of exclusions
SIZE = 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_slides(tmp_path_factory.mktemp("slides"), NAMES)


def plan_of(folder: Path, *, patches=120, seed=0, size=SIZE, slide_mpp=None, **scale):
    slides, problems = find_slides(folder)
    missing = [kind_of(name) for name in problems]
    options = {"patches": patches, "seed": seed, "source": "test", "missing": missing, "slide_mpp": slide_mpp}
    return plan(slides, scale=Scale(size, **scale), **options)


def extract(folder: Path, output: Path, *, workers=0, **settings):
    return extract_store(output, plan_of(folder, **settings), workers=workers)


@pytest.fixture(scope="module")
def extracted(folder, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("store") / "store"
    extraction = extract(folder, output)
    assert (extraction.patches, extraction.failed, extraction.short) == (120, {}, {})
    return output


def content(store: Path) -> dict[str, str]:
    """The manifest, and what is in every slide's file."""
    found = {"manifest": manifest_path(store).read_text()}
    for file in sorted((store / "slides").glob("*")):
        with h5py.File(file, "r") as h5:
            arrays = b"".join(h5[name][:].tobytes() for name in ("x", "mask"))
            found[file.name] = hashlib.sha256(arrays).hexdigest() + text(h5.attrs["fingerprint"])
    return found


# --- what is extracted ---


def test_a_patch_is_the_slide_and_its_mask_at_the_place_that_the_manifest_says(folder, extracted):
    store = PatchStore(extracted)
    dataset = PatchDataset(store, np.arange(len(store)))
    for n, row in read_manifest(extracted).iterrows():
        image, mask = dataset[n]
        with Slide(folder / f"images/{row.slide}.tif") as slide:
            view = slide.at(magnification=10)
            expected = view.read(round(row.x / 2), round(row.y / 2), SIZE, SIZE)
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)
        assert (row.level, row.mpp, row.patch_size) == (1, 1.0, SIZE)
        centres = [round(start / 2) + np.arange(SIZE) + 0.5 for start in (row.y, row.x)]
        inside = [(TUMOUR[0] / 2 < c) & (c < TUMOUR[1] / 2) for c in centres]
        tumour = inside[0][:, None] & inside[1] & row.slide.startswith("tumor")
        unlabelled = IGNORE if row.slide == PARTIAL else 0
        np.testing.assert_array_equal(mask[0].numpy(), np.where(tumour, 1, unlabelled))
        assert row.tumour == pytest.approx(tumour.mean(), abs=1e-6)
        assert row.ignored == pytest.approx(float((mask == IGNORE).float().mean()), abs=1e-6)


def test_half_of_the_patches_have_tumour_and_none_is_background(extracted):
    rows = read_manifest(extracted)
    assert 40 < (rows.tumour > 0).sum() < 80
    assert (rows[rows.slide == PARTIAL].tumour > 0).all()
    reach = 2 * (SIZE + 16)
    for column in (rows.x, rows.y):
        assert column.between(TISSUE[0] - reach, TISSUE[1] + reach).all()


def test_the_store_is_one_to_train_from(extracted):
    store = PatchStore(extracted)
    assert (len(store), store.size, store.source) == (120, (SIZE, SIZE), "test")
    assert set(store.split) == {"train", "validation", "test"}
    assert stored_split(store, 0.25, 0).train.size == round(0.25 * (store.split == "train").sum())


def test_a_flipped_byte_in_a_patch_is_noticed_when_it_is_read(extracted, tmp_path):
    shutil.copytree(extracted, tmp_path / "store")
    store = PatchStore(tmp_path / "store")
    file, row = store.files[store.file[7]][0], int(store.row[7])
    with h5py.File(file) as h5:
        flip_byte(file, h5["x"].id.get_chunk_info(row).byte_offset + 99)
    dataset = PatchDataset(store, np.arange(len(store)))
    with assert_refused(file, f"patch {row} is damaged", "make it again"):
        dataset[7]
    dataset[8]


def test_a_store_that_lacks_a_slide_is_refused_with_the_remedy(extracted, tmp_path):
    shutil.copytree(extracted, tmp_path / "store")
    slide_file(tmp_path / "store", "tumor_001").unlink()
    with assert_refused("tumor_001.h5", "run the extraction"):
        PatchStore(tmp_path / "store")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *((column, value) for column in ("x", "y", "patch_size") for value in (-1, 10**8, 10**20, 2**63)),
        *(("level", -1), ("mpp", 0), ("mpp", "nan"), ("mpp", 1e300), ("tumour", 1.1), ("ignored", -0.1)),
        *(("slide", "../a"), ("slide", ""), ("split", "exam"), ("patch_size", 0), ("x", 1.5), ("x", "inf")),
    ],
)
def test_a_number_that_no_patch_can_have_is_named_with_its_column(extracted, tmp_path, column, value):
    rows = read_manifest(extracted).astype(object)
    rows.loc[3, column] = value
    rows.to_csv(tmp_path / "manifest.csv", index=False)
    with assert_refused("manifest.csv", "damaged", "make it again"):
        read_manifest(tmp_path / "manifest.csv")


def test_a_slide_s_file_with_fewer_patches_than_the_manifest_is_named(extracted, tmp_path):
    shutil.copytree(extracted, tmp_path / "store")
    store = PatchStore(tmp_path / "store")
    file, row = store.files[store.file[7]][0], int(store.row[7])
    with h5py.File(file, "a") as h5:
        for name in ("x", "mask"):
            fewer, chunks = h5[name][:row], h5[name].chunks
            del h5[name]
            h5.create_dataset(name, data=fewer, chunks=chunks if row else None)
    with assert_refused(file, f"patch {row} is damaged", "make it again"):
        PatchDataset(store, np.arange(len(store)))[7]
    with assert_refused(file, "damaged"):
        store.foreground()


def test_a_manifest_that_names_what_no_file_can_be_called_is_refused(extracted, tmp_path):
    shutil.copytree(extracted, tmp_path / "store")
    manifest = manifest_path(tmp_path / "store")
    manifest.write_text(manifest.read_text().replace("tumor_001", "tumor_" + 300 * "1"))
    with assert_refused(300 * "1", "run the extraction"):
        PatchStore(tmp_path / "store")


@pytest.mark.parametrize("content", ["", "slide,x\n", "slide,split\na,train\n", "\0\1\2"])
def test_a_damaged_manifest_is_named(extracted, tmp_path, content):
    shutil.copytree(extracted, tmp_path / "store")
    manifest_path(tmp_path / "store").write_text(content)
    with assert_refused("manifest.csv", "make it again"):
        PatchStore(tmp_path / "store")


def test_the_fingerprint_is_of_the_content(folder, extracted, tmp_path):
    extract(folder, tmp_path / "other", seed=1)
    assert PatchStore(tmp_path / "other").fingerprint != PatchStore(extracted).fingerprint


@pytest.mark.parametrize("scale", [{"magnification": 20.0}, {"magnification": None, "mpp": 1.3}])
def test_other_scales(folder, tmp_path, scale):
    extract(folder, tmp_path / "store", patches=20, **scale)
    rows = read_manifest(tmp_path / "store")
    expected = {"magnification": 0.5, "mpp": 1.3}[list(scale)[-1]]
    assert rows.mpp.to_numpy() == pytest.approx(expected, rel=1e-3)
    assert (rows.x + SIZE * expected / 0.5 <= SIDE + 1).all()


def test_a_stated_scale_is_that_of_all_slides_and_it_is_noted_where_a_file_says_another(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "slides")
    bare = tmp_path / "slides/images/normal_002.tif"
    with tifffile.TiffFile(bare) as file:
        image = file.pages[0].asarray()
    tifffile.imwrite(bare, image, tile=(256, 256), photometric="rgb")
    assert "--slide-mpp" in extract(tmp_path / "slides", tmp_path / "store").failed["normal_002"]
    stated = extract(tmp_path / "slides", tmp_path / "store", slide_mpp=0.25)
    assert stated.failed == {}
    assert stated.notes.keys() == set(NAMES) - {"normal_002"}
    assert "says 0.5 µm per pixel; it is taken for 0.25" in stated.notes["tumor_001"]
    rows = read_manifest(tmp_path / "store")
    assert set(rows.slide) == set(NAMES)
    assert (rows.mpp == 1.0).all()  # 40x slides: 10x has every fourth pixel, not every second
    kept = content(tmp_path / "store")
    again = extract(tmp_path / "slides", tmp_path / "store", slide_mpp=0.25)
    assert (content(tmp_path / "store"), again.notes) == (kept, stated.notes)
    right = extract(tmp_path / "slides", tmp_path / "store", slide_mpp=0.5)  # corrected
    assert (right.failed, right.notes) == ({}, {})
    assert content(tmp_path / "store") != kept


def test_anyone_with_the_slides_makes_the_identical_patches_from_the_manifest(folder, extracted, tmp_path):
    slides, _ = find_slides(folder)
    extract_store(tmp_path / "again", plan_again(slides, read_manifest(extracted), source="test"), workers=0)
    assert content(tmp_path / "again") == content(extracted)
    assert PatchStore(tmp_path / "again").fingerprint == PatchStore(extracted).fingerprint


def test_a_slide_that_is_not_the_manifest_s_is_refused(folder, extracted, tmp_path):
    slides, _ = find_slides(folder)
    other = [replace(s, annotation=None) if s.name == "tumor_001" else s for s in slides]
    extraction = extract_store(tmp_path / "s", plan_again(other, read_manifest(extracted), source="test"), workers=0)
    assert extraction.failed.keys() == {"tumor_001"}
    assert "not the one of the manifest" in extraction.failed["tumor_001"]
    others, rows = [s for s in slides if s.name != "tumor_003"], read_manifest(extracted)
    with assert_refused("tumor_003", "get it"):
        plan_again(others, rows, source="test")
    with assert_refused("tumor_003: it has no annotation"):
        plan_again(others, rows, source="test", problems={"tumor_003": "it has no annotation"})


# --- however it is extracted ---


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_makes_the_same(folder, extracted, tmp_path, workers):
    extract(folder, tmp_path / "store", workers=workers)
    assert content(tmp_path / "store") == content(extracted)


def test_it_goes_on_where_it_was(folder, extracted, tmp_path):
    shutil.copytree(extracted, tmp_path / "store")
    manifest_path(tmp_path / "store").unlink()
    slide_file(tmp_path / "store", "tumor_002").unlink()
    kept = slide_file(tmp_path / "store", "normal_001")
    os.utime(kept, ns=(0, 0))
    with assert_refused("not finished", "run it again"):
        PatchStore(tmp_path / "store")
    extract(folder, tmp_path / "store")
    assert content(tmp_path / "store") == content(extracted)
    assert kept.stat().st_mtime_ns == 0


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 100])
def test_a_damaged_file_is_made_again(folder, extracted, tmp_path, damage):
    shutil.copytree(extracted, tmp_path / "store")
    file = slide_file(tmp_path / "store", "tumor_001")
    file.write_bytes(damage(file.read_bytes()))
    extract(folder, tmp_path / "store")
    assert content(tmp_path / "store") == content(extracted)


@pytest.mark.parametrize("column", ["x", "tumour", "slide", "hash"])
def test_a_slide_whose_rows_were_changed_is_made_again(folder, extracted, tmp_path, column):
    shutil.copytree(extracted, tmp_path / "store")
    with h5py.File(slide_file(tmp_path / "store", "tumor_001"), "r+") as file:
        file[f"rows/{column}"][1] = file[f"rows/{column}"][0] if column in ("x", "hash") else 0
    manifest_path(tmp_path / "store").unlink()
    extract(folder, tmp_path / "store")
    assert content(tmp_path / "store") == content(extracted)


def test_a_changed_annotation_is_extracted_again_and_nothing_else(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "slides")
    extract(tmp_path / "slides", tmp_path / "store")
    for file in (tmp_path / "store/slides").iterdir():
        os.utime(file, ns=(0, 0))
    (tmp_path / "slides/annotations/tumor_001.xml").write_text(asap([square(300, 400)]))
    extract(tmp_path / "slides", tmp_path / "store")
    anew = {file.stem for file in (tmp_path / "store/slides").iterdir() if file.stat().st_mtime_ns}
    assert anew == {"tumor_001"}


def test_another_meaning_of_groups_makes_annotated_slides_again_and_older_files_do_not_say_theirs(
    folder, extracted, tmp_path
):
    shutil.copytree(extracted, tmp_path / "store")
    with h5py.File(slide_file(tmp_path / "store", "tumor_002"), "a") as file:
        del file.attrs["groups"], file.attrs["checksum"]  # as before there was a choice
    for file in (tmp_path / "store/slides").iterdir():
        os.utime(file, ns=(0, 0))
    slides, _ = find_slides(folder)
    other = plan(slides, scale=Scale(SIZE), patches=120, seed=0, source="test", groups={"Tumor": "excluded"})
    extract_store(tmp_path / "store", other, workers=0)
    anew = {file.stem for file in (tmp_path / "store/slides").iterdir() if file.stat().st_mtime_ns}
    assert anew == {"tumor_001", "tumor_003", "tumor_010"}
    assert (read_manifest(tmp_path / "store").set_index("slide").tumour["tumor_002"] > 0).any()


def test_another_extraction_in_the_folder_is_not_touched(folder, extracted):
    before = content(extracted)
    for other in ({"seed": 1}, {"patches": 119}, {"size": 32}, {"magnification": 20.0}):
        with assert_refused(extracted, "choose another folder"):
            extract(folder, extracted, **other)
    assert content(extracted) == before


SCRIPT = """
import sys
from test_extract import extract
from pathlib import Path
if __name__ == "__main__":
    extract(Path(sys.argv[1]), Path(sys.argv[2]), workers=2, patches=int(sys.argv[3]))
"""


def start(folder: Path, output: Path, patches: int) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, str(folder), str(output), str(patches)]
    return subprocess.Popen(
        command, cwd=Path(__file__).parent, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    """The processes that do the work: Dask's nannies start them, with a command line of multiprocessing's."""
    try:
        children = psutil.Process(process.pid).children()
        return [c for c in children if "spawn_main" in " ".join(c.cmdline())]
    except psutil.NoSuchProcess:
        return []


@pytest.fixture(scope="module")
def larger(folder, tmp_path_factory) -> tuple[int, dict[str, str], float]:
    """An extraction of some seconds, what it makes, and how long its processes take."""
    patches = 1500
    output = tmp_path_factory.mktemp("larger") / "store"
    began = time.monotonic()
    assert start(folder, output, patches).wait(timeout=300) == 0
    return patches, content(output), time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize("n", range(int(os.environ.get("KILLS", "2"))))
def test_killing_a_worker_and_then_everything_at_random_moments_changes_nothing(folder, tmp_path, larger, n):
    patches, expected, seconds = larger
    moments = random.Random(n)
    run = start(folder, tmp_path / "store", patches)
    deadline = time.monotonic() + 60
    while not (workers := workers_of(run)) and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(moments.uniform(0, seconds / 2))
    for worker in moments.sample(workers, min(1, len(workers))):
        if worker.is_running():
            worker.kill()
    time.sleep(moments.uniform(0, seconds / 2))
    if run.poll() is None:
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert start(folder, tmp_path / "store", patches).wait(timeout=300) == 0
    assert content(tmp_path / "store") == expected


# --- bad input ---


def spoiled(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "slides")
    return tmp_path / "slides"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda images, annotations: (images / "tumor_001.tif").write_bytes(b""),
        lambda images, annotations: (images / "tumor_001.tif").write_bytes(b"no slide at all" * 100),
        lambda images, annotations: os.truncate(images / "tumor_001.tif", 30_000),
        lambda images, annotations: (annotations / "tumor_001.xml").write_bytes(b""),
        lambda images, annotations: (annotations / "tumor_001.xml").write_text(asap([square(9000, 9900)])),
        lambda images, annotations: (annotations / "tumor_001.xml").write_text(asap([square(1, 9)], group="Banana")),
    ],
    ids=["zero bytes", "no slide", "truncated", "empty XML", "outside the slide", "unknown group"],
)
def test_a_bad_slide_is_named_and_the_rest_go_on(folder, extracted, tmp_path, spoil):
    slides = spoiled(folder, tmp_path)
    spoil(slides / "images", slides / "annotations")
    extraction = extract(slides, tmp_path / "store")
    assert extraction.failed.keys() == {"tumor_001"}
    assert "tumor_001" in extraction.failed["tumor_001"]
    assert "\n" not in extraction.failed["tumor_001"]
    assert set(read_manifest(tmp_path / "store").slide) == set(NAMES) - {"tumor_001"}
    # and once it is mended, what is there is what would have been there
    shutil.copytree(folder, slides, dirs_exist_ok=True)
    assert extract(slides, tmp_path / "store").failed == {}
    assert content(tmp_path / "store") == content(extracted)


def test_a_slide_that_turns_out_to_be_normal_is_extracted_again_and_what_it_leaves_alone_stays(folder, tmp_path):
    slides = spoiled(folder, tmp_path)
    (slides / "annotations/tumor_002.xml").unlink()
    extract(slides, tmp_path / "store")
    (slides / "annotations/tumor_002.xml").write_text(EMPTY_ANNOTATION)
    assert extract(slides, tmp_path / "store").failed == {}
    extract(slides, tmp_path / "other")
    assert content(tmp_path / "store") == content(tmp_path / "other")


def test_an_extraction_that_came_to_nothing_does_not_hold_its_folder(folder, extracted, tmp_path):
    assert extract(folder, tmp_path / "store", size=500).failed.keys() == set(NAMES)
    assert extract(folder, tmp_path / "store").failed == {}
    assert content(tmp_path / "store") == content(extracted)


def test_space_for_all_is_asked_for_before_the_first_is_made(folder, tmp_path):
    with assert_refused("store", "the disk is full", "GB are free"):
        extract(folder, tmp_path / "store", patches=10**10)
    assert not list((tmp_path / "store").rglob("*.h5"))


def test_what_is_odd_about_an_annotation_is_reported(folder, tmp_path):
    slides = spoiled(folder, tmp_path)
    bow_tie = [(300, 300), (400, 400), (400, 300), (300, 400)]
    (slides / "annotations/tumor_001.xml").write_text(asap([square(*TUMOUR), bow_tie, [(1, 1), (9, 9)]]))
    expected = {"tumor_001": "outlines: 1 touching or crossing themselves, repaired; 1 without area, left out"}
    assert extract(slides, tmp_path / "store").notes == expected
    assert extract(slides, tmp_path / "store").notes == expected  # and again, from the files


@pytest.mark.parametrize("lost", ["annotations/tumor_002.xml", "images/tumor_002.tif"])
def test_what_is_missing_has_its_place_and_can_come_later(folder, extracted, tmp_path, lost):
    slides = spoiled(folder, tmp_path)
    (slides / lost).rename(tmp_path / "lost")
    extract(slides, tmp_path / "store")
    assert set(read_manifest(tmp_path / "store").slide) == set(NAMES) - {"tumor_002"}
    (tmp_path / "lost").rename(slides / lost)
    extract(slides, tmp_path / "store")
    assert content(tmp_path / "store") == content(extracted)


def test_a_full_disk_is_said_and_leaves_no_half_file(folder, tmp_path, monkeypatch):
    task = plan_of(folder).tasks[0]
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with assert_refused("normal_001.h5", "the disk is full"):
        extract_slide(task, tmp_path)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_a_slide_that_is_too_small_is_refused(folder, tmp_path):
    (task, *_) = plan_of(folder, size=500).tasks
    with assert_refused("normal_001.tif", "384 x 384", "patches of 500"):
        extract_slide(task, tmp_path)


def test_nothing_to_extract_is_refused(tmp_path):
    with assert_refused("no slides"):
        extract_store(tmp_path / "store", Plan([], {}))


def test_a_slide_may_have_no_patches_drawn(folder, tmp_path):
    extraction = extract(folder, tmp_path / "store", patches=2)
    assert extraction.patches == 2
    assert len(PatchStore(tmp_path / "store")) == 2
    assert json.loads((tmp_path / "store/recipe.json").read_text())["slides"].keys() == set(NAMES)


def test_an_annotation_without_outlines_says_that_there_is_no_tumour(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "slides")
    (tmp_path / "slides/annotations/tumor_001.xml").write_text(EMPTY_ANNOTATION)
    extract(tmp_path / "slides", tmp_path / "store")
    rows = read_manifest(tmp_path / "store")
    assert (rows[rows.slide == "tumor_001"].tumour == 0).all()
    assert 40 < (rows.tumour > 0).sum() < 80


@pytest.mark.slow
def test_two_extractions_on_one_scheduler_do_not_meet(folder, tmp_path):
    with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0") as cluster:
        sizes = {"a": 48, "b": 32}
        with ThreadPoolExecutor(2) as pool:
            jobs = [
                pool.submit(extract_store, tmp_path / n, plan_of(folder, size=s), scheduler=cluster.scheduler_address)
                for n, s in sizes.items()
            ]
            assert [job.result().failed for job in jobs] == [{}, {}]
    for name, size in sizes.items():
        assert PatchStore(tmp_path / name).size == (size, size)
        assert len(PatchDataset(PatchStore(tmp_path / name), np.arange(120))[7][1][0]) == size


def test_a_file_of_another_task_is_none_of_this(folder, extracted):
    (task, *_) = plan_of(folder).tasks
    assert len(read_rows(extracted, task)) == task.count
    assert read_rows(extracted, replace(task, seed=9)) is None
    assert read_rows(extracted, replace(task, name="tumor_999")) is None


def test_a_scheduler_that_does_not_answer_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("study.dask_client.CONNECT_SECONDS", 1)
    with assert_refused("tcp://127.0.0.1:9", "check the address"):
        extract_store(tmp_path / "s", plan_of(folder), scheduler="tcp://127.0.0.1:9")
