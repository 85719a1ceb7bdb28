"""Networks to compare: what they offer, and the quantities that need a fresh process to be measured."""

import io
import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Protocol

import torch
from torch import nn

from study.bench.memory import peak_mb
from study.errors import MissingPackageError, StudyError
from study.groups import P4M
from study.memory import keep_freed_memory
from study.networks.cost import multiplications
from study.networks.grid import GRIDS
from study.networks.layer_sets import make_layers
from study.networks.steps import training_step


class Input(Protocol):
    """Side of the images in pixels, their number in a batch, and the precision: "float32", or another by autocast."""

    size: int
    batch: int
    precision: str


DEPTH = 4
"""Number of poolings of the U-Nets that are measured, whole or layer by layer."""

PRECISIONS = ("float32", "bfloat16", "float16")


def check_input(size: int, precision: str) -> None:
    """Raise a :class:`~study.errors.StudyError` for a size that such a U-Net refuses, or an unknown precision."""
    GRIDS["even"].sizes(DEPTH).check(size, size)
    if precision not in PRECISIONS:
        raise StudyError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")


class Candidate(Protocol):
    """A network that is compared, of "native" layers or on escnn."""

    implementation: str

    def build(self, settings: Input) -> nn.Module: ...

    def prepare(self, x: torch.Tensor) -> torch.Tensor:
        """The images in the memory format that suits the network best."""
        ...


def has_escnn() -> bool:
    """Whether escnn is installed."""
    try:
        make_layers(P4M, "escnn")
    except MissingPackageError:
        return False
    return True


def noise(settings: Input, device: torch.device) -> torch.Tensor:
    """Images ``(batch, 3, size, size)``."""
    return torch.randn(settings.batch, 3, settings.size, settings.size, device=device)


def measure_alone(candidate: Candidate, settings: Input, device: torch.device) -> dict:
    """Measure in a fresh process what depends on what a process did before.

    Returns:
        ``parameters``, ``multiplications`` (of a forward pass of one image, in millions), ``build_seconds``,
        ``escnn_init_seconds`` (the time that escnn's own initialisation would add), ``peak_mb`` (of training, above the
        bare process; on a GPU what torch allocated) and ``checkpoint_mb``.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_alone, candidate, settings, device, torch.get_num_threads()).result()


def _alone(candidate: Candidate, settings: Input, device: torch.device, threads: int) -> dict:
    keep_freed_memory()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if candidate.implementation != "native":
        has_escnn()  # importing escnn takes seconds that are not part of building a network
    before = peak_mb(device)
    start = time.perf_counter()
    network = candidate.build(settings)
    build_seconds = time.perf_counter() - start
    network.to(device)
    step = training_step(network, candidate.prepare(noise(settings, device)), settings.precision)
    step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)  # exclude the memory in which kernels were tuned
    step()  # this step includes the optimiser's moments
    peak = peak_mb(device) - before
    weights = {name: value.cpu() for name, value in network.state_dict().items()}
    torch.save(weights, buffer := io.BytesIO())
    network.eval()
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "multiplications": multiplications(network, noise(settings, device)) / 1e6,
        "build_seconds": build_seconds,
        "escnn_init_seconds": _escnn_init_seconds(network),
        "peak_mb": peak,
        "checkpoint_mb": len(buffer.getbuffer()) / 2**20,
    }


def _escnn_init_seconds(network: nn.Module) -> float:
    """The time of escnn's own initialisation; our layers on escnn make the same draws without it."""
    layers = [layer for layer in network.cpu().modules() if hasattr(layer, "reset_parameters_as_escnn")]
    start = time.perf_counter()
    for layer in layers:
        layer.reset_parameters_as_escnn()
    return time.perf_counter() - start if layers else math.nan
