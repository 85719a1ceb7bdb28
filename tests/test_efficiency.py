"""The factor of sample efficiency: read off a curve, censored at its ends, with an interval."""

import numpy as np
import pytest
from record_helpers import CASES, own_cases, record, scaled

from study.report.efficiency import LESS, MORE, Factor, factor, sample_efficiency
from study.report.published import PAPER_DICE

REGIMES = (0.125, 0.25, 0.5, 1.0)


@pytest.mark.parametrize(
    ("curve", "target", "expected"),
    [
        ((70, 75, 80, 85), 75, 4),
        ((70, 75, 80, 85), 85, 1),
        ((70, 75, 80, 85), 77.5, 2 * np.sqrt(2)),  # half-way between two regimes, on the logarithmic axis
        ((70, 75, 80, 85), 70, MORE),
        ((70, 75, 80, 85), 60, MORE),
        ((70, 75, 80, 85), 86, LESS),
        ((70, 76, 74, 85), 75, 4),  # a fall is levelled: 75 on both
        ((70, 80, 70, 70), 75, LESS),  # what one regime alone reaches by chance does not count
        ((80, 80, 80, 80), 80, MORE),
    ],
)
def test_the_factor_is_read_off_a_curve_that_does_not_fall(curve, target, expected):
    assert factor(REGIMES, curve, target) == pytest.approx(expected)


def test_a_factor_of_one_is_a_number_and_not_less_than_one():
    one = Factor(1.0, LESS, MORE, largest=8, regimes=REGIMES, seeds=5)
    assert str(one) == "1.0 [less than 1, at least 8]"


def test_two_regimes_are_enough():
    assert factor((0.125, 1.0), (70, 80), 75) == pytest.approx(np.sqrt(8))


def test_the_papers_factor():
    curve = {0.125: 79.6, 0.25: 81.6, 0.5: 82.1, 1.0: 83.7}
    assert curve == PAPER_DICE["p4m"]
    assert factor(list(curve), list(curve.values()), 79.8) == pytest.approx(8 / 2**0.1)


def trials(model, errors: dict[float, list[int]]) -> list[dict]:
    """In every case of a seed as many errors; each seed has cases of its own."""
    return [
        record(model, fraction, seed, own_cases(seed, scaled(CASES, errors=error)))
        for fraction, of_seeds in errors.items()
        for seed, error in enumerate(of_seeds)
    ]


BASELINE = trials("unet-aug", {1.0: [4, 5, 4, 5, 4]})
CURVE = {0.125: [9, 9, 8, 9, 9], 0.25: [5, 4, 4, 5, 4], 0.5: [3, 3, 2, 3, 3], 1.0: [1, 0, 1, 1, 0]}


def test_the_interval_is_of_all_regimes_together():
    found = sample_efficiency(BASELINE + trials("p4m", CURVE))
    assert found.regimes == REGIMES
    assert 3 < found.low < found.estimate < found.high < 5  # as good on about a quarter
    assert found.seeds == 5
    assert str(found) == f"{found.estimate:.1f} [{found.low:.1f}, {found.high:.1f}]"


def test_an_end_that_was_not_measured_is_named():
    better = sample_efficiency(BASELINE + trials("p4m", CURVE | {0.125: [4, 4, 3, 5, 4], 0.25: [1] * 5}))
    assert better.estimate == better.high == MORE
    assert str(better).startswith("at least 8 [")
    worse = sample_efficiency(BASELINE + trials("p4m", {0.125: [12] * 5, 1.0: [9, 9, 8, 9, 9]}))
    assert str(worse) == "less than 1 [less than 1, less than 1]"
    assert worse.largest == 8


def test_a_regime_without_all_seeds_is_left_out():
    fewer = trials("p4m", CURVE | {0.25: [5, 4]})
    assert sample_efficiency(BASELINE + fewer).regimes == (0.125, 0.5, 1.0)


def test_a_seed_that_one_of_them_lacks_on_all_of_the_data_is_left_out():
    more = trials("p4m", {fraction: [*errors, 50] for fraction, errors in CURVE.items()})
    assert sample_efficiency(BASELINE + more) == sample_efficiency(BASELINE + trials("p4m", CURVE))


@pytest.mark.parametrize(
    "records",
    [
        BASELINE,
        trials("p4m", CURVE),
        BASELINE + trials("p4m", {1.0: [1] * 5}),
        BASELINE + trials("p4m", {0.125: [1] * 5, 0.25: [1] * 5}),
        BASELINE + [one for one in trials("p4m", {0.125: [1] * 6, 1.0: [1] * 6}) if one["trial"]["seed"] == 5],
    ],
    ids=["baseline alone", "no baseline", "one regime", "not all of the data", "no common seed"],
)
def test_without_the_cells_there_is_no_factor(records):
    assert sample_efficiency(records) is None


def test_one_seed_and_one_case():
    one_seed = [record("unet-aug", 1.0, 0, scaled(CASES, errors=4))]
    one_seed += [record("p4m", fraction, 0, scaled(CASES, errors=e)) for fraction, e in [(0.125, 8), (1.0, 0)]]
    assert sample_efficiency(one_seed).low <= sample_efficiency(one_seed).estimate
    only = {"only": [100, 9, 9]}
    alone = [record(one["trial"]["model"], one["trial"]["fraction"], 0, only) for one in one_seed]
    found = sample_efficiency(alone)
    assert np.isnan(found.low)
    assert str(found) == "at least 8"
