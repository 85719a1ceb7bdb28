"""Reading NuInsSeg: pairs, cases from their numbers, and tiles, in a folder made up here."""

import numpy as np
import pytest
from data_helpers import assert_refused
from PIL import Image

from study.data.datasets.nuinsseg import block_of, find_nuclei, nuclei_patches
from study.data.datasets.registry import prepare


def add(root, number, *, height=12, width=12):
    """Add a random image with a random mask; returns both as arrays."""
    rng = np.random.default_rng(number)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    mask = rng.integers(0, 2, (height, width), np.uint8)
    for folder, array in [("images", image), ("masks", 255 * mask)]:
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(root / folder / f"{number:03d}.png")
    return image, mask


def read(root, size):
    return list(nuclei_patches(find_nuclei(root), size))


@pytest.mark.parametrize(
    ("size", "corners"),
    [
        (12, [(0, 0)]),
        (6, [(0, 0), (0, 6), (6, 0), (6, 6)]),
        (5, [(1, 1), (1, 6), (6, 1), (6, 6)]),
        (8, [(2, 2)]),
        (7, [(2, 2)]),
    ],
)
def test_images_are_cut_into_tiles_around_the_middle_and_never_resized(tmp_path, size, corners):
    image, mask = add(tmp_path, 1)
    patches = read(tmp_path, size)
    assert len(patches) == len(corners)
    for patch, (y, x) in zip(patches, corners, strict=True):
        np.testing.assert_array_equal(patch.image, image[y : y + size, x : x + size])
        np.testing.assert_array_equal(patch.mask, mask[y : y + size, x : x + size])
        assert patch.image.dtype == patch.mask.dtype == np.uint8


def test_an_image_need_not_be_square(tmp_path):
    image, _ = add(tmp_path, 1, height=4, width=13)
    patches = read(tmp_path, 4)
    np.testing.assert_array_equal(np.concatenate([patch.image for patch in patches], axis=1), image[:, :12])


def test_an_image_smaller_than_a_tile_is_named(tmp_path):
    add(tmp_path, 1, height=7)
    with assert_refused("001.png is 12 x 7", "8 x 8", "smaller size"):
        read(tmp_path, 8)


def test_an_image_that_was_not_halved_is_named(tmp_path):
    add(tmp_path, 1, height=512, width=512)
    with assert_refused("001.png is 512 x 512", "give images of 256 x 256"):
        read(tmp_path, 64)


def test_sixteen_neighbours_in_number_are_one_case_and_each_image_a_slide(tmp_path):
    for number in (1, 2, 16, 17, 32, 33, 665):
        add(tmp_path, number)
    patches = read(tmp_path, 6)
    assert [patch.case for patch in patches[::4]] == ["00", "00", "00", "01", "01", "02", "41"]
    assert [patch.slide for patch in patches[::4]] == ["001", "002", "016", "017", "032", "033", "665"]


@pytest.mark.parametrize("name", ["", "a1", "1a", "-1", "1.5"])
def test_a_name_that_is_no_number_is_refused(tmp_path, name):
    with assert_refused(tmp_path / f"{name}.x.png", "expected NNN"):
        block_of(tmp_path / f"{name}.x.png")


def test_a_missing_or_empty_folder_or_an_image_alone_is_refused(tmp_path):
    with assert_refused(tmp_path / "none", "download NuInsSeg"):
        find_nuclei(tmp_path / "none")
    with assert_refused(tmp_path, "images/NNN"):
        find_nuclei(tmp_path)
    add(tmp_path, 1)
    (tmp_path / "masks" / "001.png").unlink()
    with assert_refused(tmp_path / "images" / "001.png", "has no masks"):
        find_nuclei(tmp_path)


def test_a_store_of_nuclei_is_split_by_blocks(tmp_path):
    for number in range(1, 120, 8):
        add(tmp_path / "nuclei", number)
    options = {"data": tmp_path / "nuclei", "folder": tmp_path / "data", "count": 0, "task": "nuclei"}
    store = prepare("nuinsseg", size=6, **options)
    assert (store.path.name, store.source) == ("nuinsseg-nuclei-6px.h5", "NuInsSeg, nuclei")
    assert (len(store), store.size, len(set(store.case))) == (60, (6, 6), 8)
    assert all(len(set(store.split[store.case == case])) == 1 for case in store.case)
    assert prepare("nuinsseg", size=12, **options).path != store.path
