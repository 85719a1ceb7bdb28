"""Two processes that share every batch train the network that one process trains, to rounding.

On CPUs they stand in for two GPUs: Lightning Fabric starts them, or torchrun, or Slurm; gloo connects them.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from data_helpers import assert_refused, make_blobs

import study
from study.devices import check_processes
from study.experiments.records import Trial, read_record
from study.experiments.shared_moments import share_moments
from study.gconv import GroupBatchNorm2d

MODELS = ("unet-aug", "p4m")
SETTINGS = (
    f"size=16 width=8 depth=1 batch_size=8 epochs=3 batches_per_epoch=5 learning_rate=0.003 models={','.join(MODELS)} "
    "fractions=1"
)


FABRIC = [sys.executable, "-m", "study"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "study"]
SRUN = [sys.executable, str(Path(__file__).parent / "srun_stand_in.py")]


def command(root: Path, devices: int, launcher: Sequence[str] = FABRIC) -> list[str]:
    parts = [*launcher, "reproduce", "--preset", "miniature", "--data", str(root / "blobs.h5")]
    parts += [part for setting in SETTINGS.split() for part in ("--set", setting)]
    parts += ["--name", "shared", "--root", str(root), "--devices", str(devices)]
    return parts + (["--workers", "1"] if devices == 1 else [])


def start(*arguments, **options) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(Path(study.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(*arguments, **options), env=environment, start_new_session=True, **pipes)


def records(root: Path) -> list[dict]:
    return [read_record(root / f"results/shared/trials/{Trial(model, 1.0, 0).name}.json") for model in MODELS]


def make_data(root: Path) -> None:
    make_blobs(root / "blobs.h5", count=45, size=16)  # 5 patches for validation and test: they cannot be halved


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> list[dict]:
    """The records of one process."""
    root = tmp_path_factory.mktemp("one")
    make_data(root)
    process = start(root, 1)
    assert process.communicate(timeout=240)
    assert process.returncode == 0
    return records(root)


def assert_equal_to_rounding(found: list[dict], expected: list[dict]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["provenance"]["processes"] == 2
        for before, after in zip(theirs["history"], ours["history"], strict=True):
            for key in ("train_loss", "constant_loss", "validation_loss", "validation_dice"):
                assert after[key] == pytest.approx(before[key], rel=1e-4), key
        for key in ("dice", "iou", "deviation"):
            assert ours["metrics"][key] == pytest.approx(theirs["metrics"][key], rel=1e-3, abs=1e-6), key
        assert ours["cases"].keys() == theirs["cases"].keys()


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU, sums are rounded in another order")
def test_two_processes_train_what_one_trains_also_after_a_kill(alone, tmp_path):
    make_data(tmp_path)
    process, deadline = start(tmp_path, 2), time.monotonic() + 120
    while not list(tmp_path.glob("runs/shared/*/last.pt")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not list(tmp_path.glob("results/shared/trials/*.json"))
    again = start(tmp_path, 2)
    output, _ = again.communicate(timeout=240)
    assert again.returncode == 0
    assert output.count("2 of 2 trials to run") == 1  # one of them speaks
    assert_equal_to_rounding(records(tmp_path), alone)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU, sums are rounded in another order")
@pytest.mark.parametrize("launcher", [TORCHRUN, SRUN], ids=["torchrun", "Slurm"])
def test_torchrun_and_slurm_start_the_processes_as_well(alone, tmp_path, launcher):
    make_data(tmp_path)
    process = start(tmp_path, 2, launcher=launcher)
    output, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    assert output.count("2 of 2 trials to run") == 1
    assert_equal_to_rounding(records(tmp_path), alone)


def test_another_number_of_processes_than_devices_is_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_processes(2)
    with assert_refused("torchrun started 2 processes", "--devices 2"):
        check_processes(1)


def normalise(rank: int, folder: str) -> None:
    """One of two processes: its half of the batch through batch norm, and the gradients, written to a file."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    x, weights = torch.load(f"{folder}/batch.pt")
    norm = share_moments(GroupBatchNorm2d(3).double(), "cpu")
    mine = x[rank::2].clone().requires_grad_()
    output = norm(mine)
    (output * weights[rank::2]).sum().backward()
    found = {"output": output.detach(), "x": mine.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}
    torch.save(found | {"state": norm.state_dict()}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_the_moments_are_those_of_the_whole_batch(tmp_path):
    torch.manual_seed(0)
    x, weights = torch.randn(2, 6, 3, 8, 5, 5, dtype=torch.float64) * 3 + 1
    torch.save((x, weights), tmp_path / "batch.pt")
    torch.multiprocessing.spawn(normalise, (str(tmp_path),), nprocs=2)
    norm = GroupBatchNorm2d(3).double()
    whole = x.clone().requires_grad_()
    output = norm(whole)
    (output * weights).sum().backward()
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    close = {"rtol": 1e-12, "atol": 1e-12}
    for rank, half in enumerate(halves):
        torch.testing.assert_close(half["output"], output.detach()[rank::2], **close)
        torch.testing.assert_close(half["x"], whole.grad[rank::2], **close)
        torch.testing.assert_close(half["state"], norm.state_dict(), **close)
    for name in ("weight", "bias"):  # those of the processes are added up by DDP
        torch.testing.assert_close(halves[0][name] + halves[1][name], getattr(norm, name).grad, **close)
