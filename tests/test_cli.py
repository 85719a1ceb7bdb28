"""The command line as a user meets it: what it leaves behind, and what it says when something is wrong."""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import HAS_ESCNN
from data_helpers import SPLIT, as_older, contents, make_blobs, make_patches, make_store

import study
from study.data.patches.store import PatchStore, write_patches
from study.errors import StudyError
from study.experiments.trials import run_trial
from study.locks import only_one
from study.networks.models import BASELINE_MODELS, MODELS, VARIANT_MODELS

TINY = [
    *("--preset", "miniature", "--data", "store.h5", "--set", "size=16", "--set", "width=4", "--set", "depth=1"),
    *("--set", "epochs=2", "--set", "batches_per_epoch=4", "--set", "batch_size=4", "--set", "learning_rate=0.01"),
    *("--set", "fractions=0.5,1", "--name", "tiny"),
]


@pytest.fixture
def run(tmp_path, monkeypatch, run_command, store):
    """Run a command in a folder with a ``store.h5``; returns the exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(store.path, "store.h5")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("study.experiments.grid.CPU_COUNT", 1)  # in this process, one trial after another
    return run_command


def refused(outcome: tuple[int, str, str]) -> str:
    """The one line of a refusal: exit code 2, nothing that looks like a traceback."""
    code, _, error = outcome
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
    return error


def test_reproduce_makes_everything_and_then_has_nothing_left_to_do(run, tmp_path):
    code, output, _ = run("reproduce", *TINY)
    assert code == 0
    assert "8 of 8 trials to run" in output
    assert len(list((tmp_path / "results/tiny/trials").glob("*.json"))) == 8
    assert (tmp_path / "figures/tiny/dice_table.md").read_text() in output
    assert (tmp_path / "figures/tiny/stability.png").is_file()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("best.pt")}
    code, output, _ = run("reproduce", *TINY)
    assert code == 0
    assert "0 of 8 trials to run" in output
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("best.pt")}


def test_reproduce_goes_on_with_the_trials_that_are_missing(run, tmp_path):
    run("reproduce", *TINY)
    shutil.rmtree(tmp_path / "runs/tiny/p4-50-0")
    assert "1 of 8 trials to run" in run("reproduce", *TINY)[1]
    shutil.rmtree(tmp_path / "runs")
    assert "0 of 8 trials to run" in run("reproduce", *TINY, "--trust-results")[1]


def test_a_study_that_another_process_runs_is_left_to_it(run, tmp_path):
    with only_one(tmp_path / "runs/tiny", "runs the study in"):
        refusal = refused(run("reproduce", *TINY))
    assert f"process {os.getpid()} on " in refusal
    assert "runs/tiny; wait until it is done" in refusal
    assert not (tmp_path / "results").exists()
    assert run("reproduce", *TINY, "--set", "models=unet", "--set", "fractions=1")[0] == 0


def test_a_dry_run_lists_the_trials_and_writes_nothing(run, tmp_path):
    run("reproduce", *TINY, "--set", "models=unet")
    before = contents(tmp_path)
    code, output, _ = run("reproduce", *TINY, "--set", "models=unet,p4m", "--dry-run")
    assert code == 0
    assert output.count("│ done ") == output.count("│ to do ") == 2
    assert "2 of 4 trials to run, about " in output
    code, output, _ = run("reproduce", "--dry-run", "--preset", "miniature", "--set", "fractions=1")
    assert code == 0
    assert "4 of 4 trials to run" in output
    assert "the data are not prepared yet" in output
    assert contents(tmp_path) == before


def test_a_dry_run_knows_committed_records_before_the_data_are_prepared(run, tmp_path):
    shutil.copytree(Path(study.__file__).parents[1] / "results/quick", tmp_path / "results/quick")
    assert "0 of 6 trials to run; the data are not prepared" in run("reproduce", "--dry-run", "--trust-results")[1]
    assert "6 of 6 trials to run" in run("reproduce", "--dry-run")[1]


def test_failed_trials_are_listed_at_the_end_and_the_others_are_in_the_tables(run, tmp_path, monkeypatch):
    def fails(study, trial, *args, **kwargs):
        if trial.model == "p4m":
            raise StudyError("it rained")
        return run_trial(study, trial, *args, **kwargs)

    monkeypatch.setattr("study.experiments.grid.run_trial", fails)
    code, output, error = run("reproduce", *TINY, "--set", "models=unet,p4m", "--set", "fractions=1")
    assert code == 1
    assert error == "failed: P4M U-Net on 100 % of the data, seed 0: it rained\n"
    assert (tmp_path / "figures/tiny/dice_table.md").read_text() in output


def test_train_evaluate_and_figures_agree(run, tmp_path):
    settings = [argument for argument in TINY if not argument.startswith("fractions")]
    settings.pop(settings.index("--name") - 1)
    code, output, _ = run("train", "p4m", "--fraction", "0.5", "--seed", "3", *settings)
    assert code == 0
    checkpoint = tmp_path / "runs/tiny/p4m-50-3/best.pt"
    assert checkpoint.is_file()
    dice = float(output.split(": Dice ")[1].split(" %")[0])  # of the test patches; epochs have a validation Dice
    code, output, _ = run("evaluate", checkpoint, "--data", "store.h5")
    assert code == 0
    assert float(output.split("pixels")[1].split("│")[1].split("%")[0]) == pytest.approx(dice, abs=0.0501)
    assert run("figures", "--name", "tiny")[0] == 0
    assert (tmp_path / "figures/tiny/dice_table.csv").is_file()


def test_subgroups_are_trained_and_stand_in_the_tables_and_figures(run, tmp_path):
    settings = [*TINY, "--set", "models=pmm,unet,p2,pm", "--set", "fractions=1"]
    code, output, _ = run("reproduce", *settings)
    assert code == 0
    models = [line.split("|")[1].strip() for line in output.splitlines() if "U-Net |" in line]
    assert models == ["U-Net", "P2 U-Net", "PM U-Net", "PMM U-Net"]
    drawn = (tmp_path / "figures/tiny/p4_against_p4m.svg").read_text()
    assert all(f"<!-- {model} -->" in drawn for model in models)
    code, output, _ = run("check", tmp_path / "runs/tiny/pm-100-0/best.pt", "--size", "16")
    assert code == 0
    assert output.count("│ yes ") == 2


def test_baselines_and_variants_are_trained_checked_and_not_converted_to_what_escnn_lacks(run, tmp_path):
    names = [*BASELINE_MODELS, *VARIANT_MODELS]
    longer = ["--set", "batches_per_epoch=16", "--set", "fractions=1"]  # or not all have learned anything yet
    code, output, _ = run("reproduce", *TINY, "--set", f"models={','.join(names)}", *longer)
    assert code == 0
    assert all(f"| {MODELS[name].label} |" in output for name in names)
    drawn = (tmp_path / "figures/tiny/dice_against_data.svg").read_text()
    assert all(f"<!-- {MODELS[name].label} -->" in drawn for name in names if "'" not in MODELS[name].label)
    code, output, _ = run("check", tmp_path / "runs/tiny/p4m-literal-100-0/best.pt", "--size", "16")
    assert code == 0
    assert output.count("│ no ") == 7
    for name in ("unet-sym", "p4m-max"):
        refusal = refused(run("convert", tmp_path / f"runs/tiny/{name}-100-0/best.pt", "--to", "escnn"))
        assert "not there on escnn" in refusal


def test_tensorboard_logs_where_it_is_installed(run, tmp_path):
    pytest.importorskip("tensorboard")
    assert run("reproduce", *TINY, "--set", "models=unet", "--tensorboard")[0] == 0
    assert list((tmp_path / "runs/tiny/unet-100-0/tensorboard").glob("events*"))


def test_tensorboard_is_asked_for_where_it_is_not_installed(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert "pip install tensorboard" in refused(run("reproduce", *TINY, "--set", "models=unet", "--tensorboard"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "promised"), [("p4m", 8), ("unet-sym", 8), ("p4", 4), ("pmm", 4), ("pm", 2), ("p2", 2), ("unet", 1)]
)
def test_check_measures_every_element_and_keeps_the_promise(run, model, promised):
    code, output, _ = run("check", model, "--width", "8", "--depth", "2", "--size", "16")
    assert code == 0
    assert output.count("│ yes ") == promised
    assert output.count("│ no ") == 8 - promised


def test_help_lists_every_command_and_preset(run):
    _, output, _ = run("--help")
    assert all(command in output for command in ("reproduce", "data", "train", "evaluate", "figures", "check"))
    _, output, _ = run("reproduce", "--help")
    assert all(preset in output for preset in ("quick", "ebhi-cancer", "ebhi-gpu", "paper"))


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("reproduce --preset fast", "unknown preset 'fast'"),
        ("reproduce --set wdith=3", "wdith=3"),
        ("reproduce --set width=3", "give it a --name"),
        ("reproduce --set models=resnet", "unknown model 'resnet'"),
        ("reproduce --preset ebhi-gpu", "--data PATH"),
        ("reproduce --preset ebhi-cpu --data nowhere", "no data folder at nowhere"),
        ("reproduce --preset paper --data nowhere.h5", "no patch store at nowhere.h5"),
        ("reproduce --set precision=7-bit --name odd", "7-bit"),
        ("train resnet", "unknown model 'resnet'"),
        ("train unet --fraction 2", "fraction 2.0"),
        ("figures", "no results in results/quick"),
        ("figures --preset slow", "unknown preset 'slow'"),
        ("evaluate nothing.pt --data x.h5", "no checkpoint at nothing.pt"),
        ("check resnet", "unknown model 'resnet'"),
        ("check p4m --size 66", "64 or 72"),
        ("check p4m --depth 9", "depth is 9"),
        ("check p4m --grid hexagonal", "hexagonal"),
        ("data ebhi nowhere x.h5", "no data folder at nowhere"),
        ("check p4 --grid even --depth 1 --size 15", "14 or 16"),
        ("reproduce --devices 3", "--set batch_size"),
        ("train unet --seed 99999999999999999999", "give numbers from 0"),
        ("reproduce --name ../elsewhere", "cannot name a folder"),
        ("reproduce --name .", "cannot name a folder"),
        ("figures --name a/b", "cannot name a folder"),
        (f"reproduce --name {300 * 'a'}", "too long to name a folder"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(run, tmp_path, command, named):
    assert named in refused(run(*command.split()))
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "results").exists()


def test_a_damaged_store_is_named_and_a_reproduction_of_other_data_keeps_the_old(run, tmp_path):
    (tmp_path / "mine.h5").write_bytes(b"not HDF5")
    assert "mine.h5 is damaged" in refused(run("reproduce", *TINY, "--data", "mine.h5"))
    run("reproduce", *TINY, "--set", "models=unet", "--set", "fractions=1")
    make_blobs(tmp_path / "other.h5", seed=9)
    assert "--name" in refused(run("reproduce", *TINY, "--set", "fractions=1", "--data", "other.h5"))


def test_other_data_than_the_presets_needs_a_name(run, tmp_path):
    write_patches(tmp_path / "mine.h5", make_patches(10, size=64), SPLIT, source="mine", recipe={})
    assert "give the study a --name" in refused(run("reproduce", "--data", "mine.h5"))


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_a_part_without_foreground_is_named(run, part):
    patches = [replace(patch, mask=patch.mask * (SPLIT[patch.case] != part)) for patch in make_patches(20, size=16)]
    write_patches("store.h5", patches, SPLIT, source="random", recipe={})
    code, _, error = run("reproduce", *TINY, "--dry-run")
    assert code == 0
    assert error.startswith(f"note: store.h5 has no foreground in its {part} patches; check the masks")
    assert error.count("\n") == 1


def test_a_regime_without_foreground_is_named(run):
    patches = [replace(patch, mask=patch.mask * (n % 8 == 7)) for n, patch in enumerate(make_patches(10, size=16))]
    patches = [replace(patch, mask=patch.mask | 1) if patch.case != "a" else patch for patch in patches]
    write_patches("store.h5", patches, SPLIT, source="random", recipe={})
    _, _, error = run("reproduce", *TINY, "--set", "fractions=0.125,1", "--set", "seeds=0,1,2", "--dry-run")
    assert "no foreground in its train patches at 12.5 % of the data with seed" in error


def test_masks_of_0_and_255_from_elsewhere_are_refused(run):
    with h5py.File(as_older(make_store(Path("store.h5"), 20, size=16)), "r+") as file:
        file["mask"][:] *= 255
    code, _, error = run("reproduce", *TINY)
    notice, refusal = error.splitlines()
    assert code == 2
    assert "store.h5 is of an older version" in notice
    assert "store.h5" in refusal
    assert "give 0 and 1" in refusal


def test_a_file_that_is_there_is_not_overwritten_with_data(run, tmp_path):
    (tmp_path / "precious.h5").write_text("precious")
    assert "precious.h5 exists" in refused(run("data", "ebhi", ".", "precious.h5"))
    assert (tmp_path / "precious.h5").read_text() == "precious"


def test_replacing_records_is_announced(run, tmp_path):
    run("reproduce", *TINY, "--set", "models=unet")
    shutil.rmtree(tmp_path / "runs")
    assert "2 records in results/tiny will be replaced" in run("reproduce", *TINY, "--set", "models=unet")[1]


def test_patches_of_another_size_are_refused_with_the_remedy(run, tmp_path):
    make_blobs(tmp_path / "large.h5", size=32)
    assert "--set size=32" in refused(run("reproduce", *TINY, "--data", "large.h5"))


def test_an_error_in_a_loading_process_is_one_line_too(run, tmp_path):
    store = PatchStore("store.h5")
    content = bytearray(store.path.read_bytes())
    with h5py.File(store.path) as file:
        for image in file["x"][store.indices("train")]:
            content[content.index(image.tobytes()) + 7] ^= 1  # one bit of each patch
    store.path.write_bytes(content)
    code, _, error = run("reproduce", *TINY, "--set", "models=unet", "--set", "workers=2")
    assert code == 1
    assert error.count("\n") == 2
    assert all(
        line.startswith("failed: U-Net on ") and "store.h5" in line and "damaged" in line for line in error.splitlines()
    )


def test_evaluating_on_patches_without_foreground_is_no_error(run, tmp_path):
    run("train", "unet", *TINY[: TINY.index("fractions=0.5,1") - 1], "--name", "tiny")
    patches = [replace(patch, mask=patch.mask * 0) for patch in make_patches(10, size=16)]
    write_patches(tmp_path / "empty.h5", patches, SPLIT, source="empty", recipe={})
    code, output, _ = run("evaluate", "runs/tiny/unet-100-0/best.pt", "--data", "empty.h5")
    assert code == 0
    assert "–" in output


def test_maps_follow_the_networks_and_old_pictures_do_not_stay(run, tmp_path):
    run("reproduce", *TINY, "--set", "models=unet,p4m")
    maps = tmp_path / "results/tiny/stability_maps.npz"
    old = maps.stat().st_mtime_ns
    run("reproduce", *TINY, "--set", "models=unet,p4m")
    assert maps.stat().st_mtime_ns == old
    maps.write_bytes(b"damaged")
    run("reproduce", *TINY, "--set", "models=unet,p4m")
    with np.load(maps) as file:
        assert file["networks"] == "unet-100-0 and p4m-100-0"
        others = {name: file[name] for name in file} | {"fingerprint": np.array("another")}
    np.savez(maps, **others)
    run("figures", "--name", "tiny")
    assert not (tmp_path / "figures/tiny/stability.png").exists()


@pytest.mark.skipif(not HAS_ESCNN, reason="escnn is not installed")
def test_a_network_is_trained_on_escnn_and_converted_both_ways(run, tmp_path):
    code, output, _ = run("reproduce", *TINY, "--set", "models=p4m,p4m-escnn,p4m-escnn-full")
    assert code == 0
    assert "P4M U-Net, escnn, full basis" in output
    assert (tmp_path / "figures/tiny/implementation_table.md").is_file()
    assert (tmp_path / "figures/tiny/implementations.png").is_file()
    trained = tmp_path / "runs/tiny/p4m-escnn-100-0/best.pt"
    code, output, _ = run("convert", trained, "--to", "native")
    assert code == 0
    assert "8 convolutions; largest residual" in output
    converted = trained.with_name("best-native.pt")
    assert converted.is_file()
    run("convert", converted, "--to", "escnn")
    assert converted.with_name("best-native-escnn-full.pt").is_file()
    code, output, _ = run("convert", tmp_path / "runs/tiny/p4m-100-0/best.pt", "--to", "escnn", "--basis", "escnn")
    assert "up.0.0" in output
    assert "Lost share of the filter" in output
    data = "store.h5"
    dice = [run("evaluate", path, "--data", data)[1].split("pixels")[1].split()[1] for path in (trained, converted)]
    assert dice[0] == dice[1]
    assert "exists; choose another name" in refused(run("convert", trained, "--to", "native"))
    assert "choose from native, escnn" in refused(run("convert", trained, "--to", "tensorflow"))
    assert "choose from escnn, full" in refused(run("convert", trained, "--to", "escnn", "--basis", "half"))
    assert "--basis full is for escnn" in refused(run("convert", trained, "--to", "native", "--basis", "full"))
    assert "no checkpoint at ." in refused(run("convert", ".", "--to", "native"))
    code, output, _ = run("reproduce", *TINY[:-1], "alone", "--set", "models=p4m-escnn")
    assert code == 0
    assert not (tmp_path / "figures/alone/implementation_table.md").exists()


@pytest.mark.skipif(not HAS_ESCNN, reason="escnn is not installed")
def test_check_holds_escnn_to_float32_and_shows_45_degrees(run):
    code, output, _ = run("check", "p8-escnn", "--width", 8, "--depth", 1, "--size", 16)
    assert code == 0
    assert "45°" in output


@pytest.mark.skipif(not HAS_ESCNN, reason="escnn is not installed")
def test_turns_by_any_angle(run, tmp_path):
    run("reproduce", *TINY, "--set", "models=p4m,p8-escnn")
    code, output, _ = run("bench", "angles", "--study", "tiny", "--data", "store.h5")
    assert code == 0
    assert "45°" in output
    assert (tmp_path / "results/escnn/angles.csv").is_file()
    assert (tmp_path / "figures/escnn/angles.png").is_file()
    assert "no networks in" in refused(run("bench", "angles", "--data", "store.h5"))
    make_blobs(tmp_path / "other.h5", seed=7)
    other = run("bench", "angles", "--study", "tiny", "--data", tmp_path / "other.h5")
    assert "was trained on other data than" in refused(other)
