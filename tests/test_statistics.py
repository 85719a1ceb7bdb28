"""Intervals over seeds and patients together: against all draws that there are, and where there is nothing to draw."""

from dataclasses import astuple
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from record_helpers import CASES, WORSE, own_cases, record, scaled
from scipy import stats

from study.errors import StudyError
from study.report import statistics
from study.report.records import counts
from study.report.statistics import (
    Difference,
    bootstrap_weights,
    dice_draws,
    difference,
    holm,
    interval,
    pooled_dice,
)
from study.tasks.ratios import dice

ERRORS = (0, 15, 3, -2)  # of each seed: seeds differ


def crossed(errors=ERRORS, model="p4m") -> pd.DataFrame:
    return counts([record(model, 1.0, seed, scaled(CASES, errors=e)) for seed, e in enumerate(errors)])


def nested(errors=ERRORS, model="p4m") -> pd.DataFrame:
    cases = [own_cases(seed, scaled(CASES, errors=e)) for seed, e in enumerate(errors)]
    return counts([record(model, 1.0, seed, c) for seed, c in enumerate(cases)])


def all_draws(table: np.ndarray, *, nested: bool) -> np.ndarray:
    """The Dice in % of every draw of seeds and cases, each as probable as any other, of counts ``(seed, case, 3)``."""
    seeds, cases = table.shape[:2]
    resamples = [list(drawn) for drawn in product(range(cases), repeat=cases)]
    found = []
    for drawn in product(range(seeds), repeat=seeds):
        of_each_seed = product(resamples, repeat=seeds) if nested else ([same] * seeds for same in resamples)
        for chosen in of_each_seed:
            sums = sum(table[seed][cs].sum(axis=0) for seed, cs in zip(drawn, chosen, strict=True))
            found.append(100 * dice(*sums))
    return np.array(found)


@pytest.mark.parametrize("design", ["crossed", "nested"])
@pytest.mark.parametrize(("seeds", "cases"), [(2, 2), (2, 3), (3, 2)])
def test_the_bootstrap_has_the_distribution_of_all_draws(design, seeds, cases):
    def units_of(table):
        names = [[f"{c} of {s}" if design == "nested" else str(c) for c in range(cases)] for s in range(seeds)]
        rows = [dict(zip(names[s], table[s].tolist(), strict=True)) for s in range(seeds)]
        return counts([record("p4m", 1.0, s, rows[s]) for s in range(seeds)])

    @examples(5)
    @given(st.integers(0, 2**32))
    def check(seed):
        rng = np.random.default_rng(seed)
        table = rng.integers(0, rng.choice([3, 1000]), (seeds, cases, 3))
        table[..., 0] += 1  # something is there and found: records of nothing have no Dice of their own to compare
        exact, drawn = all_draws(table, nested=design == "nested"), dice_draws(units_of(table))
        values = np.unique(exact)
        shares = [np.searchsorted(np.sort(d) - 1e-9, values, "right") / len(d) for d in (exact, drawn)]
        assert np.abs(np.subtract(*shares)).max() < 0.025  # Kolmogorov: 1 in 100,000 of 10,000 draws differ by more
        assert exact.min() - 1e-9 <= drawn.min() <= drawn.max() <= exact.max() + 1e-9

    check()


@st.composite
def records_of_two(draw):
    """Records of two networks over the same seeds and cases, crossed or nested or neither, in any order."""
    seeds, shared = draw(st.integers(1, 4)), draw(st.booleans())
    sizes = draw(st.lists(st.integers(2, 4), min_size=seeds, max_size=seeds))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    records = []
    for model in ("p4m", "unet-aug"):
        for seed, size in enumerate(sizes):
            names = [f"case {n}" if shared else f"case {n} of {seed}" for n in range(size)]
            records.append(record(model, 1.0, seed, {name: rng.integers(1, 500, 3).tolist() for name in names}))
    return records, draw(st.permutations(records)), draw(st.randoms(use_true_random=False))


@examples(12)
@given(records_of_two())
def test_an_interval_depends_on_no_order_and_on_no_unit_of_area(drawn):
    records, shuffled, chance = drawn

    def found(some, times=1):
        sides = []
        for model in ("p4m", "unet-aug"):
            own = [dict(one) for one in some if one["trial"]["model"] == model]
            for one in own:
                names = chance.sample(list(one["cases"]), len(one["cases"]))
                one["cases"] = {name: [times * n for n in one["cases"][name]] for name in names}
            sides.append(counts(own))
        return difference(sides[:1], sides[1:])

    expected = found(records)
    assert repr(found(shuffled)) == repr(expected)
    assert astuple(found(records, times=16)) == pytest.approx(astuple(expected), nan_ok=True, abs=1e-9)
    assert -100 <= expected.low <= expected.low_90 <= expected.high_90 <= expected.high <= 100
    if len(records) > 2:
        assert 0 <= expected.p <= 1


@pytest.mark.parametrize("design", [crossed, nested])
def test_seeds_and_cases_both_widen_the_interval(design):
    def width(units):
        low, high = interval(dice_draws(units))
        return high - low

    alike = {case: [100, 10, 10] for case in CASES}
    one_seed = counts([record("p4m", 1.0, 0, CASES)])
    only_seeds = counts([record("p4m", 1.0, s, scaled(alike, errors=e)) for s, e in enumerate(ERRORS)])
    assert width(design()) > width(design(errors=[0] * 4))
    assert width(design()) > width(only_seeds) > 0
    assert width(one_seed) > 0


@pytest.mark.parametrize("design", [crossed, nested])
def test_every_draw_has_as_many_units_as_there_are(design):
    weights = bootstrap_weights(tuple(design().index))
    assert (weights.sum(axis=1) == len(ERRORS) * len(CASES)).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(weights.shape[1]), abs=0.1)


@pytest.mark.parametrize("design", [crossed, nested])
def test_differences_are_paired(design):
    ours, theirs = design(), design(errors=[e + 5 for e in ERRORS])
    found = difference([ours], [theirs])
    assert found.estimate == pytest.approx(pooled_dice(ours) - pooled_dice(theirs))
    assert 0 < found.low < found.estimate < found.high
    low, high = interval(dice_draws(ours))
    assert found.high - found.low < (high - low) / 3


def test_exchanging_the_networks_turns_the_difference_round():
    ours, theirs = nested(), nested(errors=(4, 4, 4, 4))
    there, back = difference([ours], [theirs]), difference([theirs], [ours])
    assert (back.estimate, back.low, back.high) == pytest.approx((-there.estimate, -there.high, -there.low))


def test_a_network_does_not_differ_from_itself():
    found = difference([nested()], [nested()])
    assert (found.estimate, found.low, found.high, found.sd) == (0, 0, 0, 0)


def test_a_difference_is_over_the_seeds_that_both_have():
    more = pd.concat([crossed(), counts([record("p4m", 1.0, 9, {case: [1000, 0, 0] for case in CASES})])])
    theirs = crossed(errors=[5] * 4)
    assert difference([more], [theirs]) == difference([crossed()], [theirs])
    assert difference([more], [theirs]).seeds == 4
    assert difference([more.loc[[9]]], [theirs]) is None


def test_a_difference_of_differences_adds_up_each_side():
    cells = [crossed(errors=[e] * 4) for e in (0, 1, 2, 5)]
    found = difference(cells[:2], cells[2:])
    dice = [pooled_dice(units) for units in cells]
    assert found.estimate == pytest.approx(dice[0] + dice[1] - dice[2] - dice[3])
    assert found.low <= found.estimate <= found.high


def test_networks_tested_on_different_cases_are_refused():
    with pytest.raises(StudyError, match="seed 0: not every network was tested on case"):
        difference([nested()], [crossed()])


def test_cases_alike_leave_no_spread():
    alike = counts([record("p4m", 1.0, 0, {str(n): [10, 2, 3] for n in range(9)})])
    low, high = interval(dice_draws(alike))
    assert low == pytest.approx(pooled_dice(alike)) == pytest.approx(high)


def test_one_case_alone_says_nothing_about_others():
    alone = counts([record("p4m", 1.0, seed, {"only": [10, 2, 3 + seed]}) for seed in (0, 1)])
    assert np.isnan(interval(dice_draws(alone))).all()
    found = difference([alone], [alone])
    assert found.estimate == 0
    assert np.isnan([found.low, found.high]).all()


def test_one_case_per_seed_is_enough():
    units = counts([record("p4m", 1.0, seed, {str(seed): [10 + seed, 2, 3]}) for seed in range(5)])
    low, high = interval(dice_draws(units))
    assert low < pooled_dice(units) < high


def test_one_seed_has_no_spread_over_seeds_but_an_interval_over_cases():
    ours, theirs = (counts([record("p4m", 1.0, 0, cases)]) for cases in (CASES, WORSE))
    found = difference([ours], [theirs])
    assert np.isnan(found.sd)
    assert found.low < found.estimate < found.high


def in_partitions(times: int) -> pd.DataFrame:
    """Three folds of four cases, and the same again in other partitions."""
    names = [name for turn in range(times) for name in np.roll(list(CASES), turn)]
    folds = [names[start : start + 4] for start in range(0, len(names), 4)]
    return counts([record("p4m", 1.0, s, {name: CASES[name] for name in fold}) for s, fold in enumerate(folds)])


@pytest.mark.parametrize(("times", "apart"), [(1, True), (2, True), (3, False)])
def test_cases_are_drawn_within_seeds_unless_more_than_two_share_them(times, apart):
    units = in_partitions(times)
    weights = bootstrap_weights(tuple(units.index))
    sizes = units.groupby("seed").size()
    assert set(sizes) == {4}
    of_seeds = pd.DataFrame(weights.T, units.index).groupby("seed").sum()
    drawn_whole = (of_seeds.to_numpy() % 4 == 0).all()  # each drawn seed has as many cases as it has
    assert drawn_whole == apart


def test_a_draw_without_any_unit_is_left_out():
    units = counts([record("p4m", 1.0, s, {c: [9, 1, 1]}) for s, c in enumerate("aaab")])
    assert dice_draws(units) == pytest.approx(pooled_dice(units))


def test_counts_are_found_by_their_names():
    columns = ["tta_fn", "tta_tp", "tta_fp", "other", "tp", "fp", "fn"]
    cases = {case: [fn + 1, tp, fp, 0.5, tp, fp, fn] for case, (tp, fp, fn) in CASES.items()}
    one = record("p4m", 1.0, 0, CASES) | {"cases": cases, "case_columns": columns}
    pd.testing.assert_frame_equal(counts([one]), counts([record("p4m", 1.0, 0, CASES)]))
    more = {case: [tp, fp, fn + 1] for case, (tp, fp, fn) in CASES.items()}
    pd.testing.assert_frame_equal(counts([one], "tta_"), counts([record("p4m", 1.0, 0, more)]))


def test_a_reading_that_no_record_has_is_none():
    assert counts([record("p4m", 1.0, 0, CASES)], "tta_") is None


def test_the_p_value_is_students_on_the_bootstraps_error():
    ours, theirs = nested(), nested(errors=(4, 4, 9, 9))
    found = difference([ours], [theirs])
    t = found.estimate / (dice_draws(ours) - dice_draws(theirs)).std()
    assert found.p == pytest.approx(2 * stats.t.sf(abs(t), df=3))
    assert difference([theirs], [ours]).p == pytest.approx(found.p)


def test_a_p_value_needs_two_seeds_and_a_difference():
    assert np.isnan(difference([nested(errors=[0])], [nested(errors=[5])]).p)
    assert difference([nested()], [nested()]).p == 1
    alike = [counts([record("p4m", 1.0, s, {"a": [9, e, e], "b": [9, e, e]}) for s in (0, 1)]) for e in (1, 2)]
    assert difference(*([one] for one in alike)).p == 0


@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # times 3, 1 (not below the one before), 2 and 4
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holm_by_hand(p, adjusted):
    assert holm(np.array(p)) == pytest.approx(adjusted)


@examples(60)
@given(st.lists(st.floats(0, 1), max_size=7))
def test_holm_is_bonferroni_on_every_family_that_a_hypothesis_is_in(p):
    """The closed test: a hypothesis is as doubtful as the most doubtful of all families with it."""
    families = [list(f) for size in range(1, len(p) + 1) for f in combinations(range(len(p)), size)]
    bonferroni = {tuple(f): min(1, len(f) * min(p[n] for n in f)) for f in families}
    expected = [max(value for family, value in bonferroni.items() if n in family) for n in range(len(p))]
    assert holm(np.array(p)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("low", "high", "equivalent"), [(-0.9, 0.9, True), (0.1, 0.9, True), (-1.1, 0.2, False), (0.2, 1.0, False)]
)
def test_equivalence_is_a_90_percent_interval_within_the_margin(low, high, equivalent):
    found = Difference(0, -2, 2, low_90=low, high_90=high, error=0, p=1, sd=1, seeds=5, cases=9)
    assert found.equivalent(1) == equivalent


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_bounds_of_a_verdict_are_the_wider_of_two_intervals(level):
    few, many = (difference([nested(errors=range(n))], [nested(errors=[5] * n)]) for n in (5, 30))
    for found in (few, many):
        low, high = stats.t.interval(level, found.seeds - 1, found.estimate, found.error)
        bootstrap_low, bootstrap_high = found.percentiles(level)
        assert found.bounds(level) == pytest.approx((min(low, bootstrap_low), max(high, bootstrap_high)))
    assert few.bounds(level)[0] < few.percentiles(level)[0]


def test_few_seeds_bound_nothing_and_one_case_has_no_bounds():
    for seeds in (1, 4):
        few = difference([nested(errors=range(seeds))], [nested(errors=[5] * seeds)])
        assert few.bounds(0.95) == (-np.inf, np.inf)
    alone = counts([record("p4m", 1.0, seed, {"only": [10, 2, 3 + seed]}) for seed in range(5)])
    assert np.isnan(difference([alone], [alone]).bounds(0.95)).all()


def test_the_90_percent_interval_is_within_the_95_percent_one():
    found = difference([nested()], [nested(errors=(4, 4, 9, 9))])
    assert found.low < found.low_90 < found.estimate < found.high_90 < found.high


def simulated(ratio: float, repetitions: int, seeds: int = 10, cases: int = 34) -> list[Difference]:
    """Differences between two networks that are equally good, in a nested design of cases of unequal size.

    Args:
        ratio: of the variance that a network's seeds add to its Dice to that which the cases of one seed add.
        repetitions: how many studies.
    """
    rng = np.random.default_rng(1)
    index = pd.MultiIndex.from_tuples([(s, f"{s}-{c}") for s in range(seeds) for c in range(cases)])
    index.names = ["seed", "case"]
    of_case = 0.05
    of_seed = np.sqrt(ratio / cases) * of_case

    def network(pixels):
        shares = 0.2 + np.repeat(rng.normal(0, of_seed, seeds), cases) + rng.normal(0, of_case, seeds * cases)
        wrong = np.round(pixels * np.clip(shares, 0, 1))
        return pd.DataFrame({"tp": pixels - wrong, "fp": wrong, "fn": wrong}, index)

    found = []
    for _ in range(repetitions):
        pixels = np.round(rng.lognormal(8, 0.7, seeds * cases))
        found.append(difference([network(pixels)], [network(pixels)]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.5, 1, 4])
def test_the_interval_covers_the_truth_95_times_in_100_with_ten_seeds_of_34_cases(ratio, monkeypatch):
    monkeypatch.setattr(statistics, "DRAWS", 1000)
    bootstrap_weights.cache_clear()
    found = simulated(ratio, repetitions=400)
    bootstrap_weights.cache_clear()
    assert 0.925 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.985
    assert 0.875 <= np.mean([one.low_90 <= 0 <= one.high_90 for one in found]) <= 0.965
    assert np.mean([one.p < 0.05 for one in found]) <= 0.05  # never more errors than the test is said to make
