"""The benchmarks of speed: what they compare and write down, and the rules that follow. No timing is judged here."""

import os
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import HAS_ESCNN

from study.bench import layers, steps, updates
from study.bench import rules as choice
from study.errors import StudyError
from study.gconv import GroupConv2d
from study.gconv.fast import rules
from study.groups import GROUPS, P4M
from study.report.benchmarks import read_benchmark, write_benchmark
from study.report.tables.layers import layers_table
from study.report.tables.training_step import steps_table

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
TINY = layers.Settings(widths=(4,), size=16, batches=(1,), precision="float32", rounds=2)
TINY_STEPS = steps.Settings(widths=(4, 6), size=16, batch=2, precision="float32", rounds=2)
FORMS = [form for form in layers.FORMS if "last" not in form and (form != "escnn" or HAS_ESCNN)]  # on a CPU


@pytest.fixture(scope="module")
def measured() -> pd.DataFrame:
    chosen = [case for case in layers.cases(TINY) if case.grid == 8]
    return layers.measure(chosen, TINY, CPU)


def test_every_level_and_both_kinds_of_layer_are_there_once():
    chosen = layers.cases(replace(TINY, widths=(16, 32), size=96, batches=(1, 4)))
    assert len(set(chosen)) == len(chosen)
    for group, batch in product(("p4", "p4m"), (1, 4)):
        part = [case for case in chosen if (case.group, case.batch) == (group, batch)]
        assert {case.grid for case in part} == {96, 48, 24, 12, 6}
        assert len([case for case in part if not case.transposed]) == 10
        assert len([case for case in part if case.transposed]) == 8


@pytest.mark.parametrize("case", layers.cases(replace(TINY, widths=(8,)))[:4], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_a_form_computes_planes_of_the_right_size_with_equal_parameters(case, form):
    out = case.build(form)(case.input(form))
    assert out.shape[-1] == case.grid * (2 if case.transposed else 1)
    if form != "plain":
        assert out.shape[:3] == (1, case.outputs, 8)
    parameters = {f: sum(p.numel() for p in case.build(f).parameters()) for f in ("dense", "fourier", "plain")}
    assert parameters["dense"] == parameters["fourier"] == pytest.approx(parameters["plain"], rel=0.3)
    assert case.products("dense") / case.products("fourier") == pytest.approx(64 / 12)


def test_layers_are_measured_against_the_dense_form(measured):
    assert set(measured.form) == set(FORMS)
    dense = measured[measured.form == "dense"]
    assert (dense.forward_ratio == 1).all()
    assert (dense.both_ratio == 1).all()
    assert (measured[["forward_ms", "both_ms", "forward_roofline", "both_roofline", "gflops"]] > 0).all(axis=None)


def test_layers_say_what_they_take_unasked(measured):
    assert set(measured.auto) <= {"dense", "fourier"}


def test_writing_layers(measured, tmp_path):
    path = write_benchmark(tmp_path, "layers", measured)
    assert path.parent == tmp_path / "results" / "speed"
    figures = tmp_path / "figures" / "speed"
    assert (figures / f"{path.stem}.md").read_text() == layers_table(pd.read_csv(path))
    assert (figures / f"{path.stem}.png").is_file()


# The rules


ROW = "cpu,cpp,float32,p4m,GroupConv2d,{},{},{},{},{}"


@pytest.fixture
def own_rules(tmp_path, monkeypatch):
    """An empty place for this machine's own rules."""
    path = tmp_path / "rules.csv"
    monkeypatch.setattr(rules, "own_path", lambda: path)
    forget()
    yield path
    forget()


def forget(in_use=rules.in_use):
    in_use.cache_clear()
    rules._look_up.cache_clear()


def test_rules_are_measured_for_all_groups_and_written_beside_those_of_other_devices(own_rules, monkeypatch):
    monkeypatch.setattr(choice, "FIELDS", [(1, 1), (2, 3)])
    monkeypatch.setattr(choice, "SIDES", (1, 4))
    rows = choice.measure(CPU, rounds=1)
    assert tuple(rows.columns) == rules.COLUMNS
    assert len(rows) == 5 * 2 * 2 * 2
    assert (rows[["forward", "training"]] > 0).all(axis=None)
    other = "cuda,triton,bfloat16,p4m,GroupConv2d,7,7,123,0.5,0.5"
    outdated = f"{rows.device[0]},{rows.backend[0]},float32,p4m,GroupConv2d,9,9,9,9,9"
    own_rules.write_text(f"{','.join(rules.COLUMNS)}\n{other}\n{outdated}\n")
    choice.write(own_rules, rows)
    lines = own_rules.read_text().splitlines()
    assert other in lines
    assert outdated not in lines
    assert len(lines) == 2 + len(rows)


def test_own_rules_take_the_place_of_the_shipped_ones_where_they_say_something(own_rules):
    shipped = rules.in_use()
    forget()
    rows = [ROW.format(4, 4, 100, 0.9, 1.1), ROW.format(64, 64, 100, 1.1, 0.9)]
    own_rules.write_text("\n".join([",".join(rules.COLUMNS), *rows]))
    used = rules.in_use()
    key = ("cpu", "cpp", "float32", "p4m", "GroupConv2d")
    assert [row.inputs for row in used[key]] == [4, 64]
    assert {k: v for k, v in used.items() if k != key} == {k: v for k, v in shipped.items() if k != key}


@pytest.mark.parametrize("damage", ["", "device,backend", "\0\0", f"{','.join(rules.COLUMNS)}\ncpu,cpp"])
def test_damaged_rules_of_this_machine_are_passed_over(own_rules, damage):
    shipped = rules.in_use()
    forget()
    own_rules.write_text(damage)
    assert rules.in_use().keys() >= shipped.keys()


def test_the_nearest_size_decides(own_rules, monkeypatch):
    measured = [rules.Measured(4, 4, 100, 0.9, 1.1), rules.Measured(64, 4, 100, 1.1, 0.9)]
    table = {("cpu", body, "float32", "p4m", "GroupConv2d"): measured for body in ("cpp", "torch")}
    monkeypatch.setattr(rules, "in_use", lambda: table)

    def takes(inputs, outputs, positions, training):
        layer = GroupConv2d(inputs, outputs, 3, group=P4M)
        return rules.fourier_is_faster(layer, "cpu", torch.float32, positions, training)

    assert takes(4, 4, 100, False)
    assert not takes(4, 4, 100, True)
    assert takes(15, 1, 10_000, False)
    assert takes(17, 1, 10_000, True)
    assert takes(64, 64, 0, True)


def test_the_shipped_rules_are_of_all_groups_and_of_both_bodies():
    shipped = pd.read_csv(rules.PATH)
    assert tuple(shipped.columns) == rules.COLUMNS
    keys = set(shipped[["backend", "group", "layer"]].itertuples(index=False, name=None))
    groups = [name for name in GROUPS if name != "z2"]
    assert keys == set(product(("cpp", "torch"), groups, ("GroupConv2d", "GroupConvTranspose2d")))


@pytest.mark.slow
def test_steps_of_two_networks_at_two_widths(tmp_path, monkeypatch):
    monkeypatch.setattr(
        steps,
        "candidates",
        lambda width, _: [steps.Candidate("z2", width), steps.Candidate("p4m", width, "dense", True)],
    )
    rows = steps.measure(TINY_STEPS, CPU)
    assert rows.width.tolist() == [4, 4, 6, 6]
    for kind in ("training", "inference", "deployed"):
        assert (rows[f"{kind}_ratio"][[0, 2]] == 1).all()
    assert (rows[["training_ms", "inference_ms", "deployed_ms", "peak_mb", "parameters"]] > 0).all(axis=None)
    path = write_benchmark(tmp_path, "training-step", rows)
    read = pd.read_csv(path)
    table = (tmp_path / "figures" / "speed" / f"{path.stem}.md").read_text()
    assert table == steps_table(read)
    assert "P4M U-Net, dense, channels last" in table
    assert "nan" not in table


def test_a_dense_candidate_has_dense_layers_only():
    for form in ("dense", "native"):
        network = steps.Candidate("p4m", 4, form).build(TINY_STEPS)
        found = {layer.algorithm for layer in network.modules() if isinstance(layer, GroupConv2d)}
        assert found == {"dense" if form == "dense" else "auto"}


def test_updates_of_a_study_are_timed_once_for_each_network(tmp_path, preset):
    mine = replace(preset, models=("p4m", "unet", "unet-aug"))
    rows = updates.measure("mine", mine, rounds=2, device=CPU).set_index("model")
    assert (rows.update_ratio["unet"], rows.prediction_ratio["unet"]) == (1, 1)
    assert rows.index.tolist() == ["p4m", "unet", "unet-aug"]
    assert rows.update_ms["unet"] == rows.update_ms["unet-aug"] != rows.update_ms["p4m"]
    assert rows.prediction_ms["unet"] == rows.prediction_ms["unet-aug"] > 0
    assert write_benchmark(tmp_path, "updates", rows.reset_index()) == tmp_path / "results" / "mine" / "updates.csv"


@pytest.mark.parametrize("settings", [TINY, TINY_STEPS])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(StudyError, match="not a multiple of 16"):
        replace(settings, size=100)
    with pytest.raises(StudyError, match="unknown precision 'int8'; choose from float32, bfloat16, float16"):
        replace(settings, precision="int8")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells")
def test_the_memory_of_a_job_is_what_it_holds_at_its_peak():
    code = """
import torch
from study.bench import memory

def job():
    torch.ones(8, 2**20)  # 32 MB, and then again
    torch.ones(8, 2**20)

print(memory.extra_mb(job, torch.device("cpu")))
"""
    # a process of its own: other tests have memory kept, in theirs or by the environment
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert float(run.stdout) == pytest.approx(32, abs=8)


# What is committed


@pytest.mark.parametrize(("kind", "table"), [("layers", layers_table), ("training-step", steps_table)])
def test_committed_tables_are_of_committed_code_and_the_figures_theirs(kind, table):
    for name, rows in read_benchmark(ROOT, kind).items():
        assert not rows.version.str.endswith("-dirty").any()
        assert {"escnn", "native" if kind == "training-step" else "fourier"} <= set(rows.form)
        assert (ROOT / "figures" / "speed" / f"{name}.md").read_text() == table(rows)
        assert (ROOT / "figures" / "speed" / f"{name}.svg").is_file()


def test_missing_tables_are_named(tmp_path):
    with pytest.raises(StudyError, match=r"no tables of layers in .*speed; make one with .* bench layers`"):
        read_benchmark(tmp_path, "layers")
