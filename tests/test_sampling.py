"""The paper's sampling: 8:1:1 by slide, slides uniform, tumour or not with equal probability, all reproducible."""

from itertools import product

import numpy as np
import pytest

from study.data.extraction.sampling import SlideKind, draw_positions, draws, split_slides
from study.data.slides.tissue import CELL

MANY = [SlideKind(f"tumor_{n:03}", True, partial=n % 5 == 0) for n in range(60)] + [
    SlideKind(f"normal_{n:03}", False) for n in range(90)
]


def test_the_split_is_8_to_1_to_1_for_both_kinds():
    split = split_slides(MANY, seed=0)
    assert split.keys() == {s.name for s in MANY}
    for kind, count in [("tumor", 60), ("normal", 90)]:
        parts = [part for name, part in split.items() if name.startswith(kind)]
        assert [parts.count(p) for p in ("train", "validation", "test")] == [0.8 * count, 0.1 * count, 0.1 * count]


@pytest.mark.parametrize(("tumour", "normal"), [(3, 3), (12, 8), (1, 2), (2, 5), (0, 4), (5, 0)])
def test_every_split_has_slides_if_there_are_three(tumour, normal):
    slides = [SlideKind(f"t{n}", True) for n in range(tumour)] + [SlideKind(f"n{n}", False) for n in range(normal)]
    assert set(split_slides(slides, seed=1).values()) == {"train", "validation", "test"}


def test_slides_of_one_patient_are_in_one_split():
    slides = [SlideKind(f"patient_{p:03}_node_{n}", p % 3 == n) for p in range(30) for n in range(5)]
    split = split_slides(slides, seed=0)
    for p in range(30):
        assert len({split[f"patient_{p:03}_node_{n}"] for n in range(5)}) == 1
    assert set(split.values()) == {"train", "validation", "test"}


def test_two_slides_are_for_training():
    assert set(split_slides(MANY[:2], seed=0).values()) == {"train"}


def test_split_and_draws_depend_on_the_seed_and_not_on_the_order_of_the_slides():
    for function in (lambda s, seed: split_slides(s, seed=seed), lambda s, seed: draws(s, patches=999, seed=seed)):
        assert function(MANY, 0) == function(MANY[::-1], 0) != function(MANY, 1)


def test_slides_are_drawn_uniformly_and_half_of_the_patches_have_tumour():
    wanted = draws(MANY, patches=300_000, seed=0)
    assert sum(map(sum, wanted.values())) == 300_000
    positive = np.array([wanted[s.name][0] for s in MANY if s.tumour])
    negative = np.array([wanted[s.name][1] for s in MANY if not s.partial])
    assert positive.sum() == pytest.approx(150_000, rel=0.01)
    # binomial counts: 2500 +- 50 and 1087 +- 33
    assert np.abs(positive - 2500).max() < 5 * 50
    assert np.abs(negative - negative.mean()).max() < 5 * 33


def test_slides_that_cannot_give_a_kind_are_not_asked_for_it():
    wanted = draws(MANY, patches=10_000, seed=0)
    assert all(wanted[s.name][0] == 0 for s in MANY if not s.tumour)
    assert all(wanted[s.name][1] == 0 for s in MANY if s.partial)  # their unlabelled tissue may be tumour


@pytest.mark.parametrize(("kind", "expected"), [(True, (50, 0)), (False, (0, 50))])
def test_with_slides_of_one_kind_only_all_patches_are_of_that_kind(kind, expected):
    wanted = draws([SlideKind("a", kind, partial=kind)], patches=50, seed=0)
    assert wanted == {"a": expected}


# --- positions, on a slide of 40 x 60 cells with a disc of tumour in a rectangle of tissue ---

ROWS, COLUMNS = 40, 60
HEIGHT, WIDTH = ROWS * CELL - 5, COLUMNS * CELL - 11
PIXELS = np.hypot(*(np.mgrid[:HEIGHT, :WIDTH] - np.array([300, 500]).reshape(2, 1, 1))) < 60
TISSUE = np.zeros((ROWS, COLUMNS), bool)
TISSUE[10:30, 12:48] = True


def cells_of(pixels):
    padded = np.zeros((ROWS * CELL, COLUMNS * CELL), bool)
    padded[:HEIGHT, :WIDTH] = pixels
    return padded.reshape(ROWS, CELL, COLUMNS, CELL).any(axis=(1, 3))  # (rows, CELL, columns, CELL)


def positions(*, wanted=(300, 300), size=64, name="slide", seed=0, pixels=PIXELS, tissue=TISSUE):
    return draw_positions(
        name=name,
        seed=seed,
        wanted=wanted,
        size=size,
        shape=(HEIGHT, WIDTH),
        tissue=tissue,
        tumour=cells_of(pixels),
        has_tumour=lambda x, y: pixels[y : y + size, x : x + size].any(),
    )


@pytest.mark.parametrize("size", [16, 64, 65, 320])
def test_as_many_as_wanted_with_tumour_and_without_all_inside_and_on_tissue(size):
    found = positions(size=size, wanted=(40, 30) if size < 320 else (40, 0))
    has_tumour = [bool(PIXELS[y : y + size, x : x + size].any()) for x, y in found]
    assert (has_tumour.count(True), has_tumour.count(False)) == ((40, 30) if size < 320 else (40, 0))
    for x, y in found:
        assert 0 <= x <= WIDTH - size
        assert 0 <= y <= HEIGHT - size
        # the cell of the corner decides, and the corner lies anywhere in it
        assert TISSUE[y // CELL : -(-(y + size) // CELL), x // CELL : -(-(x + size) // CELL)].any()


def test_every_place_is_reached():
    found = np.array(positions(wanted=(3000, 0)))
    for axis, place in product((0, 1), range(CELL)):
        assert (found[:, axis] % CELL == place).any()
    inside = [PIXELS[y : y + 64, x : x + 64].mean() for x, y in found]
    assert min(inside) < 0.01
    assert max(inside) == 1


def test_positions_depend_on_name_and_seed_alone():
    assert positions() == positions()
    assert positions() != positions(name="other")
    assert positions() != positions(seed=1)


@pytest.mark.parametrize("wanted", [(5, 0), (0, 5)])
def test_a_slide_without_such_patches_gives_none(wanted):
    assert positions(wanted=wanted, tissue=np.zeros_like(TISSUE)) == []
    assert positions(wanted=wanted, pixels=np.full_like(PIXELS, wanted[0] == 0)) == []


def test_a_slide_smaller_than_a_patch_gives_none():
    assert positions(size=1000) == []
