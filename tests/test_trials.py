import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data_helpers import make_blobs
from grid_helpers import numbers

from study.errors import StudyError
from study.experiments.grid import save_maps
from study.experiments.records import Trial, read_record, read_records
from study.experiments.saved_maps import maps_path
from study.experiments.trials import Study, run_trial, score_patches
from study.locks import only_one
from study.networks.checkpoint import load_model
from study.tasks.ratios import boundary_dice, calibration_error, dice


def test_the_grid_of_trials_is_complete_and_whole_seed_by_seed(preset, store, tmp_path):
    trials = Study("tiny", preset, store, tmp_path).trials()
    assert len(set(trials)) == len(trials) == 4 * 2 * 2
    assert [trial.seed for trial in trials] == [0] * 8 + [1] * 8


def test_trials_have_names_fit_for_files():
    assert Trial("p4m", 0.125, 3).name == "p4m-12.5-3"
    assert Trial("unet", 1.0, 0).name == "unet-100-0"


@pytest.fixture
def done(study, fabric):
    trial = study.trials()[1]
    return trial, run_trial(study, trial, fabric)


def test_a_trial_leaves_its_weights_and_its_record(study, done, fabric):
    trial, record = done
    assert read_record(study.record_path(trial)) == record
    network = load_model(study.checkpoint_path(trial))
    scores = score_patches(network, study.store, study.store.indices("test"), fabric, batch_size=4)
    assert record["metrics"]["dice"] == pytest.approx(dice(scores.tp.sum(), scores.fp.sum(), scores.fn.sum()))
    assert sorted(p.name for p in study.run_folder(trial).iterdir()) == [".lock", "best.pt"]


def test_a_record_has_full_provenance(study, done):
    trial, record = done
    assert record["trial"] == {"model": trial.model, "fraction": trial.fraction, "seed": trial.seed}
    assert record["settings"] == study.preset.trial_settings(trial.model)
    assert record["data"] == {"source": "blobs", "fingerprint": study.store.fingerprint}
    assert {"command", "version", "python", "torch", "hardware", "threads", "finished"} <= record["provenance"].keys()
    assert record["metrics"]["training_patches"] == round(trial.fraction * len(study.store.indices("train")))
    assert len(record["history"]) == study.preset.recipe.epochs


def test_the_sums_per_case_add_up_to_the_measures(study, done):
    _, record = done
    cases = pd.DataFrame.from_dict(record["cases"], orient="index", columns=record["case_columns"])
    sums, metrics = cases.sum(), record["metrics"]
    assert metrics["dice"] == pytest.approx(float(dice(sums.tp, sums.fp, sums.fn)))
    assert metrics["tta_dice"] == pytest.approx(float(dice(sums.tta_tp, sums.tta_fp, sums.tta_fn)))
    boundaries = sums[["boundary_decision", "boundary_decision_hit", "boundary_truth", "boundary_truth_hit"]]
    assert metrics["boundary_dice"] == pytest.approx(float(boundary_dice(*boundaries)))
    pixels = sums.border_pixels + sums.interior_pixels
    assert metrics["changed"] == pytest.approx((sums.border_flips + sums.interior_flips) / pixels)
    assert metrics["deviation"] == pytest.approx((sums.border_deviation + sums.interior_deviation) / pixels, rel=1e-5)
    assert set(record["cases"]) == set(study.store.case[study.store.indices("test")])


def test_the_bins_of_the_probability_add_up_to_the_calibration_error(done):
    _, record = done
    bins, metrics = record["calibration"], record["metrics"]
    for reading in ("", "tta_"):
        sums = (bins[reading + name] for name in ("pixels", "probability", "foreground"))
        assert calibration_error(*sums) == pytest.approx(metrics[f"{reading}ece"], abs=1e-5)


def test_a_record_from_before_there_were_more_than_counts_is_read(study, done):
    trial, record = done
    path = study.record_path(trial)
    old = {key: value for key, value in record.items() if key not in ("case_columns", "calibration")}
    old["cases"] = {case: sums[:3] for case, sums in record["cases"].items()}
    path.write_text(json.dumps(old))
    assert study.is_done(trial)
    assert read_record(path) == old | {"case_columns": ["tp", "fp", "fn"]}


def test_a_trial_that_another_process_runs_is_left_to_it(study, fabric):
    trial = study.trials()[1]
    with only_one(study.run_folder(trial), "trains in"), pytest.raises(StudyError, match=r"process \d+ on .*trains in"):
        run_trial(study, trial, fabric)
    assert not study.record_path(trial).exists()


def test_a_trial_that_was_cut_in_its_evaluation_repeats_only_that(study, done, fabric, tmp_path, monkeypatch):
    trial, whole = done
    cut = replace(study, root=tmp_path / "cut")

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("study.experiments.trials.score_patches", killed)
        with pytest.raises(KeyboardInterrupt):
            run_trial(cut, trial, fabric)
    monkeypatch.setattr("study.experiments.training._train_epoch", killed)
    assert numbers(run_trial(cut, trial, fabric)) == numbers(whole)


def test_a_record_says_whether_the_training_diverged_and_by_what(done):
    _, record = done
    metrics, last = record["metrics"], record["history"][-1]
    assert metrics["diverged"] == (last["train_loss"] > last["constant_loss"])
    assert {name: metrics[name] for name in ("train_loss", "constant_loss")}.items() <= last.items()


def test_a_trial_is_done_once_its_record_and_weights_are_here(study, done):
    trial, _ = done
    assert study.is_done(trial)
    assert not study.is_done(study.trials()[0])


def test_a_committed_record_without_weights_counts_only_if_trusted(study, done):
    trial, _ = done
    study.checkpoint_path(trial).unlink()
    assert not study.is_done(trial)
    assert study.is_done(trial, trust_results=True)


def test_weights_made_with_other_settings_are_never_overwritten(study, done):
    trial, _ = done
    other = replace(study, preset=replace(study.preset, recipe=replace(study.preset.recipe, epochs=5)))
    with pytest.raises(StudyError, match="give this study another --name"):
        other.is_done(trial)


def test_weights_made_from_other_data_are_never_overwritten(study, done, tmp_path):
    trial, _ = done
    other = replace(study, store=make_blobs(tmp_path / "other.h5", seed=1))
    with pytest.raises(StudyError, match="other data or settings"):
        other.is_done(trial)


def test_two_models_on_one_seed_are_trained_on_the_same_patches(study, fabric):
    records = [run_trial(study, trial, fabric) for trial in study.trials()[:2]]
    assert records[0]["metrics"]["training_patches"] == records[1]["metrics"]["training_patches"]
    assert [r["trial"]["model"] for r in records] == ["unet", "p4m"]


def test_a_damaged_record_is_named(study, done):
    trial, _ = done
    study.record_path(trial).write_text('{"trial": ')
    with pytest.raises(StudyError, match=f"{trial.name}.json is damaged"):
        study.is_done(trial)


def test_results_that_are_not_there_are_asked_for(tmp_path):
    with pytest.raises(StudyError, match="python -m study reproduce"):
        read_records(tmp_path)


def test_a_full_disk_during_training_is_one_line_and_leaves_no_record(study, fabric, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StudyError, match="the disk is full"):
        run_trial(study, study.trials()[0], fabric)
    assert not study.record_path(study.trials()[0]).exists()
    assert not any(study.root.rglob("*.partial"))


def test_weights_without_a_record_are_not_overwritten_by_another_study(study, done, tmp_path):
    trial, _ = done
    study.record_path(trial).unlink()
    assert not study.is_done(trial)
    other = replace(study, preset=replace(study.preset, recipe=replace(study.preset.recipe, epochs=5)))
    with pytest.raises(StudyError, match="other data or settings"):
        other.is_done(trial)


def test_a_study_that_would_share_a_table_with_another_is_refused_before_it_trains(study, done, tmp_path):
    trial, _ = done
    shutil.rmtree(study.run_folder(trial))
    other = replace(study, store=make_blobs(tmp_path / "other.h5", seed=1))
    other.check_company([trial])  # its record is the only one, and is replaced
    with pytest.raises(StudyError, match=f"{trial.name}.json is of other data"):
        other.check_company([other.trials()[0]])


def test_maps_are_of_the_largest_regime_of_all_grids(study, fabric, monkeypatch):
    more = ((("unet", "p4m"), (1.0,), (0,)),)
    study = replace(study, preset=replace(study.preset, fractions=(0.5,), more=more))
    for trial in study.trials():
        run_trial(study, trial, fabric)
    monkeypatch.setattr(Study, "has_diverged", lambda *_: False)  # so short a training may
    save_maps(study, fabric.device)
    with np.load(maps_path(study.root, study.name)) as file:
        assert file["networks"] == "unet-100-0 and p4m-100-0"


def test_the_seeds_that_have_weights_are_found(study, done):
    assert study.seeds_here() == [0]
