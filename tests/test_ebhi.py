"""Reading EBHI-SEG: pairs of image and label, cases from their names, and soft masks, in a folder made up here."""

import numpy as np
import pytest
from data_helpers import add_pair, assert_refused
from PIL import Image

from study.data.datasets.ebhi_images import CLASSES, case_of, ebhi_patches, find_pairs

NAME = "GT2001837-1-400-001"


def read(root, size=16, task="glands"):
    return list(ebhi_patches(find_pairs(root), size, task=task))


# --- pairs ---


def test_pairs_are_found_in_every_class_in_any_format_sorted(tmp_path):
    endings = ["png", "webp", "jpg", "bmp"]
    for n, ending in enumerate(reversed(endings)):
        for tissue in ("Polyp", "Adenocarcinoma"):
            add_pair(tmp_path, f"GT{n}-1-400-001", tissue=tissue, ending=ending)
    pairs = find_pairs(tmp_path)
    assert pairs == sorted(pairs)
    assert len(pairs) == 8
    for n, (image, label) in enumerate(pairs):
        assert image.relative_to(tmp_path).parts[:2] == (["Adenocarcinoma", "Polyp"][n // 4], "image")
        assert label == image.parent.with_name("label") / f"{image.stem}.png"
    assert {image.suffix[1:] for image, _ in pairs} == set(endings)
    assert len(read(tmp_path)) == 8


def test_hidden_and_other_files_are_ignored(tmp_path):
    files = add_pair(tmp_path, NAME)
    for file in files:
        (file.parent / ".DS_Store").write_bytes(b"\0")
        (file.parent / f"._{NAME}.png").write_bytes(b"\0")
        (file.parent / "folder").mkdir()
    (tmp_path / "README.txt").write_text("how to cite")
    assert find_pairs(str(tmp_path)) == [files]


def test_a_missing_folder_is_refused_with_where_to_get_it(tmp_path):
    with assert_refused(tmp_path / "none", "download EBHI-SEG", "data ebhi", "--download"):
        find_pairs(tmp_path / "none")


@pytest.mark.parametrize("inside", ["", "Normal", "Normal/image", "image"])
def test_a_folder_without_images_is_refused_with_the_expected_layout(tmp_path, inside):
    (tmp_path / inside).mkdir(exist_ok=True, parents=True)
    with assert_refused(tmp_path, "<class>/image/*", "<class>/label/*"):
        find_pairs(tmp_path)


@pytest.mark.parametrize(("gone", "missing"), [(0, "image"), (1, "label")])
def test_an_image_or_a_label_that_stands_alone_is_named(tmp_path, gone, missing):
    add_pair(tmp_path, "GT1-1-400-001")
    files = add_pair(tmp_path, NAME)
    files[gone].unlink()
    with assert_refused(files[1 - gone], f"has no {missing}", f"add it to {files[gone].parent}"):
        find_pairs(tmp_path)


# --- names ---


@pytest.mark.parametrize(
    ("name", "case", "slide"),
    [
        (NAME, "2001837", "GT2001837-1"),
        ("GT2001837-12-400-103", "2001837", "GT2001837-12"),
        ("GTabc0012-3-400-007", "0012", "GTabc0012-3"),
        ("GTXG0012-3-400-007", "0012", "GTXG0012-3"),
    ],
)
def test_case_and_slide_are_read_from_the_name(tmp_path, name, case, slide):
    image, _ = add_pair(tmp_path, name)
    assert case_of(image) == case
    assert [(patch.case, patch.slide) for patch in read(tmp_path)] == [(case, slide)]


def test_a_case_that_stands_in_two_classes_is_one_case(tmp_path):
    add_pair(tmp_path, "GT0012-1-400-001", tissue="Normal")
    add_pair(tmp_path, "GTabc0012-2-400-001", tissue="Polyp")
    assert {patch.case for patch in read(tmp_path)} == {"0012"}


@pytest.mark.parametrize("name", ["image-1", "2001837-1-400-001", "GTabc-x", "xGT12-1-400-001"])
def test_a_name_without_a_case_number_is_refused(tmp_path, name):
    image, _ = add_pair(tmp_path, name)
    with assert_refused(image, "expected GT<digits>-<slide>-400-<index>"):
        read(tmp_path)


# --- pixels ---


def test_foreground_is_what_is_brighter_than_127(tmp_path):
    soft = np.tile(np.arange(120, 136), (16, 1))
    image, _ = add_pair(tmp_path, NAME, label=soft)
    (patch,) = read(tmp_path)
    np.testing.assert_array_equal(patch.mask, soft >= 128)
    np.testing.assert_array_equal(patch.image, np.asarray(Image.open(image)))  # untouched at its own size
    assert patch.image.dtype == patch.mask.dtype == np.uint8


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_labels_and_images_of_any_colour_mode_are_read(tmp_path, mode):
    half = np.repeat([[0, 255]], 8, axis=1).repeat(16, axis=0)
    for file in add_pair(tmp_path, NAME, label=half):
        Image.open(file).convert(mode).save(file)
    (patch,) = read(tmp_path)
    np.testing.assert_array_equal(patch.mask, half > 0)
    assert patch.image.shape == (16, 16, 3)


def test_the_soft_mask_is_averaged_down_before_the_threshold(tmp_path):
    blocks = np.array([[120, 120, 120, 120], [120, 255, 120, 130], [0, 255, 255, 255], [0, 0, 0, 255]])
    add_pair(tmp_path, NAME, image_size=4, label=blocks)  # the averages are 154 and 123, 64 and 191
    (patch,) = read(tmp_path, size=2)
    np.testing.assert_array_equal(patch.mask, [[1, 0], [0, 1]])


@pytest.mark.parametrize("size", [8, 13, 16, 32])
def test_patches_are_resized_with_their_masks(tmp_path, size):
    left = np.repeat([[255, 0]], 8, axis=1).repeat(16, axis=0)
    image, _ = add_pair(tmp_path, NAME, label=left)
    Image.fromarray(np.stack([left, left, 255 - left], axis=-1).astype(np.uint8)).save(image)
    (patch,) = read(tmp_path, size)
    assert (patch.image.shape, patch.mask.shape) == ((size, size, 3), (size, size))
    assert patch.image.dtype == patch.mask.dtype == np.uint8
    assert set(np.unique(patch.mask)) == {0, 1}
    clear = np.r_[: size // 2 - 1, size - size // 2 + 1 : size]  # away from the edge, image and mask agree
    np.testing.assert_array_equal(patch.mask[:, clear], patch.image[:, clear, 0] > 127)
    np.testing.assert_array_equal(patch.mask[:, clear], patch.image[:, clear, 2] < 128)


def test_an_image_and_a_label_of_unequal_size_are_both_named(tmp_path):
    image, label = add_pair(tmp_path, NAME, label=np.zeros((16, 20)))
    with assert_refused(f"{image} is 16 x 16", f"{label} is 20 x 16", "must be equal"):
        read(tmp_path)


# --- tasks ---


@pytest.mark.parametrize("tissue", CLASSES)
def test_cancer_is_the_glands_of_carcinoma_and_high_grade_neoplasia(tmp_path, tissue):
    label = np.eye(16) * 255
    add_pair(tmp_path, NAME, tissue=tissue, label=label)
    cancer, glands, grades = (read(tmp_path, task=task)[0] for task in ("cancer", "glands", "grades"))
    np.testing.assert_array_equal(glands.mask, label > 0)
    np.testing.assert_array_equal(cancer.mask, glands.mask * (tissue in ("Adenocarcinoma", "High-grade IN")))
    np.testing.assert_array_equal(grades.mask, glands.mask + cancer.mask)
    np.testing.assert_array_equal(cancer.image, glands.image)


def test_a_class_that_is_not_known_is_refused_where_it_decides(tmp_path):
    image, _ = add_pair(tmp_path, NAME, tissue="Adenocarcinom")
    assert read(tmp_path, task="glands")[0].mask.all()
    for task in ("cancer", "grades"):
        with assert_refused(image, "'Adenocarcinom'", "High-grade IN"):
            read(tmp_path, task=task)


def test_a_task_that_is_not_known_is_refused_with_those_that_are(tmp_path):
    add_pair(tmp_path, NAME)
    with assert_refused("'nuclei'", "cancer, glands, grades"):
        read(tmp_path, task="nuclei")


# --- damage ---


@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.9])
@pytest.mark.parametrize("ending", ["png", "webp", "jpg", "bmp"])
def test_a_truncated_image_is_named(tmp_path, ending, share):
    image, _ = add_pair(tmp_path, NAME, ending=ending)
    whole = image.read_bytes()
    image.write_bytes(whole[: int(share * len(whole))])
    with assert_refused(image, "damaged", "download it again"):
        read(tmp_path)


@pytest.mark.parametrize("which", [0, 1], ids=["image", "label"])
def test_text_under_the_name_of_an_image_is_named(tmp_path, which):
    file = add_pair(tmp_path, NAME)[which]
    file.write_text("404 not found")
    with assert_refused(file, "not an image", "download it again"):
        read(tmp_path)


def test_a_damaged_header_that_promises_a_gigantic_image_is_named(tmp_path):
    image, _ = add_pair(tmp_path, NAME, ending="bmp")
    header = bytearray(image.read_bytes())
    header[18:26] = b"\x00\x00\x01\x00" * 2  # width and height of 65,536
    image.write_bytes(header)
    with assert_refused(image, "damaged", "download it again"):
        read(tmp_path)


def test_the_same_patch_in_two_formats_is_refused(tmp_path):
    add_pair(tmp_path, NAME, ending="png")
    add_pair(tmp_path, NAME, ending="jpg")
    with assert_refused(f"{NAME}.png", f"{NAME}.jpg", "remove one"):
        find_pairs(tmp_path)


def test_a_class_with_labels_but_no_images_is_refused(tmp_path):
    add_pair(tmp_path, NAME)
    image, _ = add_pair(tmp_path, NAME, tissue="Polyp")
    image.unlink()
    image.parent.rmdir()
    with assert_refused("Polyp", "has no image"):
        find_pairs(tmp_path)
