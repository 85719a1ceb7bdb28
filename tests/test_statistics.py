"""Intervals over seeds and patients together: against a bootstrap written out, and where there is nothing to draw."""

import numpy as np
import pandas as pd
import pytest
from record_helpers import CASES, WORSE, own_cases, record, scaled

from study.errors import StudyError
from study.report.records import counts
from study.report.statistics import bootstrap_weights, dice_draws, difference, interval, pooled_dice

ERRORS = (0, 15, 3, -2)  # of each seed: seeds differ


def crossed(errors=ERRORS, model="p4m") -> pd.DataFrame:
    return counts([record(model, 1.0, seed, scaled(CASES, errors=e)) for seed, e in enumerate(errors)])


def nested(errors=ERRORS, model="p4m") -> pd.DataFrame:
    cases = [own_cases(seed, scaled(CASES, errors=e)) for seed, e in enumerate(errors)]
    return counts([record(model, 1.0, seed, c) for seed, c in enumerate(cases)])


def written_out(table: np.ndarray, *, nested: bool, draws: int = 4000) -> np.ndarray:
    """Dice in % of draws from counts ``(seed, case, 3)``, one index at a time."""
    rng, found = np.random.default_rng(1), []
    seeds, cases = table.shape[:2]
    for _ in range(draws):
        drawn = rng.integers(seeds, size=seeds)
        shared = rng.integers(cases, size=cases)
        tp, fp, fn = sum(
            table[seed][rng.integers(cases, size=cases) if nested else shared].sum(axis=0) for seed in drawn
        )
        found.append(200 * tp / (2 * tp + fp + fn))
    return np.array(found)


@pytest.mark.parametrize("design", [crossed, nested])
def test_the_bootstrap_is_the_one_written_out(design):
    units = design()
    table = units.to_numpy().reshape(len(ERRORS), len(CASES), 3)
    expected = written_out(table, nested=design is nested)
    found = dice_draws(units)
    np.testing.assert_allclose(interval(found), interval(expected), atol=0.4)
    assert found.std() == pytest.approx(expected.std(), rel=0.05)


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


def test_cases_that_some_seeds_share_are_drawn_like_crossed_ones():
    parts = [dict(list(CASES.items())[start : start + 8]) for start in (0, 4)]
    units = counts([record("p4m", 1.0, seed, part) for seed, part in enumerate(parts)])
    assert np.isfinite(dice_draws(units)).all()
    disjoint = counts([record("p4m", 1.0, s, {c: [9, 1, 1]}) for s, c in enumerate("aba")])
    assert dice_draws(disjoint) == pytest.approx(pooled_dice(disjoint))  # even where a draw has no unit at all


def test_counts_are_found_by_their_names():
    columns = ["tta_fn", "tta_tp", "tta_fp", "other", "tp", "fp", "fn"]
    cases = {case: [fn + 1, tp, fp, 0.5, tp, fp, fn] for case, (tp, fp, fn) in CASES.items()}
    one = record("p4m", 1.0, 0, CASES) | {"cases": cases, "case_columns": columns}
    pd.testing.assert_frame_equal(counts([one]), counts([record("p4m", 1.0, 0, CASES)]))
    more = {case: [tp, fp, fn + 1] for case, (tp, fp, fn) in CASES.items()}
    pd.testing.assert_frame_equal(counts([one], "tta_"), counts([record("p4m", 1.0, 0, more)]))


def test_a_reading_that_no_record_has_is_none():
    assert counts([record("p4m", 1.0, 0, CASES)], "tta_") is None
