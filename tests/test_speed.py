"""The benchmarks of speed: what they compare and write down, and the rules that follow. No timing is judged here."""

from itertools import product
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import HAS_ESCNN

from study.bench import layers, memory, speed, steps
from study.errors import StudyError
from study.gconv import GroupConv2d, rules

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
FORMS = [form for form in layers.FORMS if "last" not in form and (form != "escnn" or HAS_ESCNN)]  # on a CPU


@pytest.fixture(scope="module")
def measured() -> pd.DataFrame:
    settings = layers.Settings(widths=(4,), size=16, batches=(1,), rounds=2)
    chosen = [case for case in layers.cases(settings) if case.grid == 8]
    return layers.measure(chosen, settings, CPU)


def test_every_level_and_both_kinds_of_layer_are_there_once():
    chosen = layers.cases(layers.Settings(widths=(16, 32), size=96, batches=(1, 4)))
    assert len(set(chosen)) == len(chosen)
    for group, batch in product(("p4", "p4m"), (1, 4)):
        part = [case for case in chosen if (case.group, case.batch) == (group, batch)]
        assert {case.grid for case in part} == {96, 48, 24, 12, 6}
        assert len([case for case in part if not case.transposed]) == 10
        assert len([case for case in part if case.transposed]) == 8


@pytest.mark.parametrize("case", layers.cases(layers.Settings(widths=(8,), size=16, batches=(1,)))[:4], ids=str)
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


def test_the_rules_take_no_case_that_was_slower():
    same = {"device": "cpu", "backend": "torch", "precision": "float32", "group": "p4", "layer": "GroupConv2d"}
    points = [(4, 100, 0.5, 0.5), (4, 900, 1.5, 0.5), (8, 100, 0.5, 1.5), (8, 900, 0.9, 1.0), (16, 900, 0.5, 0.5)]
    columns = ["pairs", "work", "forward_ratio", "both_ratio"]
    lines = []
    for number, point in enumerate(points):
        case = same | {"inputs": number, "outputs": 1, "grid": 8, "batch": 1}
        lines.append(case | {"form": "fourier"} | dict(zip(columns, point, strict=True)))
        lines.append(case | {"form": "dense"} | dict(zip(columns, (*point[:2], 1.0, 1.0), strict=True)))
    table = pd.DataFrame(lines)
    (rule,) = layers.rules(table).itertuples(index=False)
    assert rule == ("cpu", "torch", "float32", "p4", "GroupConv2d", 8, 900)
    assert layers.choices(table)[::2].tolist() == ["dense", "dense", "dense", "fourier", "fourier"]
    channels_last = table[table.form == "dense"].assign(form="dense, channels last", both_ratio=0.7)
    (rule,) = layers.rules(pd.concat([table, channels_last])).itertuples(index=False)
    assert rule[5] == 16  # the case of 8 pairs is slower than the better dense form
    assert layers.rules(table.assign(both_ratio=table.both_ratio + (table.form == "fourier"))).empty


@pytest.mark.parametrize("faster", [True, False])
def test_writing_layers_adopts_their_rules_and_keeps_the_others(measured, faster, tmp_path, monkeypatch):
    other = "cuda,triton,bfloat16,p4m,GroupConv2d,7,123"
    (tmp_path / "rules.csv").write_text(
        f"device,backend,dtype,group,layer,pairs,work\ncpu,cpp,float32,p4m,GroupConv2d,5,6\n{other}\n"
    )
    monkeypatch.setattr(speed, "RULES", tmp_path / "rules.csv")
    rows = measured.assign(backend="cpp")
    rows.loc[rows.form == "fourier", ["forward_ratio", "both_ratio"]] = 0.5 if faster else 2.0
    path = speed.write_layers(tmp_path, rows)
    assert path.parent == tmp_path / "results" / "speed"
    read = pd.read_csv(path)
    figures = tmp_path / "figures" / "speed"
    assert (figures / f"{path.stem}.md").read_text() == speed.layers_table(read)
    assert (figures / f"{path.stem}.png").is_file()
    adopted = tmp_path / "study" / "gconv" / "rules.csv"
    assert other in adopted.read_text().splitlines()
    ours = pd.read_csv(adopted).query("device == 'cpu'").reset_index(drop=True)
    pd.testing.assert_frame_equal(ours, layers.rules(read), check_dtype=False)
    assert ours.empty != faster


@pytest.mark.slow
def test_steps_of_two_networks(tmp_path):
    settings = steps.Settings(width=4, size=16, batch=2, rounds=2)
    chosen = [steps.Candidate("z2"), steps.Candidate("p4m", "dense", channels_last=True)]
    rows = steps.measure(chosen, settings, CPU)
    assert rows.training_ratio[0] == rows.inference_ratio[0] == rows.deployed_ratio[0] == 1
    assert (rows[["training_ms", "inference_ms", "deployed_ms", "peak_mb", "parameters"]] > 0).all(axis=None)
    path = speed.write_steps(tmp_path, rows)
    read = pd.read_csv(path)
    table = (tmp_path / "figures" / "speed" / f"{path.stem}.md").read_text()
    assert table == speed.steps_table(read)
    assert "P4M U-Net, dense, channels last" in table
    assert "nan" not in table


def test_a_dense_candidate_has_dense_layers_only():
    for form in ("dense", "native"):
        network = steps.Candidate("p4m", form).build(steps.Settings(width=4, size=16))
        found = {layer.algorithm for layer in network.modules() if isinstance(layer, GroupConv2d)}
        assert found == {"dense" if form == "dense" else "auto"}


@pytest.mark.parametrize("settings", [layers.Settings, steps.Settings])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(StudyError, match="not a multiple of 16"):
        settings(size=100)
    with pytest.raises(StudyError, match="unknown precision 'int8'; choose from float32, bfloat16, float16"):
        settings(precision="int8")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells")
def test_the_memory_of_a_job_is_what_it_holds_at_its_peak():
    def job() -> None:
        torch.ones(8, 2**20)  # 32 MB, and then again
        torch.ones(8, 2**20)

    assert memory.extra_mb(job, CPU) == pytest.approx(32, abs=8)


# What is committed


@pytest.mark.parametrize(("kind", "table"), [("layers", speed.layers_table), ("training-step", speed.steps_table)])
def test_committed_tables_are_of_committed_code_and_the_figures_theirs(kind, table):
    for name, rows in speed.read_tables(ROOT, kind).items():
        assert not rows.version.str.endswith("-dirty").any()
        assert {"escnn", "native" if kind == "training-step" else "fourier"} <= set(rows.form)
        assert (ROOT / "figures" / "speed" / f"{name}.md").read_text() == table(rows)
        assert (ROOT / "figures" / "speed" / f"{name}.svg").is_file()


def test_the_rules_are_those_of_the_committed_measurements():
    found = pd.concat([layers.rules(rows) for rows in speed.read_tables(ROOT, "layers").values()])
    keys = ["device", "backend", "dtype", "group", "layer"]
    expected = found.sort_values(keys).reset_index(drop=True)
    pd.testing.assert_frame_equal(pd.read_csv(rules.PATH), expected, check_dtype=False)


def test_missing_tables_are_named(tmp_path):
    with pytest.raises(StudyError, match=r"no tables of layers in .*speed; make one with .* bench layers`"):
        speed.read_tables(tmp_path, "layers")
