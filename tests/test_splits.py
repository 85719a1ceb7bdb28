from collections import Counter
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from data_helpers import assert_refused, make_store

from study.data.patches.splits import DESIGNS, FOLDS, fold_split, split, split_by_case, stored_split
from study.data.patches.store import Patch, PatchStore, write_patches


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> PatchStore:
    return PatchStore(make_store(tmp_path_factory.mktemp("stored") / "s.h5", 40))


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> PatchStore:
    """124 cases of one to five patches; a case in three has foreground, of very different amounts."""
    rng = np.random.default_rng(5)
    patches = []
    for n in range(124):
        share = 0 if n % 3 else rng.random() ** 2
        for _ in range(rng.integers(1, 6)):
            mask = (rng.random((4, 4)) < share).astype(np.uint8)
            patches.append(Patch(rng.integers(0, 256, (4, 4, 3), np.uint8), mask, case=f"case {n:03}", slide=f"s {n}"))
    split = dict.fromkeys((patch.case for patch in patches), "train")
    path = tmp_path_factory.mktemp("many") / "many.h5"
    write_patches(path, patches, split, source="noise", recipe={})
    return PatchStore(path)


def test_stored_regimes_are_nested_and_of_the_right_size(stored):
    eighth, quarter, half, whole = (set(stored_split(stored, f, 1).train.tolist()) for f in (0.125, 0.25, 0.5, 1))
    assert eighth < quarter < half < whole
    assert [len(regime) for regime in (eighth, quarter, half, whole)] == [4, 8, 16, 32]
    assert whole == set(stored.indices("train").tolist())


def test_stored_regimes_are_seeded_sorted_and_never_empty(stored):
    regimes = [stored_split(stored, 0.25, seed).train.tolist() for seed in (0, 0, 1)]
    assert regimes[0] == regimes[1] != regimes[2]
    assert all(regime == sorted(regime) for regime in regimes)
    assert len(stored_split(stored, 1e-6, 0).train) == 1


def test_a_stored_split_watches_and_tests_what_the_store_says(stored):
    found = stored_split(stored, 0.5, 3)
    np.testing.assert_array_equal(found.validation, stored.indices("validation"))
    np.testing.assert_array_equal(found.test, stored.indices("test"))


@pytest.mark.parametrize("design", DESIGNS)
def test_the_split_of_a_trial_is_that_of_its_design_with_its_share_and_seed(design, stored, many):
    store = {"stored": stored, "folds": many}[design]
    found, expected = split(design, store, 0.5, 3), DESIGNS[design](store, 0.5, 3)
    for part in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(found, part), getattr(expected, part))


# --- folds ---


def cases(store, indices) -> set[str]:
    return set(store.case[indices])


@pytest.mark.parametrize("seed", [0, 7, 23])
def test_no_case_is_in_two_parts_of_a_fold_and_no_patch_is_lost(many, seed):
    found = fold_split(many, 1.0, seed)
    parts = [cases(many, part) for part in (found.train, found.validation, found.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 124
    assert sum(len(part) for part in (found.train, found.validation, found.test)) == len(many)


@pytest.mark.parametrize("first", [0, 10, 30])
def test_ten_seeds_test_every_case_once_but_those_that_all_are_watched_on(many, first):
    splits = [fold_split(many, 1.0, seed) for seed in range(first, first + FOLDS)]
    tested = Counter(case for found in splits for case in cases(many, found.test))
    watched = cases(many, splits[0].validation)
    assert set(tested.values()) == {1}
    assert tested.keys() | watched == set(many.case)
    assert all(cases(many, found.validation) == watched for found in splits)
    assert 12 <= len(watched) <= 13


def test_other_seeds_beyond_ten_have_another_partition_and_the_same_validation_set(many):
    first, second = fold_split(many, 1.0, 3), fold_split(many, 1.0, 13)
    assert cases(many, first.test) != cases(many, second.test)
    np.testing.assert_array_equal(first.validation, second.validation)


@pytest.mark.parametrize("seed", [0, 4, 19])
def test_regimes_of_cases_are_nested_and_of_the_right_size(many, seed):
    regimes = [cases(many, fold_split(many, f, seed).train) for f in (0.125, 0.25, 0.3, 0.5, 1.0)]
    assert all(small < large for small, large in pairwise(regimes))
    assert [len(regime) for regime in regimes] == [round(f * len(regimes[-1])) for f in (0.125, 0.25, 0.3, 0.5, 1.0)]


def test_folds_and_regimes_have_their_share_of_the_cases_with_foreground(many):
    foreground = pd.Series(many.foreground()).groupby(many.case).sum() > 0
    for seed in range(FOLDS):
        for fraction in (0.125, 0.25, 1.0):
            found = fold_split(many, fraction, seed)
            for part in (found.train, found.validation, found.test):
                inside = foreground[sorted(cases(many, part))]
                assert abs(inside.sum() - len(inside) * foreground.mean()) <= 1.5


def test_the_order_of_the_patches_does_not_matter_for_the_folds(many, tmp_path):
    expected = fold_split(many, 0.25, 2)
    again = fold_split(PatchStore(many.path), 0.25, 2)
    np.testing.assert_array_equal(expected.train, again.train)


def test_too_few_cases_for_folds_are_refused(stored):
    with assert_refused("3 cases", "at least 20"):
        fold_split(stored, 1.0, 0)


# --- one split for all seeds ---


def cases_of(*counts):
    return [f"case-{n}" for n, count in enumerate(counts) for _ in range(count)]


def shares(cases, seed):
    split = split_by_case(cases, seed=seed)
    assert split.keys() == set(cases)
    filled = Counter(split[case] for case in cases)
    return [filled[part] for part in ("train", "validation", "test")]


@pytest.mark.parametrize("seed", range(4))
def test_single_patches_are_split_8_to_1_to_1(seed):
    assert shares(cases_of(*[1] * 200), seed) == [160, 20, 20]


@pytest.mark.parametrize("seed", range(4))
def test_whole_cases_are_split_8_to_1_to_1_to_within_one_case_each(seed):
    counts = np.random.default_rng(seed).integers(1, 13, 60)
    train, validation, test = shares(cases_of(*counts), seed)
    tenth = counts.sum() / 10
    assert tenth <= validation < tenth + counts.max()
    assert tenth <= test < tenth + counts.max()
    assert train == counts.sum() - validation - test


@pytest.mark.parametrize("counts", [(1, 1, 1), (5, 5, 5, 5), (1, 1, 98), (1, 1, 1, 97), (50, 30, 20), (1, 40, 40)])
def test_no_part_is_ever_empty(counts):
    for seed in range(20):
        assert min(shares(cases_of(*counts), seed)) > 0


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_patches():
    cases = cases_of(*range(1, 21))
    split = split_by_case(cases, seed=3)
    assert split_by_case(np.random.default_rng(0).permutation(cases), seed=3) == split
    assert split_by_case(cases, seed=4) != split


@pytest.mark.parametrize("counts", [(), (9,), (5, 4)])
def test_fewer_than_three_cases_are_refused(counts):
    with assert_refused(len(counts), "at least three"):
        split_by_case(cases_of(*counts), seed=0)
