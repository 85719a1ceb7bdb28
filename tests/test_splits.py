from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from data_helpers import assert_refused, make_store
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from study.data.patches.splits import DESIGNS, FOLDS, fold_split, split, split_by_case, stored_split
from study.data.patches.store import Patch, PatchStore, write_patches


@dataclass
class Labels:
    """What splits need of a store."""

    case: np.ndarray
    split: np.ndarray
    pixels: np.ndarray
    path: str = "store.h5"

    @classmethod
    def of(cls, patches: list[tuple[str, str, int]]) -> "Labels":
        return cls(*(np.array(column) for column in zip(*patches, strict=True)))

    def __len__(self) -> int:
        return len(self.case)

    def foreground(self) -> np.ndarray:
        return self.pixels

    def indices(self, split: str) -> np.ndarray:
        return np.flatnonzero(self.split == split)


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


@examples(50)
@given(
    splits=st.lists(st.sampled_from(["train", "validation", "test"]), max_size=100),
    fractions=st.lists(st.floats(1e-6, 1), min_size=2, max_size=4).map(sorted),
    seed=st.integers(0, 2**32),
)
def test_stored_regimes_are_nested_sorted_of_the_right_size_and_never_empty(splits, fractions, seed):
    store = Labels.of([(f"{split} case", split, 0) for split in (*splits, "train", "validation", "test")])
    training = store.indices("train")
    regimes = [stored_split(store, fraction, seed).train for fraction in (*fractions, 1.0)]
    for fraction, regime, larger in zip((*fractions, 1.0), regimes, [*regimes[1:], training], strict=True):
        assert set(regime) <= set(larger)
        assert regime.tolist() == sorted(set(regime.tolist()))
        assert len(regime) == max(1, round(fraction * len(training)))
    np.testing.assert_array_equal(stored_split(store, fractions[0], seed).train, regimes[0])


def test_a_stored_regime_depends_on_the_seed(stored):
    assert stored_split(stored, 0.25, 0).train.tolist() != stored_split(stored, 0.25, 1).train.tolist()


def test_a_stored_split_watches_and_tests_what_the_store_says(stored):
    found = stored_split(stored, 0.5, 3)
    np.testing.assert_array_equal(found.validation, stored.indices("validation"))
    np.testing.assert_array_equal(found.test, stored.indices("test"))


@pytest.mark.parametrize("design", ["stored", "folds"])
def test_the_split_of_a_trial_is_that_of_its_design_with_its_share_and_seed(design, stored, many):
    store = {"stored": stored, "folds": many}[design]
    found, expected = split(design, store, 0.5, 3), DESIGNS[design](store, 0.5, 3)
    for part in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(found, part), getattr(expected, part))


# --- folds ---


def cases(store, indices) -> set[str]:
    return set(store.case[indices])


def stores_of_cases():
    """20 to 60 cases of one to five patches in any order, of any amounts of foreground, or none."""
    cases = st.lists(st.tuples(st.integers(1, 5), st.sampled_from([0, 0, 1, 7, 1000])), min_size=20, max_size=60)
    patches = cases.map(
        lambda cs: [(f"case {n:02}", "train", pixels) for n, (c, pixels) in enumerate(cs) for _ in range(c)]
    )
    return st.tuples(patches, st.randoms(use_true_random=False)).map(lambda both: both[1].sample(both[0], len(both[0])))


@examples(15)
@given(stores_of_cases(), st.integers(0, 5), st.lists(st.floats(0.01, 1), min_size=1, max_size=3).map(sorted))
def test_folds_of_any_cases(patches, partition, fractions):
    """No case is in two parts, none is lost; ten seeds test each once but those watched; regimes are nested."""
    store = Labels.of(patches)
    count = len(set(store.case))
    tested = Counter()
    for seed in range(FOLDS * partition, FOLDS * (partition + 1)):
        found = fold_split(store, 1.0, seed)
        places = np.concatenate([found.train, found.validation, found.test])
        assert sorted(places) == list(range(len(store)))
        train, watched, test = (cases(store, part) for part in (found.train, found.validation, found.test))
        assert len(train) + len(watched) + len(test) == count
        assert abs(len(watched) - count / FOLDS) < 1
        tested.update(test)
        larger = train
        for fraction in reversed(fractions):
            smaller = fold_split(store, fraction, seed)
            regime = cases(store, smaller.train)
            assert regime <= larger
            assert len(regime) == max(1, round(fraction * len(train)))
            np.testing.assert_array_equal(smaller.train, np.flatnonzero(np.isin(store.case, list(regime))))
            np.testing.assert_array_equal(smaller.validation, found.validation)
            np.testing.assert_array_equal(smaller.test, found.test)
            larger = regime
    assert set(tested.values()) == {1}
    assert tested.keys() | watched == set(store.case)


def test_other_seeds_beyond_ten_have_another_partition_and_the_same_validation_set(many):
    first, second = fold_split(many, 1.0, 3), fold_split(many, 1.0, 13)
    assert cases(many, first.test) != cases(many, second.test)
    np.testing.assert_array_equal(first.validation, second.validation)


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


@examples(100)
@given(st.lists(st.integers(1, 40), min_size=3, max_size=60), st.integers(0, 2**32))
def test_whole_cases_are_split_8_to_1_to_1_to_within_one_case_each_and_no_part_is_ever_empty(counts, seed):
    train, validation, test = shares(cases_of(*counts), seed)
    tenth = sum(counts) / 10
    assert 0 < test < tenth + max(counts)
    assert 0 < validation < tenth + max(counts)
    assert 0 < train == sum(counts) - validation - test
    if 3 * max(counts) <= tenth:  # no large case can make the others too few
        assert min(validation, test) >= tenth


@pytest.mark.parametrize("counts", [(1, 1, 1), (5, 5, 5, 5), (1, 1, 98), (1, 1, 1, 97), (50, 30, 20), (1, 40, 40)])
def test_no_part_is_empty_of_cases_of_very_different_sizes(counts):
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
