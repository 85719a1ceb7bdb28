"""The measurements themselves: what is measured, and that it is written down. No timing is judged here."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from study import timing
from study.bench import angles, models, pitfalls
from study.equivariance import rotate
from study.errors import StudyError
from study.gconv import GroupConv2d
from study.networks.unet import build_unet
from study.report.benchmarks import draw_benchmark, draw_benchmarks, read_benchmark, write_benchmark
from study.report.tables.costs import costs_table

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
TINY = models.Settings(width=8, depth=1, size=16, batch=2, rounds=2)


def multiplications(network):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.randn(1, 3, 16, 16))
    return counter.get_total_flops() / 2


def test_jobs_take_turns_and_the_first_round_does_not_count():
    calls = []
    jobs = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    seconds = timing.time_in_turn(jobs, rounds=4, device=CPU)
    assert seconds.shape == (4, 3)
    assert list(seconds.columns) == ["a", "b", "c"]
    rounds = [calls[i : i + 3] for i in range(0, len(calls), 3)]
    assert len(rounds) == 5
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert len({tuple(turn) for turn in rounds}) > 1


def test_ratios_are_paired_round_by_round():
    seconds = pd.DataFrame({"a": [1.0, 2.0, 4.0], "b": [3.0, 6.0, 12.0]})  # the machine slowed down
    summary = timing.summarise(seconds, baseline="a")
    assert summary.loc["b", ["ratio", "ratio_low", "ratio_high"]].tolist() == [3, 3, 3]
    assert summary.loc["a", ["ms", "ms_low", "ms_high"]].tolist() == [2000, 1500, 3000]


def test_every_implementation_and_budget_is_there_and_the_plain_unet_is_first():
    chosen = models.candidates()
    assert (chosen[0].network, chosen[0].implementation) == ("U-Net", "native")
    networks = {c.network for c in chosen}
    assert networks == {
        "U-Net",
        *(f"{name} U-Net, {budget}" for name in ("P4", "P4M") for budget in ("equal parameters", "equal width")),
        "U-Net, compute of P4M",
    }
    for network in networks - {"U-Net, compute of P4M"}:
        assert [c.implementation for c in chosen if c.network == network] == ["native", "escnn", "escnn, full basis"]


def test_budgets_are_what_they_say():
    settings = replace(TINY, width=32, depth=2)
    native = {c.network: c.build(settings) for c in models.candidates() if c.implementation == "native"}
    parameters = {name: sum(p.numel() for p in network.parameters()) for name, network in native.items()}
    for layer in (layer for network in native.values() for layer in network.modules()):
        if isinstance(layer, GroupConv2d):
            layer.algorithm = "dense"  # the Fourier form has fewer
    products = {name: multiplications(network) for name, network in native.items()}
    for name, order in [("P4", 4), ("P4M", 8)]:
        assert parameters[f"{name} U-Net, equal parameters"] == pytest.approx(parameters["U-Net"], rel=0.02)
        assert parameters[f"{name} U-Net, equal width"] == pytest.approx(parameters["U-Net"] / order, rel=0.1)
        assert products[f"{name} U-Net, equal width"] == pytest.approx(products["U-Net"], rel=0.02)
    assert products["U-Net, compute of P4M"] == pytest.approx(products["P4M U-Net, equal parameters"], rel=0.05)


def test_settings_that_cannot_be_compared_are_refused():
    with pytest.raises(StudyError, match="width is 12; give a multiple of 8"):
        replace(TINY, width=12)
    with pytest.raises(StudyError, match="width is 0; give a multiple of 8"):
        replace(TINY, width=0)
    with pytest.raises(StudyError, match="depth is 6; give 1 to 5"):
        replace(TINY, depth=6)
    with pytest.raises(StudyError, match="not a multiple of 16"):
        replace(TINY, depth=4, size=100)


@pytest.fixture(scope="module")
def costs():
    chosen = [models.Candidate("z2", "equal parameters", "native"), models.Candidate("p4", "equal width", "escnn")]
    return models.measure(chosen, TINY, CPU)


@pytest.mark.slow
def test_the_costs_of_two_networks(costs, tmp_path):
    plain, escnn = (row for _, row in costs.iterrows())
    assert plain.parameters == sum(p.numel() for p in build_unet("z2", width=8, depth=1).parameters())
    assert plain.multiplications == multiplications(build_unet("z2", width=8, depth=1)) / 1e6
    assert (plain.training_ratio, plain.inference_ratio) == (1, 1)
    assert pd.isna(plain.escnn_init_seconds)
    assert escnn.escnn_init_seconds > 0
    assert (costs[["training_ms", "inference_ms", "build_seconds", "checkpoint_mb", "peak_mb"]] > 0).all(axis=None)
    assert {"command", "version", "hardware", "torch", "threads", "rounds"} <= set(costs.columns)

    path = write_benchmark(tmp_path, "models", costs)
    assert path.parent == tmp_path / "results" / "costs"
    (read,) = read_benchmark(tmp_path, "models").values()
    table = (tmp_path / "figures" / "costs" / f"{path.stem}.md").read_text()
    assert table == costs_table(read)
    assert "batches of 2 images of 16 x 16" in table
    assert (tmp_path / "figures" / "costs" / f"{path.stem}.png").is_file()


def test_a_table_without_escnn(costs, tmp_path):
    write_benchmark(tmp_path, "models", costs[:1])
    (table,) = (tmp_path / "figures" / "costs").glob("*.md")
    assert "nan" not in table.read_text()


def test_missing_costs_are_named(tmp_path):
    with pytest.raises(StudyError, match=r"no tables of models in .*costs; make one with .* bench models`"):
        read_benchmark(tmp_path, "models")


@pytest.fixture(scope="module")
def tried():
    return pitfalls.measure()


def test_nothing_that_users_of_escnn_trip_over_is_here(tried):
    assert tried.native_fine.all(), tried[~tried.native_fine].to_string()


def test_what_the_committed_table_says_of_escnn_is_so(tried):
    (committed,) = read_benchmark(ROOT, "pitfalls").values()
    pd.testing.assert_frame_equal(
        tried[["probe", "native_fine", "escnn_fine"]], committed[["probe", "native_fine", "escnn_fine"]]
    )
    stable = ~tried.probe.str.contains("Equivariance|Checkpoint")  # whose numbers may differ in the last digit
    assert tried[stable].escnn.tolist() == committed[stable].escnn.tolist()


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turn_by_interpolation_is_the_exact_one_at_right_angles(turns):
    image = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(rotate(image, 90.0 * turns), torch.rot90(image, turns, (-2, -1)), atol=1e-12, rtol=0)


def test_a_turn_by_45_degrees_is_counter_clockwise():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 33), torch.linspace(-1, 1, 33), indexing="ij")
    right = torch.exp(-25 * ((x - 0.5) ** 2 + y**2))[None, None]  # a blob to the right of the centre
    up_right = torch.exp(-25 * ((x - 0.5**1.5) ** 2 + (y + 0.5**1.5) ** 2))[None, None]
    assert (rotate(right, 45) - up_right).abs().max() < 0.02


def test_of_several_classes_the_foreground_is_all_but_the_background():
    class Three(torch.nn.Module):
        def forward(self, x):
            return torch.cat([0 * x[:, :1], x[:, :2]], dim=1)

    class Shifted(Three):
        def forward(self, x):
            return super().forward(x) + 3  # softmax does not see it

    images = torch.randn(2, 3, 16, 16)
    for ours, theirs in zip(*(angles.turned_both_ways(net(), images, 45) for net in (Three, Shifted)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_difference_of_a_turn_is_none_at_right_angles_for_p4_and_for_no_turn():
    torch.manual_seed(0)
    networks = {
        "unet": build_unet("z2", width=4, depth=1).eval(),
        "p4": build_unet("p4", width=4, depth=1).eval(),
        "p8-escnn": build_unet("p8", width=4, depth=1, implementation="escnn").eval(),
    }
    rows = angles.measure(networks, torch.randn(2, 3, 16, 16)).set_index(["model", "degrees"])
    for model in networks:
        assert rows.difference[model, 0.0] < 1e-4
        assert rows.difference[model, 45.0] > 1e-4
    assert rows.difference["p4", 90.0] < 1e-4
    assert rows.difference["p8-escnn", 90.0] < 1e-4
    assert rows.difference["unet", 90.0] > 1e-3
    assert rows.changed.between(0, 1).all()


def test_patches_are_taken_from_all_over_the_test_split():
    indices = np.arange(100, 200)
    assert angles.spread_evenly(indices, 4).tolist() == [100, 133, 166, 199]
    assert angles.spread_evenly(indices, 1000).tolist() == indices.tolist()


def test_a_network_that_looks_at_single_pixels_commutes_with_any_turn():
    smooth = rotate(torch.randn(1, 3, 33, 33), 30)
    behind, before = angles.turned_both_ways(torch.nn.Conv2d(3, 1, 1), 0.1 * smooth, 45)
    assert behind.shape == before.shape
    assert (behind - before).abs().max() < 0.01


def test_figures_of_the_measurements_draw(costs, tmp_path):
    about = {"study": "tiny", "patches": 4, "source": "synthetic", "fingerprint": "0123"}
    rows = pd.DataFrame(
        [
            {"model": model, "degrees": degrees, "difference": np.sin(degrees), "changed": 0.1, **about}
            for model in angles.MODELS
            for degrees in angles.ANGLES
        ]
    )
    for name, table in [("angles", rows), ("models", costs)]:
        (path,) = (path for path in draw_benchmark(tmp_path, name, table) if path.suffix == ".png")
        assert np.asarray(Image.open(io.BytesIO(path.read_bytes()))).std() > 0


def test_all_that_was_measured_is_drawn_again_from_the_results(costs, tmp_path):
    path = write_benchmark(tmp_path, "models", costs)
    drawn = sorted((tmp_path / "figures").rglob("*.*"))
    before = {file: file.read_bytes() for file in drawn}
    for file in drawn:
        file.unlink()
    assert sorted(draw_benchmarks(tmp_path)) == drawn
    assert {file: file.read_bytes() for file in drawn} == before
    assert {file.stem for file in drawn} == {path.stem}
