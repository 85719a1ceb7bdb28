"""Exported networks give the network's probabilities, without this package, and say what they are."""

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from study.bench import export as bench
from study.equivariance import train_briefly
from study.errors import MissingPackageError, StudyError
from study.experiments import export as exporting
from study.experiments.export import LIMIT, export
from study.experiments.export_formats import FORMATS
from study.files import sha256_of
from study.groups import P4M
from study.networks.checkpoint import load_checkpoint, load_model, save_checkpoint
from study.networks.registry import from_values
from study.report.benchmarks import write_benchmark
from study.tasks.task import Task

DOCS = Path(__file__).parents[1] / "docs/export.md"

NETWORKS = {
    "P4M": {"group": "p4m", "depth": 2},
    "P4, odd grid, three classes": {"group": "p4", "grid": "odd", "num_classes": 3, "depth": 1},
    "U-Net": {"group": "z2", "depth": 1},
    "residual P4M": {"network": "residual-unet", "group": "p4m", "depth": 1, "blocks": 2},
    "P4M, mean over orientations": {"group": "p4m", "depth": 1, "readout": "mean"},
    "symmetric kernels": {"group": "p4m", "depth": 1, "symmetric_kernels": True},
}
IN_ONNX = list(NETWORKS)[:4]
"""The others are made of the same operations, and ONNX takes seconds."""

ROUNDING = 2e-6
"""Of probabilities in float32; measured are 1e-7 to 3e-7."""


def trained(path: Path, **settings) -> Path:
    """A checkpoint of a tiny network, with statistics of batch norm that are not those of a new one."""
    torch.manual_seed(0)
    architecture = from_values({"width": 6} | settings)
    network = architecture.build()
    side = network.sizes.at_least(16)
    train_briefly(network, torch.randn(2, 3, side, side))
    for name, value in network.named_parameters():
        if name.startswith("project"):
            value.data *= 10  # probabilities far from 0.5
    task = Task("own", ("background", "tumour", 'a "class"')[: max(2, architecture.num_classes)])
    save_checkpoint(path, architecture, network.state_dict(), task=task.about(), mpp=0.5)
    return path


@pytest.fixture(scope="module", params=NETWORKS)
def made(request, tmp_path_factory) -> tuple[Path, Path, list]:
    """A checkpoint, the folder of its exports, and what was measured."""
    path = trained(tmp_path_factory.mktemp("trained") / "best.pt", **NETWORKS[request.param])
    formats = tuple(name for name in FORMATS if name != "onnx" or request.param in IN_ONNX)
    exported = export(load_checkpoint(path), path, path.parent / "export", formats, rounds=1)
    return path, path.parent / "export", exported


def paths(folder: Path, name: str) -> list[Path]:
    return [folder / file for file in FORMATS[name].files]


def expected(path: Path, images: torch.Tensor) -> torch.Tensor:
    """The probabilities, from the logits and in float64, by their definitions."""
    logits = load_model(path).double()(images.double() / 127.5 - 1).detach()
    return 1 / (1 + (-logits).exp()) if logits.shape[1] == 1 else logits.exp() / logits.exp().sum(1, keepdim=True)


def noise(count: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)


def test_each_format_gives_the_probabilities_of_the_network_in_all_eight_orientations(made):
    path, folder, exported = made
    sizes = load_model(path).sizes
    side = sizes.at_least(16)
    for one in exported[1:]:
        run = FORMATS[one.format].load(*paths(folder, one.format))
        for images in (noise(1, side, side), noise(3, side + sizes.period, sizes.at_least(2 * sizes.period))):
            for g in range(P4M.order):
                turned = P4M.transform_image(images, g).contiguous()
                found, right = run(turned), expected(path, turned)
                assert found.dtype == torch.float32
                assert found.shape == right.shape
                assert (found - right).abs().max() <= ROUNDING, (one.format, g)
            assert right.amax() - right.amin() > 0.02


def test_it_is_measured_and_files_are_where_it_says(made):
    path, folder, exported = made
    first, *others = exported
    assert (first.format, first.paths, first.size) == ("checkpoint", (path,), path.stat().st_size)
    for one in others:
        assert list(one.paths) == paths(folder, one.format)
        assert one.size == sum(file.stat().st_size for file in one.paths)
    assert all(one.milliseconds > 0 and one.difference <= ROUNDING for one in exported)
    assert set(folder.iterdir()) == {file for one in others for file in one.paths}


def test_wrong_sizes_are_errors(made):
    path, folder, exported = made
    period, side = load_model(path).sizes.period, load_model(path).sizes.at_least(16)
    for one in exported[1:]:
        run = FORMATS[one.format].load(*paths(folder, one.format))
        for wrong in (noise(1, side + 1, side), noise(1, side, side + period + 1)):
            with pytest.raises(Exception, match=r"(?i)guard|size|dimension"):
                run(wrong)


def test_what_must_be_known_goes_along_in_every_format(made):
    path, folder, exported = made
    checkpoint, network = load_checkpoint(path), load_model(path)
    for one in exported[1:]:
        about = json.loads(FORMATS[one.format].read(*paths(folder, one.format)))
        assert about["architecture"] == checkpoint["architecture"]
        assert about["classes"] == checkpoint["task"]["classes"]
        assert len(about["channels"]) == checkpoint["architecture"]["num_classes"]
        assert (about["mpp"], about["threshold"]) == (0.5, 0.5 if len(about["channels"]) == 1 else None)
        assert (about["period"], about["remainder"]) == (network.sizes.period, network.sizes.remainder)
        assert about["receptive_radius"] == network.receptive_radius
        assert about["sha256"] == sha256_of(path)


def test_plain_is_made_of_layers_of_torch_and_of_nothing_from_a_checkpoint(made):
    _, folder, _ = made
    source, weights = paths(folder, "plain")
    code = source.read_text()
    assert set(re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE)) == {"torch"}
    assert "class" not in code.replace("class Network", "")  # a name of one of the classes
    assert len(re.findall(r"= nn\.Conv(?:Transpose)?2d\(", code)) == len(load_file(weights)) / 2  # each with a bias
    assert "study" not in code.replace("`python -m study export`", "")


@pytest.mark.parametrize("made", list(NETWORKS)[:2], indirect=True)
def test_the_example_of_the_docs_runs_without_this_package_and_without_torch(made):
    path, folder, _ = made
    example, *others = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    assert len([line for line in example.splitlines() if line]) <= 20
    image = np.asarray(noise(1, 30, 45)[0].permute(1, 2, 0))
    Image.fromarray(image).save(folder / "tissue.png")
    printed = run_alone(example, folder, without=("study", "torch"))
    assert "tumour" in printed

    sizes = load_model(path).sizes
    pad = [(n // 2, n - n // 2) for n in (sizes.at_least(side) - side for side in (30, 45))]
    padded = torch.from_numpy(np.pad(image, [*pad, (0, 0)], mode="reflect")).permute(2, 0, 1)[None]
    right = expected(path, padded)[0, -1, pad[0][0] :, pad[1][0] :][:30, :45]
    found = np.asarray(Image.open(folder / "probability.png"))
    assert found.shape == (30, 45)
    assert np.abs(found - 255 * right.numpy()).max() <= 0.5 + 255 * ROUNDING
    if sizes.remainder == 0:
        run_alone("\n".join(others), folder, without=("study",))
    for file in ("tissue.png", "probability.png"):
        (folder / file).unlink()


def run_alone(code: str, folder: Path, *, without: tuple[str, ...]) -> str:
    """Run code in a process of its own where some packages cannot be imported; returns what it prints."""
    blocked = "".join(f"sys.modules[{package!r}] = None\n" for package in without)
    command = [sys.executable, "-c", f"import sys\n{blocked}{code}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- what is refused ---


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return trained(tmp_path / "best.pt", group="z2", depth=1)


def test_the_command_writes_what_it_is_asked_for_and_no_file_twice(checkpoint, tmp_path, run_command):
    code, out, _ = run_command("export", checkpoint, "--output", tmp_path / "out", "--formats", "plain")
    assert code == 0
    assert [file.name for file in sorted((tmp_path / "out").iterdir())] == ["network.py", "network.safetensors"]
    assert "plain" in out
    code, _, _ = run_command("export", checkpoint, "--output", tmp_path / "twice", "--formats", "plain,plain")
    assert code == 0
    before = (tmp_path / "out/network.py").read_bytes()
    code, _, error = run_command("export", checkpoint, "--output", tmp_path / "out", "--formats", "torch,plain")
    assert code == 2
    assert "network.py exists" in error
    assert (tmp_path / "out/network.py").read_bytes() == before
    assert not (tmp_path / "out/network.pt2").exists()


def test_unknown_formats_and_missing_packages_are_named(checkpoint, tmp_path, monkeypatch):
    with pytest.raises(StudyError, match="unknown format 'tensorrt'; choose from plain, torch, onnx"):
        export(load_checkpoint(checkpoint), checkpoint, tmp_path / "out", ("tensorrt",))
    monkeypatch.setattr(exporting, "find_spec", lambda package: None if package == "onnxscript" else package)
    with pytest.raises(MissingPackageError, match=r"needs onnxscript; install .*or give --formats plain,torch"):
        export(load_checkpoint(checkpoint), checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("offset", [10 * LIMIT, float("nan")])
def test_nothing_is_kept_that_differs(checkpoint, tmp_path, monkeypatch, offset):
    plain = FORMATS["plain"]

    def load(*files):
        run = plain.load(*files)
        return lambda images: (
            run(images) + offset * (images.shape[2] > images.shape[3])
        )  # in four of eight orientations

    wrong = type(plain)(plain.files, plain.write, load, plain.read)
    monkeypatch.setitem(FORMATS, "plain", wrong)
    with pytest.raises(StudyError, match=r"as plain differs from the network by .*; nothing was written"):
        export(load_checkpoint(checkpoint), checkpoint, tmp_path / "out", ("plain", "torch"))
    assert not list((tmp_path / "out").iterdir())


def test_networks_that_are_not_for_rgb_images_are_refused(tmp_path):
    architecture = from_values({"group": "z2", "width": 4, "depth": 1, "in_channels": 1})
    save_checkpoint(tmp_path / "grey.pt", architecture, architecture.build().state_dict())
    with pytest.raises(StudyError, match="images of 1 channels"):
        export(load_checkpoint(tmp_path / "grey.pt"), tmp_path / "grey.pt", tmp_path / "out", ("plain",))


def test_an_older_checkpoint_that_does_not_tell_its_task_is_exported(tmp_path):
    architecture = from_values({"group": "z2", "width": 4, "depth": 1})
    save_checkpoint(tmp_path / "old.pt", architecture, architecture.build().state_dict())
    export(load_checkpoint(tmp_path / "old.pt"), tmp_path / "old.pt", tmp_path / "out", ("plain",), rounds=1)
    about = json.loads(FORMATS["plain"].read(*paths(tmp_path / "out", "plain")))
    assert about["channels"] is about["classes"] is about["mpp"] is None


def test_a_benchmark_measures_the_unet_and_the_p4m_unet(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "export", partial(export, formats=("plain",)))
    rows = bench.measure(bench.Settings(width=8, depth=1, rounds=1))
    assert list(zip(rows.network, rows.format, strict=True)) == [
        (network, format_) for network in ("U-Net", "P4M U-Net") for format_ in ("checkpoint", "plain")
    ]
    assert (rows.ms > 0).all()
    assert (rows.mb > 0).all()
    assert (rows.difference <= ROUNDING).all()
    path = write_benchmark(tmp_path, "export", rows)
    table = (tmp_path / "figures/export" / f"{path.stem}.md").read_text()
    assert table.count("| P4M U-Net |") == 2
