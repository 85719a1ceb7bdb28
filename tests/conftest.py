"""What several tests share: a study so small that all of it runs in seconds."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from study.data.patches import PatchStore
from study.data.sources import synthetic_store
from study.presets import Preset
from study.training import Recipe
from study.trials import Study

HAS_ESCNN = all(find_spec(package) for package in ("escnn", "lie_learn"))
"""Not on Python 3.13 and newer, for which lie_learn has no release (test_environment.py insists on older ones)."""

collect_ignore = [] if HAS_ESCNN else ["test_escnn_layers.py", "test_conversion.py", "test_bench.py"]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> PatchStore:
    return synthetic_store(tmp_path_factory.mktemp("data") / "synthetic-16.h5", count=48, size=16)


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(width=4, depth=1, grid="even", batch_size=4, epochs=2, batches_per_epoch=2)


@pytest.fixture
def preset(recipe) -> Preset:
    return Preset("tiny", source="synthetic", size=16, patches=48, recipe=recipe, fractions=(0.5, 1.0), seeds=(0, 1))


@pytest.fixture
def study(preset, store, tmp_path: Path) -> Study:
    return Study("tiny", replace(preset, models=("unet", "p4m"), seeds=(0,)), store, tmp_path)


@pytest.fixture
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)
