"""The table of the paper's claims: every verdict, on records that were made for it."""

import pandas as pd
import pytest
from record_helpers import CASES, own_cases, record, results_of, scaled

from study import report
from study.report.claims import CLAIMS, AsGoodOnAQuarter, Better, SameAnswer, claim_rows
from study.report.contrasts import Cell, find

BETTER = "On all of the data P4M is better than the U-Net of equal parameters"
QUARTER = "On a quarter of the data P4M is as good as the U-Net on all"
GROWS = "Its advantage grows as the data shrink (12.5 % against all)"
LESS_DATA = "P4M needs less data for the Dice of the U-Net on all of it"

SAME_ANSWER = [claim.sentence for claim in CLAIMS if isinstance(claim, SameAnswer)]


def trials(model, errors: dict[float, list[int]], **metrics) -> list[dict]:
    """In every case of a seed as many errors, 0.8 points of Dice each; each seed has cases of its own."""
    return [
        record(model, fraction, seed, own_cases(seed, scaled(CASES, errors=error)), **metrics)
        for fraction, of_seeds in errors.items()
        for seed, error in enumerate(of_seeds)
    ]


def verdicts(*records) -> dict[str, str]:
    rows = claim_rows({"cancer": [one for some in records for one in some]})
    return dict(zip(rows.claim, rows.verdict, strict=True))


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 2.0, "holds"),
        (0.1, 0.4, "holds"),  # little, and better
        (-2.0, -0.1, "does not"),
        (-0.8, 0.9, "does not"),  # shown to be nothing
        (-1.1, 0.5, "undecided"),
        (-0.5, 1.1, "undecided"),
        (-3.0, 3.0, "undecided"),
        (0.0, 2.0, "undecided"),
        (-2.0, 0.0, "undecided"),
        (-1.0, 0.9, "undecided"),
        (-0.9, 1.0, "undecided"),
    ],
)
def test_better_is_a_matter_of_the_whole_interval(low, high, verdict):
    assert Better("", (), ()).verdict(low, high) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.9, 0.5, "holds"),
        (0.5, 2.0, "holds"),
        (-3.0, -1.1, "does not"),
        (-1.1, 0.5, "undecided"),
        (-2.0, -0.5, "undecided"),
        (-1.0, 0.5, "undecided"),
        (-3.0, -1.0, "undecided"),
    ],
)
def test_as_good_is_not_more_than_the_margin_below(low, high, verdict):
    assert AsGoodOnAQuarter("", (), ()).verdict(low, high) == verdict


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ([0, 1, 0, 1, 0], [4, 5, 5, 4, 5], "holds"),
        ([4, 5, 5, 4, 5], [0, 1, 0, 1, 0], "does not"),
        ([4, 5, 4, 5, 4], [4, 4, 5, 5, 4], "does not"),  # within a point
        ([0, 9, 0, 9, 0], [4, 4, 5, 5, 4], "undecided"),
        ([8, 8, 8, 2, 2], [9, 9, 9, 9, 9], "undecided"),  # above zero in every draw; Student's t asks for more
        ([0, 1, 0, 1], [4, 5, 5, 4], "undecided"),  # too few seeds
    ],
)
def test_each_verdict_about_the_better_network(ours, theirs, verdict):
    assert verdicts(trials("p4m", {1.0: ours}), trials("unet-aug", {1.0: theirs}))[BETTER] == verdict


def test_the_numbers_of_a_claim_are_those_of_the_difference():
    records = trials("p4m", {1.0: [0, 1, 0, 1, 0], 0.25: [2, 1, 0, 1, 2]}) + trials(
        "unet-aug", {1.0: [4, 5, 5, 4, 5], 0.25: [6, 5, 4, 5, 6]}
    )
    rows = claim_rows({"cancer": records}).set_index("claim")
    unet = [Cell("unet-aug", 1.0)]
    better, quarter = (find(records, [Cell("p4m", fraction)], unet) for fraction in (1.0, 0.25))
    assert tuple(rows.loc[BETTER, ["estimate", "low", "high"]]) == (better.estimate, better.low, better.high)
    assert tuple(rows.loc[QUARTER, ["estimate", "low", "high"]]) == (quarter.estimate, quarter.low_90, quarter.high_90)


@pytest.mark.parametrize(
    ("p4m", "verdict"),
    [([2, 3, 2, 3, 2], "holds"), ([9, 9, 8, 9, 9], "does not"), ([0, 9, 0, 9, 0], "undecided")],
)
def test_each_verdict_about_a_quarter_of_the_data(p4m, verdict):
    records = trials("p4m", {0.25: p4m}) + trials("unet-aug", {0.25: [9, 9, 8, 9, 9], 1.0: [2, 3, 3, 2, 3]})
    assert verdicts(records)[QUARTER] == verdict
    ours = claim_rows({"cancer": records}).set_index("claim").ours
    assert "; the U-Net itself -4." in ours[QUARTER]


@pytest.mark.parametrize(
    ("small", "verdict"), [([6, 7, 6, 7, 6], "holds"), ([0, 1, 0, 1, 0], "does not"), ([0, 9, 3, 9, 3], "undecided")]
)
def test_each_verdict_about_a_growing_advantage(small, verdict):
    p4m = trials("p4m", {0.125: [1, 0, 1, 0, 1], 1.0: [0, 0, 1, 0, 0]})
    assert verdicts(p4m, trials("unet-aug", {0.125: small, 1.0: [3, 3, 3, 2, 3]}))[GROWS] == verdict


@pytest.mark.parametrize(
    ("on_all", "verdict"),
    [([1, 1, 0, 1, 1], "holds"), ([9, 8, 9, 9, 8], "does not"), ([1, 9, 1, 9, 1], "undecided")],
)
def test_each_verdict_about_the_amount_of_data(on_all, verdict):
    p4m = trials("p4m", {0.125: [12] * 5, 1.0: on_all})
    assert verdicts(p4m, trials("unet-aug", {1.0: [4, 4, 5, 4, 4]}))[LESS_DATA] == verdict


@pytest.mark.parametrize(
    ("of_one", "p4m", "unet"),
    [
        ({"deviation_max": 1e-6, "changed": 0.0}, "holds", "does not"),
        ({"deviation_max": 0.4, "changed": 0.15}, "does not", "holds"),
        ({"deviation_max": 1e-6, "changed": 0.15}, "does not", "holds"),
    ],
)
def test_each_verdict_about_the_same_answer(of_one, p4m, unet):
    found = {model: verdicts(trials(model, {1.0: [1, 1]}, **of_one)) for model in ("p4m", "unet-aug")}
    steady, turning = SAME_ANSWER
    assert found["p4m"][steady] == p4m
    assert found["unet-aug"][turning] == unet


def test_one_network_refutes_what_is_said_of_all():
    same, other = {"deviation_max": 1e-6, "changed": 0.0}, {"deviation_max": 0.4, "changed": 0.15}
    for model, sentence in zip(("p4m", "unet-aug"), SAME_ANSWER, strict=True):
        mixed = trials(model, {1.0: [1, 1]}, **same) + trials(model, {0.5: [1, 1]}, **other)
        assert verdicts(mixed)[sentence] == "does not"


def test_networks_without_a_pixel_say_nothing():
    nothing = trials("p4m", {1.0: [1, 1]}, deviation_max=None, changed=None)
    assert pd.isna(verdicts(nothing)[SAME_ANSWER[0]])


def test_the_papers_numbers_are_its_table():
    paper = {claim.sentence: claim.paper for claim in CLAIMS}
    assert paper[BETTER] == "+3.9 points"
    assert paper[QUARTER] == "+1.8 points"
    assert paper[GROWS] == "+1.5 points"
    assert paper[LESS_DATA] == "a factor of 7.5 (interpolated)"


def test_what_was_not_run_has_no_verdict():
    rows = claim_rows({"cancer": trials("p4", {0.5: [1, 1]})})
    assert len(rows) == len(CLAIMS)
    assert rows[["ours", "estimate", "low", "high", "verdict"]].isna().all(axis=None)
    assert "| – |" in report.claim_table(results_of(cancer=trials("p4", {0.5: [1, 1]})))


def test_every_task_is_a_column():
    won = trials("p4m", {1.0: [0, 1, 0, 1, 0]}) + trials("unet-aug", {1.0: [4, 5, 5, 4, 5]})
    lost = trials("p4m", {1.0: [4, 5, 5, 4, 5]}) + trials("unet-aug", {1.0: [0, 1, 0, 1, 0]})
    studies = {"cancer": won, "glands": lost, "nuclei": trials("p4", {1.0: [1]})}
    table = report.claim_table(results_of(**studies))
    (row,) = (line for line in table.splitlines() if line.startswith(f"| {BETTER}"))
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    assert cells[0] == "+3.9 points"
    assert [cell.split(":")[0] for cell in cells[1:]] == ["**holds**", "**does not**", "–"]
    rows = claim_rows(studies)
    assert len(rows) == 3 * len(CLAIMS)
    pd.testing.assert_frame_equal(rows[rows.task == "cancer"].reset_index(drop=True), claim_rows({"cancer": won}))
