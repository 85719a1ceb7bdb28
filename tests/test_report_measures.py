"""The measures beside the pooled Dice, what a network costs, and what it gains for that."""

import numpy as np
import pandas as pd
import pytest
from record_helpers import CASES, own_cases, record, scaled

from study import report
from study.experiments.evaluation import CASE_COLUMNS, calibration, case_columns, summarise
from study.report.costs import read_updates
from study.report.results import StudyResults
from study.tasks.measures import BINS
from study.tasks.task import Task

BIN_SUMS = ("pixels", "probability", "foreground")
MEASURES = ("dice", "dice_per_case", "iou", "boundary_dice", "ece")


def full_record(model: str, seed: int, *, symmetric: bool = False, seconds: float = 2.0) -> dict:
    """A record with every column, of random sums, whose metrics are those of the sums, each by its formula."""
    generator = np.random.default_rng(seed + 100 * symmetric)
    cases = pd.DataFrame(
        generator.integers(1, 1000, (7, len(CASE_COLUMNS))).astype(float),
        [f"case {n} of seed {seed}" for n in range(7)],
        columns=list(CASE_COLUMNS),
    )
    cases.iloc[0, cases.columns.get_indexer(["tp", "fn", "tta_tp", "tta_fn"])] = 0  # a patient without foreground
    if symmetric:
        cases[["border_flips", "interior_flips"]] = 0
    pixels = generator.integers(1, 100, BINS).astype(float)
    bins = {"pixels": pixels, "probability": pixels * 0.5, "foreground": pixels * generator.random(BINS)}
    one, total = {}, cases.sum()
    for r in ("", "tta_"):
        tp, fp, fn = (total[f"{r}{name}"] for name in ("tp", "fp", "fn"))
        there = cases[cases[f"{r}tp"] + cases[f"{r}fn"] > 0]
        each = 2 * there[f"{r}tp"] / (2 * there[f"{r}tp"] + there[f"{r}fp"] + there[f"{r}fn"])
        near = total[f"{r}boundary_decision_hit"] + total[f"{r}boundary_truth_hit"]
        one |= {
            f"{r}dice": 2 * tp / (2 * tp + fp + fn),
            f"{r}dice_per_case": each.mean(),
            f"{r}iou": tp / (tp + fp + fn),
            f"{r}boundary_dice": near / (total[f"{r}boundary_decision"] + total[f"{r}boundary_truth"]),
            f"{r}ece": np.abs(bins["probability"] - bins["foreground"]).sum() / pixels.sum(),
        }
    for region in ("border", "interior"):
        one[f"deviation_{region}"] = total[f"{region}_deviation"] / total[f"{region}_pixels"]
        one[f"changed_{region}"] = total[f"{region}_flips"] / total[f"{region}_pixels"]
    flips = total.border_flips + total.interior_flips
    one |= {"changed": flips / (total.border_pixels + total.interior_pixels), "multiplications": 1e6}
    made = record(model, 0.125, seed, {case: [1, 1, 1] for case in cases.index}, **one, training_cases=34)
    made["case_columns"], made["cases"] = list(CASE_COLUMNS), {case: list(row) for case, row in cases.T.items()}
    made["calibration"] = {f"{r}{name}": list(sums) for r in ("", "tta_") for name, sums in bins.items()}
    made["history"] = [{"epoch": n, "seconds": seconds * (1 + n)} for n in range(2)]
    made["provenance"]["hardware"] = "a CPU"
    return made


@pytest.mark.parametrize("reading", ["", "tta_"])
def test_the_measures_of_one_trial_are_those_of_its_record(reading):
    one = full_record("unet-aug", 0)
    (row,) = (row for row in report.measure_rows([one]).itertuples() if row.reading == reading)
    for name in MEASURES:
        assert getattr(row, name) == pytest.approx(100 * one["metrics"][f"{reading}{name}"])
    for name in MEASURES[:-1]:
        assert getattr(row, f"{name}_low") <= getattr(row, name) <= getattr(row, f"{name}_high")
    for region in ("border", "interior"):
        expected = (one["metrics"][f"deviation_{region}"], 100 * one["metrics"][f"changed_{region}"])
        expected = (0, 0) if reading else expected  # the mean over the eight is the same whichever of them one sees
        assert getattr(row, f"deviation_{region}") == pytest.approx(expected[0])
        assert getattr(row, f"changed_{region}") == pytest.approx(expected[1])


def test_of_several_classes_the_measures_are_the_means_that_an_evaluation_has():
    task, generator = Task("two kinds", ("background", "one", "other")), np.random.default_rng(0)
    bins = [f"{r}{name}_{n}_{k}" for r in ("", "tta_") for k in (1, 2) for n in range(BINS) for name in BIN_SUMS]
    columns = [*case_columns(task), *bins, "deviation_max"]
    patches = pd.DataFrame(generator.integers(1, 1000, (6, len(columns))).astype(float), columns=columns)
    patches.loc[0, ["tp_2", "fn_2"]] = 0  # one class is not in every patch
    patches["case"] = [f"case {n}" for n in range(6)]
    one = record("unet-aug", 0.125, 0, CASES, **summarise(patches, task))
    one["case_columns"] = case_columns(task)
    one["cases"] = {row.case: [row[name] for name in case_columns(task)] for _, row in patches.iterrows()}
    one["calibration"] = calibration(patches, task)
    for row in report.measure_rows([one]).itertuples():
        for name in MEASURES:
            assert getattr(row, name) == pytest.approx(100 * one["metrics"][f"{row.reading}{name}"])
        assert row.dice_low <= row.dice <= row.dice_high


def test_the_dice_is_that_of_the_summary_with_its_interval():
    records = [full_record("unet-aug", seed) for seed in range(3)]
    measured = report.measure_rows(records).set_index("reading").loc[""]
    (summary,) = report.summary_rows(records).itertuples()
    assert (measured.dice, measured.dice_low) == pytest.approx((summary.dice, summary.dice_low))
    assert measured.dice_high == pytest.approx(summary.dice_high)


def test_a_network_that_answers_all_eight_alike_has_no_row_with_tta():
    records = [full_record("unet-aug", 0), full_record("p4m", 0, symmetric=True)]
    for rows in (report.measure_rows(records), report.cost_rows(records)):
        assert list(zip(rows.model, rows.reading, strict=True)) == [("unet-aug", ""), ("unet-aug", "tta_"), ("p4m", "")]


def test_tta_costs_eight_predictions_and_no_training():
    plain, tta = report.cost_rows([full_record("unet-aug", 0)]).itertuples()
    assert tta.multiplications == 8 * plain.multiplications
    assert (tta.seconds, tta.parameters) == (plain.seconds, plain.parameters)


def test_seconds_are_those_of_the_fastest_epoch_on_the_machine_that_most_trials_ran_on():
    records = [full_record("unet-aug", seed, seconds=3.0 - seed) for seed in range(2)]
    other = full_record("unet-aug", 2, seconds=0.1)
    other["provenance"]["hardware"] = "a GPU"
    assert set(report.cost_rows([*records, other]).seconds) == {2 * 2.0}  # two epochs of two seconds
    plain, larger = (full_record(model, 0, seconds=5.0) for model in ("unet", "p4m"))
    seconds = report.cost_rows([*records, plain, larger]).groupby("model").seconds.first()
    assert (seconds.unet, seconds.p4m) == (4.0, 10.0)  # without augmentation it is the same network


UPDATES = pd.DataFrame({"model": ["unet-aug", "p4m"], "update_ms": [100.0, 200.0], "prediction_ms": [40.0, 80.0]})


def test_networks_that_were_timed_in_turn_have_those_seconds_whatever_their_records_say():
    records = [full_record("unet-aug", 0, seconds=7.0), full_record("p4m", 0, seconds=1.0), full_record("p4", 0)]
    rows = report.cost_rows(records, UPDATES).set_index(["model", "reading"])
    assert rows.seconds["p4m", ""] == pytest.approx(2 * 3 * 0.2)  # two epochs of three updates
    assert rows.seconds["unet-aug", ""] == rows.seconds["unet-aug", "tta_"] == pytest.approx(2 * 3 * 0.1)
    assert rows.prediction_ms["unet-aug", ""] == pytest.approx(40 / 4)  # a batch of four
    assert rows.prediction_ms["unet-aug", "tta_"] == pytest.approx(8 * 40 / 4)
    assert np.isnan(rows.seconds["p4", ""])  # nothing untimed stands among the timed


def test_times_of_other_settings_are_not_taken(tmp_path):
    records = [full_record("unet-aug", 0)]
    assert read_updates(tmp_path, records) is None
    for width, taken in ((8, True), (16, False)):
        UPDATES.assign(width=width, size=80, batch_size=4).to_csv(tmp_path / "updates.csv", index=False)
        assert (read_updates(tmp_path, records) is not None) == taken


def test_the_table_of_costs_says_how_the_seconds_were_found():
    records = [full_record("unet-aug", 0), full_record("p4m", 0, symmetric=True)]
    untimed = report.table("costs", StudyResults("glands", records))
    assert "the fastest epoch on record" in untimed
    assert "Time of a prediction" not in untimed
    updates = UPDATES.assign(threads=1, hardware="a CPU")
    timed = report.table("costs", StudyResults("glands", records, updates=updates))
    assert "| P4M U-Net | 1,000 | 1 M (1 ×) | 20 ms (2 ×) | 1 (2 ×) |" in timed
    assert "in turn, with 1 thread of a CPU." in timed


def test_older_records_have_dashes_where_they_were_not_measured():
    study = StudyResults("glands", [record("unet", 1.0, seed, CASES) for seed in range(2)])
    (row,) = (line for line in report.table("measures", study).splitlines() if line.startswith("| U-Net |"))
    assert row.split("|")[-5:-1] == [" – "] * 4
    (row,) = (line for line in report.table("costs", study).splitlines() if line.startswith("| U-Net |"))
    assert row.split("|")[-3:-1] == [" – "] * 2


def test_gains_are_over_the_augmented_unet_on_the_same_cases_and_not_between_values():
    """Seed 1 has hard patients. A network that only seed 0 tested must not gain by that."""
    errors = {0: 2, 1: 30}
    records = [
        record("unet-aug", 0.125, seed, own_cases(seed, scaled(CASES, errors=e + 2))) for seed, e in errors.items()
    ]
    records += [record("p4m", 0.125, 0, own_cases(0, scaled(CASES, errors=errors[0])))]
    rows = report.worth_rows(records, report.measure_rows(records), report.cost_rows(records)).set_index("model")
    values = report.summary_rows(records).set_index("model").dice
    assert 0 < rows.gain["p4m"] < 5 < values["p4m"] - values["unet-aug"]
    assert rows.seeds["p4m"] == 1
    assert rows.gain["unet-aug"] == 0


def test_gains_side_by_side_are_over_the_same_seeds():
    """Seed 5 alone has easy patients for P4M; the symmetric U-Net has too few seeds to stand beside the others."""
    cells = {("unet-aug", 0.125): 6, ("p4m", 0.125): 6, ("p4", 0.125): 5, ("unet-sym", 0.125): 4, ("p4m", 1.0): 5}
    records = [
        record(model, fraction, seed, own_cases(seed, scaled(CASES, errors=30 * (model == "unet-aug" and seed == 5))))
        for (model, fraction), seeds in cells.items()
        for seed in range(seeds)
    ]
    rows = report.worth_rows(records, report.measure_rows(records), report.cost_rows(records))
    assert set(zip(rows.model, rows.fraction, strict=True)) == set(cells) - {("unet-sym", 0.125)}
    assert (rows.seeds == 5).all()
    assert (rows.gain == 0).all()


def test_nothing_is_gained_over_a_baseline_that_there_is_not():
    records = [record("p4m", 0.125, 0, CASES)]
    assert report.worth_rows(records, report.measure_rows(records), report.cost_rows(records)).empty


def test_the_verdict_follows_the_intervals():
    def study(ours: int, seeds: int) -> StudyResults:
        cases = {seed: scaled(CASES, errors=5 + seed % 2) for seed in range(seeds)}
        theirs = [record("unet-aug", 0.125, seed, own_cases(seed, some)) for seed, some in cases.items()]
        own = [record("p4m", 0.125, s, own_cases(s, scaled(CASES, errors=ours + s % 2))) for s in range(seeds)]
        return StudyResults("cancer", [*theirs, *own])

    assert "P4M is better" in report.verdict(study(0, 6))
    assert "P4M is worse" in report.verdict(study(10, 6))
    assert "P4M is not better" in report.verdict(study(5, 6))
    assert "undecided, with fewer than 5 seeds" in report.verdict(study(0, 4))
    alone = StudyResults("cancer", [record("p4m", 0.125, 0, CASES)])
    assert "has no trials yet" in report.verdict(alone)
