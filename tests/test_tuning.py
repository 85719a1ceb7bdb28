from dataclasses import replace

import pytest
from data_helpers import assert_refused

from study.experiments.records import write_record
from study.experiments.tuning import RATES, TuningRun, chosen_rates, read_run, runs, tune, tuning_rows

RUN = TuningRun("unet", 0.5, 100, 3e-3)


def test_a_run_leaves_validation_scores_and_no_test_score(study, fabric):
    record = tune(study, RUN, fabric)
    path = study.root / "results" / "tiny" / "tuning" / "unet-50-100-0.003.json"
    assert read_run(path) == record
    assert record.keys() == {"run", "settings", "data", "history", "provenance"}
    assert not any("test" in key for row in record["history"] for key in row)
    assert record["settings"]["learning_rate"] == 3e-3
    assert len(record["history"]) == study.preset.recipe.epochs
    assert {"version", "hardware"} <= record["provenance"].keys()
    assert not (study.root / "runs" / "tiny" / "tuning" / "unet-50-100-0.003" / "last.pt").exists()


def test_a_run_that_is_done_is_not_repeated_and_one_of_other_settings_is(study, fabric):
    first = tune(study, RUN, fabric)
    assert tune(study, RUN, fabric) == first
    longer = replace(study, preset=replace(study.preset, recipe=replace(study.preset.recipe, epochs=3)))
    assert len(tune(longer, RUN, fabric)["history"]) == 3


def test_the_rate_of_the_highest_mean_dice_is_chosen(study, fabric, monkeypatch):
    folder = study.root / "results" / "tiny"
    dice = {3e-4: (0.5, 0.9), 1e-3: (0.8, 0.7), 3e-3: (0.9, 0.4)}
    for run in runs(["p4m"], [0.5], [100, 101]):
        row = {"epoch": 0, "train_loss": 1.0, "validation_loss": 1.0}
        history = [row | {"validation_dice": dice[run.learning_rate][run.seed - 100]}]
        write_record(folder / "tuning" / f"{run.name}.json", {"run": vars(run), "history": history})
    rows = tuning_rows(folder)
    assert len(rows) == 2 * len(RATES)
    assert chosen_rates(rows) == {"p4m": 1e-3}
    with assert_refused("p4m", "not complete"):
        chosen_rates(rows.iloc[1:])


def test_a_row_has_the_losses_of_the_last_epoch_and_the_dice_of_the_last_and_of_the_best(tmp_path):
    epochs = {"train_loss": (0.6, 0.3, 0.2), "validation_loss": (0.9, 0.4, 0.5), "validation_dice": (0.1, 0.8, 0.7)}
    history = [dict(zip(epochs, row, strict=True)) for row in zip(*epochs.values(), strict=True)]
    write_record(tmp_path / "tuning" / f"{RUN.name}.json", {"run": vars(RUN), "history": history})
    expected = {**vars(RUN), "dice": 0.7, "best_dice": 0.8, "loss": 0.5, "train_loss": 0.2}
    assert tuning_rows(tmp_path).to_dict("records") == [expected]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--fraction 2", "fraction 2.0"),
        ("--fraction 0", "fraction 0.0"),
        ("--seed=-1", "seeds are -1"),
        ("--seed 0", "seed 0 is of a trial"),
        ("--seed 100 --seed 100", "repeat a value"),
    ],
)
def test_what_no_tuning_can_be_is_refused(tmp_path, run_command, options, words):
    code, _, error = run_command("tune", "p4m", "--preset", "quick", "--root", tmp_path, *options.split())
    assert (code, error.count("\n")) == (2, 1)
    assert words in error


@pytest.mark.parametrize("text", ["", "{}", '{"run": {"model": 1}}'])
def test_a_damaged_record_is_refused_by_name(study, text):
    folder = study.root / "results" / "tiny"
    (folder / "tuning").mkdir(parents=True)
    (folder / "tuning" / "x.json").write_text(text)
    with assert_refused("x.json", "tune again"):
        tuning_rows(folder)
