"""The EBHI-SEG that comes with the package: what is in it, and that anyone can make it again."""

import csv
import io
import sys
import zipfile
from collections import Counter

import numpy as np
import pytest
from data_helpers import add_pair, assert_refused, flip_byte
from PIL import Image
from scipy.ndimage import gaussian_filter

from study import cli
from study.data.datasets import ebhi_box
from study.data.datasets.ebhi_box import BOX, LICENSE, SIZE, open_box, pack_box
from study.data.datasets.ebhi_images import CANCER, CLASSES, case_of, class_of, ebhi_patches, find_pairs, slide_of
from study.files import sha256_of

COUNTS = {
    "Adenocarcinoma": 795,
    "High-grade IN": 186,
    "Low-grade IN": 637,
    "Normal": 76,
    "Polyp": 474,
    "Serrated adenoma": 58,
}
"""Patches of each class in the download."""


@pytest.fixture(scope="module")
def pairs():
    return find_pairs(open_box())


@pytest.fixture
def folder(tmp_path):
    """An EBHI-SEG folder of smooth images with soft masks, larger than the box's."""
    rng = np.random.default_rng(0)
    for n, tissue in enumerate(CLASSES):
        noise = gaussian_filter(rng.standard_normal((224, 224, 4)), (8, 8, 0), mode="wrap")
        grey = np.clip(128 + 50 * noise / noise.std(), 0, 255).astype(np.uint8)
        for index in range(2):
            image, label = add_pair(tmp_path / "ebhi", f"GTxc{n}-1-400-{index:03d}", tissue=tissue)
            Image.fromarray(grey[..., :3]).save(image)
            Image.fromarray(np.roll(grey[..., 3], 50 * index, axis=0)).save(label)
    return tmp_path / "ebhi"


# --- what is in it ---


def test_all_patches_of_all_patients_are_in_the_box(pairs):
    assert len(pairs) == 2226
    assert len({case_of(image) for image, _ in pairs}) == 340
    assert Counter(class_of(image) for image, _ in pairs) == COUNTS
    assert BOX.stat().st_size < 18e6


def test_their_pixels_are_those_of_the_two_tasks(pairs):
    foreground, cancer = [], []
    for (image, _), patch in zip(pairs, ebhi_patches(pairs, SIZE, task="glands"), strict=True):
        assert (patch.image.shape, patch.mask.shape) == ((SIZE, SIZE, 3), (SIZE, SIZE))
        foreground.append(patch.mask.mean())
        cancer.append(class_of(image) in CANCER)
        assert patch.image.std() > 5
    assert min(foreground) > 0
    assert np.mean(foreground) == pytest.approx(0.636, abs=0.001)
    assert np.mean(np.array(foreground) * cancer) == pytest.approx(0.297, abs=0.001)


def test_the_table_says_what_names_and_folders_say(pairs):
    rows = list(csv.DictReader(io.StringIO((open_box() / ebhi_box.TABLE).read_text("utf-8"))))
    images = [image for image, _ in pairs]
    assert rows == [
        {"patch": image.stem, "class": class_of(image), "case": case_of(image), "slide": slide_of(image)}
        for image in images
    ]


def test_licence_and_attribution_are_in_it_and_beside_it():
    text = (open_box() / "LICENSE.txt").read_text("utf-8")
    assert text == LICENSE.read_text("utf-8")
    for word in ("CC BY 4.0", "creativecommons.org/licenses/by/4.0", "Liyu Shi", "2023", "figshare.21540159"):
        assert word in text
    for change in (f"{SIZE} x {SIZE}", "Lanczos", f"WebP of quality {ebhi_box.QUALITY}", "box", "half", "quality 80"):
        assert change in text


# --- how it is made ---


def test_a_packed_folder_reads_as_the_folder_does(folder, tmp_path):
    pack_box(folder, tmp_path / "box.zip")
    box = find_pairs(zipfile.Path(tmp_path / "box.zip"))
    assert [image.stem for image, _ in box] == [image.stem for image, _ in find_pairs(folder)]
    for task in ("cancer", "glands", "grades"):
        patches = zip(
            ebhi_patches(box, SIZE, task=task), ebhi_patches(find_pairs(folder), SIZE, task=task), strict=True
        )
        for packed, whole in patches:
            assert (packed.case, packed.slide) == (whole.case, whole.slide)
            np.testing.assert_array_equal(packed.mask, whole.mask)
            assert np.abs(packed.image.astype(int) - whole.image).mean() < 5  # their standard deviation is 50


def test_smaller_masks_are_those_of_the_packed_ones_at_half(folder, tmp_path):
    pack_box(folder, tmp_path / "box.zip")
    box = find_pairs(zipfile.Path(tmp_path / "box.zip"))
    large, small = (list(ebhi_patches(box, size, task="glands")) for size in (SIZE, SIZE // 2))
    for whole, half in zip(large, small, strict=True):
        shares = whole.mask.reshape(SIZE // 2, 2, SIZE // 2, 2).mean(axis=(1, 3))
        np.testing.assert_array_equal(half.mask[shares != 0.5], shares[shares != 0.5] > 0.5)


def test_packing_twice_gives_the_same_bytes_and_unpacking_an_ebhi_folder(folder, tmp_path):
    pack_box(folder, tmp_path / "one.zip")
    for file in folder.rglob("*.png"):
        file.touch()
    pack_box(folder, tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        archive.extractall(tmp_path / "unpacked")
    unpacked = find_pairs(tmp_path / "unpacked")
    assert len(unpacked) == 12
    for image, label in unpacked:
        assert (Image.open(image).format, Image.open(label).format, Image.open(label).mode) == ("WEBP", "PNG", "1")


def test_the_box_is_packed_from_nothing_else_than_a_sound_folder(folder, tmp_path):
    broken, _ = find_pairs(folder)[-1]
    broken.write_bytes(broken.read_bytes()[:1000])
    with assert_refused(broken, "damaged"):
        pack_box(folder, tmp_path / "box.zip")
    assert list(tmp_path.iterdir()) == [folder]


def test_the_command_packs_and_says_the_sum(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["study", "data", "ebhi", str(folder), "--pack", str(tmp_path / "box.zip")])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0
    assert sha256_of(tmp_path / "box.zip") in capsys.readouterr().out


# --- damage ---


def test_a_damaged_box_is_named(tmp_path, monkeypatch):
    damaged = tmp_path / "ebhi_seg.zip"
    damaged.write_bytes(BOX.read_bytes())
    flip_byte(damaged, 10_000_000)
    monkeypatch.setattr(ebhi_box, "BOX", damaged)
    with assert_refused(damaged, "damaged", "install the package again"):
        open_box()


def test_a_box_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(ebhi_box, "BOX", tmp_path / "ebhi_seg.zip")
    with assert_refused(tmp_path / "ebhi_seg.zip", "install the package again"):
        open_box()
