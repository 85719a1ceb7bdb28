"""A folder of images and masks: pixels come as they are, or the file is refused in one line; nothing is resized."""

import csv

import numpy as np
import pytest
from data_helpers import assert_refused, contents
from PIL import ExifTags, Image

from study.data.datasets.image_folder import case_pattern, case_table, cover, write_folder
from study.data.datasets.pixels import read_both
from study.tasks.labels import IGNORE

RNG = np.random.default_rng(0)
TURNS = {1: 0, 8: 1, 3: 2, 6: 3}  # EXIF orientations, and the quarter turns counter-clockwise that they ask for


def image_of(height=8, width=8):
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


def mask_of(height=8, width=8, values=(0, 1)):
    return RNG.choice(np.array(values, np.uint8), (height, width))


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


@pytest.fixture
def both(tmp_path):
    """Save an image and a mask, and read them."""

    def both(image, mask, values="0/1", classes=2, ending=".png", **options):
        files = save(tmp_path / f"images/a{ending}", image, **options), save(tmp_path / "masks/a.png", mask)
        return read_both(*files, values, classes)

    both.image, both.mask = tmp_path / "images/a.png", tmp_path / "masks/a.png"
    return both


# --- images ---


def test_rgb_is_read_as_it_is(both):
    image, mask = image_of(5, 7), mask_of(5, 7)
    for found, expected in zip(both(image, mask), (image, mask), strict=True):
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)


def test_grey_palette_bits_and_opaque_transparency_are_read_right(both):
    grey, mask = image_of()[..., 0], mask_of()
    three = np.stack([grey] * 3, axis=-1)
    opaque = np.full((8, 8), 255, np.uint8)
    np.testing.assert_array_equal(both(grey, mask)[0], three)
    np.testing.assert_array_equal(both(np.dstack([grey, opaque]), mask)[0], three)
    np.testing.assert_array_equal(both(np.dstack([three, opaque]), mask)[0], three)
    np.testing.assert_array_equal(both(grey > 127, mask)[0], np.where(three > 127, 255, 0))
    palette = Image.fromarray(grey % 4)
    palette.putpalette([0, 0, 0, 200, 10, 20, 1, 2, 3, 255, 0, 255])
    expected = np.array([[0, 0, 0], [200, 10, 20], [1, 2, 3], [255, 0, 255]])[grey % 4]
    np.testing.assert_array_equal(both(palette, mask)[0], expected)


def test_transparent_pixels_are_refused(both):
    image = np.dstack([image_of(), np.full((8, 8), 255, np.uint8)])
    image[3, 4, 3] = 254
    with assert_refused(both.image, "transparent", "save it without"):
        both(image, mask_of())


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_sixteen_bits_are_refused_and_never_cut_to_eight(both, ending):
    with assert_refused("images/a", "16 bits", "8 bits"):
        both(image_of()[..., 0].astype(np.uint16) * 100, mask_of(), ending=ending)


def test_sixteen_bits_of_colour_are_refused(both):
    import imagecodecs  # Pillow cannot write them, and reads the upper eight without a word

    both(image_of(), mask_of())
    both.image.write_bytes(imagecodecs.png_encode(image_of().astype(np.uint16) * 257))
    with assert_refused(both.image, "16 bits", "8 bits"):
        read_both(both.image, both.mask, "0/1", 2)


@pytest.mark.parametrize("mode", ["CMYK", "F", "I", "HSV", "LAB"])
def test_other_kinds_of_pixels_are_refused(both, mode):
    image = Image.fromarray(image_of()).convert("RGB")
    image = image.convert("L").convert(mode) if mode in "FI" else Image.new(mode, (8, 8))
    with assert_refused("images/a.tif", mode if mode != "HSV" else "a.tif"):
        both(image.convert("RGB").convert("CMYK") if mode == "HSV" else image, mask_of(), ending=".tif")


def test_several_images_in_a_file_are_refused(both):
    more = [Image.fromarray(image_of())]
    with assert_refused("images/a.tif", "2 images", "a file of its own"):
        both(image_of(), mask_of(), ending=".tif", save_all=True, append_images=more)


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_a_damaged_file_is_named(both, content):
    both(image_of(40, 40), mask_of(40, 40))
    for file in (both.image, both.mask):
        good = file.read_bytes()
        file.write_bytes(good[: len(good) // 2] if content is None else content)
        with assert_refused(file, "damaged"):
            read_both(both.image, both.mask, "0/1", 2)
        file.write_bytes(good)


# --- orientation and size ---


def turned(pixels, path, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return save(path, pixels, exif=exif)


def test_an_orientation_of_a_tiff_is_refused(tmp_path):
    files = [turned(pixels, tmp_path / name, 6) for name, pixels in [("i.tif", image_of()), ("m.tif", mask_of())]]
    with assert_refused("i.tif", "orientation 6", "as it is seen"):
        read_both(*files, "0/1", 2)


@pytest.mark.parametrize("orientation", TURNS)
def test_an_orientation_that_both_have_turns_both(tmp_path, orientation):
    image, mask = image_of(4, 6), mask_of(4, 6)
    files = turned(image, tmp_path / "i.png", orientation), turned(mask, tmp_path / "m.png", orientation)
    for found, stored in zip(read_both(*files, "0/1", 2), (image, mask), strict=True):
        np.testing.assert_array_equal(found, np.rot90(stored, TURNS[orientation]))


@pytest.mark.parametrize("orientation", [2, 3, 6])
def test_an_orientation_that_one_of_them_has_is_refused(tmp_path, orientation):
    image, mask = turned(image_of(), tmp_path / "i.png", orientation), save(tmp_path / "m.png", mask_of())
    with assert_refused(image, mask, f"orientation {orientation}", "without EXIF"):
        read_both(image, mask, "0/1", 2)


def test_an_image_and_a_mask_of_different_sizes_are_refused(both):
    with assert_refused(both.image, "8 x 6", both.mask, "6 x 8"):
        both(image_of(6, 8), mask_of(8, 6))


# --- masks ---


@pytest.mark.parametrize(
    ("values", "classes", "stored", "expected"),
    [
        ("0/1", 2, [0, 1], [0, 1]),
        ("0/255", 2, [0, 255], [0, 1]),
        ("labels", 4, [0, 1, 2, 3, 255], [0, 1, 2, 3, IGNORE]),
        ("palette", 3, [0, 1, 2, 255], [0, 1, 2, IGNORE]),
    ],
)
def test_values_become_the_numbers_of_classes(both, values, classes, stored, expected):
    mask = mask_of(values=stored)
    file = Image.fromarray(mask)
    if values == "palette":
        file.putpalette(RNG.integers(0, 256, 768).astype(np.uint8).tobytes())
    found = both(image_of(), file, values, classes)[1]
    np.testing.assert_array_equal(found, np.array(expected)[np.searchsorted(stored, mask)])


def test_masks_in_bits_in_equal_channels_and_in_sixteen_bits_are_read_right(both):
    mask = mask_of()
    np.testing.assert_array_equal(both(image_of(), mask > 0)[1], mask)
    np.testing.assert_array_equal(both(image_of(), mask > 0, "0/255")[1], mask)
    np.testing.assert_array_equal(both(image_of(), np.dstack([255 * mask] * 3), "0/255")[1], mask)
    np.testing.assert_array_equal(both(image_of(), mask.astype(np.uint16), "labels")[1], mask)


@pytest.mark.parametrize(
    ("values", "stored", "named"),
    [
        ("0/1", [0, 255], "the value 255, but 0/1"),
        ("0/255", [0, 1], "the value 1, but 0/255"),
        ("labels", [0, 1, 2], "the value 2, but labels"),
        ("0/255", [0, 128, 255], "the value 128"),
        ("palette", [0, 1], "no palette"),
    ],
)
def test_a_value_that_was_not_stated_is_refused(both, values, stored, named):
    with assert_refused(both.mask, named, "--values"):
        both(image_of(), mask_of(values=stored), values)


def test_a_palette_that_was_not_stated_and_colours_are_refused(both):
    palette = Image.fromarray(mask_of())
    palette.putpalette([0, 0, 0, 255, 255, 255])
    with assert_refused(both.mask, "has a palette", "--values palette"):
        both(image_of(), palette)
    with assert_refused(both.mask, "in colours"):
        both(image_of(), image_of(), "labels")


# --- cutting ---


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 7), (8, 17), (16, 9), (1, 1), (24, 16)])
def test_patches_cover_an_image_once_around_its_middle(height, width):
    pixels = RNG.integers(0, 200, (height, width, 3))
    tiles = cover(pixels, 8, 255)
    rows, columns = -(-height // 8), -(-width // 8)
    assert tiles.shape == (rows * columns, 8, 8, 3)
    whole = np.concatenate([np.concatenate(row, axis=1) for row in tiles.reshape(rows, columns, 8, 8, 3)])
    top, left = (8 * rows - height) // 2, (8 * columns - width) // 2
    np.testing.assert_array_equal(whole[top : top + height, left : left + width], pixels)
    whole[top : top + height, left : left + width] = 255
    assert (whole == 255).all()


# --- stores ---


@pytest.fixture
def folders(tmp_path):
    """Images of several sizes of four cases, with masks of three classes."""
    for case in "abcd":
        for n, (height, width) in enumerate([(16, 16), (10, 20)]):
            save(tmp_path / f"images/{case}-{n}.jpg", image_of(height, width))
            save(tmp_path / f"masks/{case}-{n}.png", mask_of(height, width, (0, 1, 2, 255)))
    return tmp_path


def write(root, path="own.h5", **changes):
    options = {"size": 16, "case_of": case_pattern("^(.)-"), "values": "labels", "classes": ("background", "a", "b")}
    return write_folder(root / path, root / "images", root / "masks", **options | changes)


def test_a_folder_becomes_a_store_of_several_classes_split_by_case(folders):
    store, padding = write(folders, source="my tissue", mpp=0.5)
    assert (len(store), store.size, store.source) == (12, (16, 16), "my tissue")
    assert (store.classes, store.mpp) == (("background", "a", "b"), 0.5)
    assert sorted(store.case) == sorted("abcd" * 3)
    assert set(store.split) == {"train", "validation", "test"}
    assert padding == pytest.approx(1 - 4 * (256 + 200) / (12 * 256))
    masks = [np.asarray(Image.open(file)) for file in sorted(folders.glob("masks/*"))]
    assert store.foreground().sum() == sum(np.isin(mask, (1, 2)).sum() for mask in masks)


def test_patches_that_nobody_labelled_are_left_out(folders):
    save(folders / "masks/a-0.png", np.full((16, 16), 255, np.uint8))
    assert len(write(folders).store) == 11


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"values": "0-1"}, ["'0-1'", "0/1, 0/255, palette, labels"]),
        ({"values": "0/1"}, ["0/1", "2 classes, not 3"]),
        ({"classes": ("background",)}, ["1 classes", "name the background"]),
        ({"classes": ("background", "a", "a")}, ["'a', 'a'", "of its own"]),
        ({"classes": ("background", "a", "")}, ["of its own"]),
        ({"classes": ("background", "a")}, ["masks/a-0.png", "the value 2", "--classes"]),
        ({"case_of": case_pattern("no such")}, ["images/a-0.jpg", "'no such'"]),
        ({"case_of": case_pattern("-")}, ["1 case(s)", "at least three"]),
    ],
)
def test_a_wrong_statement_is_refused_and_leaves_nothing(folders, changes, words):
    before = contents(folders)
    with assert_refused(*words):
        write(folders, **changes)
    assert contents(folders) == before


@pytest.mark.parametrize("name", ["images", "masks"])
def test_a_folder_that_is_missing_or_lacks_a_file_is_refused(folders, name):
    file = next(folders.glob(f"{name}/b-1.*"))
    file.rename(folders / "away")
    with assert_refused("b-1", f"has no {name}"):
        write(folders)
    (folders / name).rename(folders / "gone")
    with assert_refused(folders / name, "no folder"):
        write(folders)


def test_masks_without_any_foreground_are_refused_as_values_may_be_stated_wrongly(folders):
    for file in folders.glob("masks/*"):
        save(file, np.where(np.asarray(Image.open(file)) == 0, 0, 255).astype(np.uint8))
    with assert_refused(folders / "masks", "no mask", "a or b", "labels"):
        write(folders)
    assert len(write(folders, values="0/255", classes=("background", "a")).store) == 12


def test_the_same_folder_makes_the_same_store(folders):
    assert write(folders).store.fingerprint == write(folders, "again.h5").store.fingerprint


# --- cases ---


def test_a_case_is_what_the_expression_or_its_first_group_finds(tmp_path):
    file = tmp_path / "P012_slide3.tile.png"
    assert case_pattern(r"P\d+")(file) == "P012"
    assert case_pattern(r"P(\d+)_slide(\d)")(file) == "012"
    assert case_pattern(".+")(file) == "P012_slide3.tile"
    with assert_refused("'('", "no regular expression"):
        case_pattern("(")


def test_a_table_says_the_case_of_each_image(tmp_path):
    table = tmp_path / "cases.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["case", "file"], ["007", "a.png"], ["8", "b"], ["8", "b"]])
    rule = case_table(table)
    assert [rule(tmp_path / name) for name in ("a.png", "b.tif")] == ["007", "8"]
    with assert_refused(table, "no case of c.png", "c.png,CASE"):
        rule(tmp_path / "c.png")


@pytest.mark.parametrize("text", ["", "a.png,7\n", "\0", "file,case\na.png,1\na.png,2\n", None])
def test_a_table_that_is_none_or_contradicts_itself_is_refused(tmp_path, text):
    table = tmp_path / "cases.csv"
    if text is not None:
        table.write_text(text)
    with assert_refused(table, "a.png" if text and "1\n" in text else "columns file and case", "correct it"):
        case_table(table)
