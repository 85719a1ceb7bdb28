"""What several tests share: a study so small that all of it runs in seconds."""

import os
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from data_helpers import make_blobs
from hypothesis import HealthCheck, settings
from lightning_fabric import Fabric

from study.data.patches.store import PatchStore
from study.experiments.presets import Preset
from study.experiments.recipe import Recipe
from study.experiments.trials import Study

HAS_ESCNN = all(find_spec(package) for package in ("escnn", "lie_learn"))
"""Not on Python 3.13 and newer, for which lie_learn has no release (test_environment.py insists on older ones)."""

collect_ignore = [] if HAS_ESCNN else ["test_escnn_layers.py", "test_conversion.py", "test_bench.py"]

settings.register_profile(
    "study",
    derandomize="EXAMPLES" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("study")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> PatchStore:
    return make_blobs(tmp_path_factory.mktemp("data") / "blobs.h5")


@pytest.fixture
def recipe() -> Recipe:
    return Recipe.of(width=4, depth=1, grid="even", batch_size=4, epochs=2, batches_per_epoch=2)


@pytest.fixture
def preset(recipe) -> Preset:
    return Preset("tiny", source="store", size=16, recipe=recipe, fractions=(0.5, 1.0), seeds=(0, 1))


@pytest.fixture
def study(preset, store, tmp_path: Path) -> Study:
    return Study("tiny", replace(preset, models=("unet", "p4m"), seeds=(0,)), store, tmp_path)


@pytest.fixture
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


@pytest.fixture
def run_command(monkeypatch, capsys):
    """Run one command line in this process; returns the exit code, standard output and standard error."""
    from study import cli

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["study", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    return run
