"""What each U-Net costs, from scratch and on escnn: at equal parameters, at equal width, and at equal compute."""

import io
import math
import multiprocessing
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from study.bench.timing import summarise, time_in_turn
from study.errors import MissingPackageError, StudyError
from study.groups import GROUPS, P4M
from study.models import LAYERS, PAPER_MODELS
from study.provenance import provenance
from study.unet import GRIDS, UNet, field_counts, make_layers

LABELS = {model.group: model.label for model in PAPER_MODELS.values() if not model.augmented}


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        width: channels of the U-Net at full resolution; a multiple of 8, so that "equal width" is.
        depth: number of poolings.
        size, batch: side of the images in pixels, and how many at a time.
        rounds: how often everything is timed.
    """

    width: int = 32
    depth: int = 4
    size: int = 96
    batch: int = 4
    rounds: int = 7

    def __post_init__(self) -> None:
        if self.width < P4M.order or self.width % P4M.order:
            raise StudyError(f"width is {self.width}; give a multiple of {P4M.order}")
        if not 1 <= self.depth <= 5:
            raise StudyError(f"depth is {self.depth}; give 1 to 5")
        GRIDS["even"].check(self.size, self.size, self.depth)


@dataclass(frozen=True)
class Candidate:
    """A U-Net on the even grid.

    Attributes:
        group: "z2", "p4" or "p4m".
        budget: what it has as much of as the U-Net: "equal parameters" (width / sqrt(|G|) fields), "equal width"
            (width / |G| fields, hence as many planes), or "compute of P4M", a U-Net as costly as the P4M U-Net of equal
            parameters.
        implementation: one of :data:`~study.models.LAYERS`.
    """

    group: str
    budget: str
    implementation: str

    @property
    def network(self) -> str:
        plain = (self.group, self.budget) == ("z2", "equal parameters")
        return LABELS[self.group] if plain else f"{LABELS[self.group]}, {self.budget}"

    def build(self, settings: Settings) -> UNet:
        """A new network: images ``(B, 3, H, W)`` -> logits ``(B, 1, H, W)``; the caller seeds torch."""
        group, width = GROUPS[self.group], settings.width
        channels = {
            "equal parameters": field_counts(group, width, settings.depth),
            "equal width": [width * 2**level // group.order for level in range(settings.depth + 1)],
            "compute of P4M": [round(math.sqrt(P4M.order) * width) * 2**level for level in range(settings.depth + 1)],
        }[self.budget]
        implementation, _, basis = self.implementation.partition(", ")
        layers = make_layers(group, implementation, "full" if basis else None)
        return UNet(layers, channels, in_channels=3, num_classes=1, grid=GRIDS["even"])


def candidates() -> list[Candidate]:
    """All that are compared, the plain U-Net first; without those on escnn if that is not installed."""
    implementations = LAYERS if _has_escnn() else ("native",)
    cells = [("z2", "equal parameters")]
    cells += [(group, budget) for group in ("p4", "p4m") for budget in ("equal parameters", "equal width")]
    rows = [Candidate(group, budget, kind) for group, budget in cells for kind in implementations]
    return [*rows, Candidate("z2", "compute of P4M", "native")]


def measure(chosen: list[Candidate], settings: Settings, device: torch.device) -> pd.DataFrame:
    """One row per candidate; times are multiples of the first one's, the plain U-Net's.

    Columns: ``network``, ``implementation``, ``parameters``, ``multiplications`` (of a forward pass of one
    image, in millions), ``build_seconds`` (in a fresh process), ``escnn_init_seconds`` (what escnn's own
    initialisation adds to it), ``training_*`` and ``inference_*`` (of a batch, as of
    :func:`~study.bench.timing.summarise`), ``peak_mb`` (of training, above the bare process; on a GPU what torch
    allocated), ``checkpoint_mb``, and the settings and the provenance.
    """
    alone = [_in_fresh_process(c, settings, device) for c in tqdm(chosen, desc="alone", disable=None)]
    torch.manual_seed(0)
    networks = {n: c.build(settings).to(device) for n, c in enumerate(chosen)}
    timings = {
        "training": {n: _training(network, settings, device) for n, network in networks.items()},
        "inference": {n: _inference(network, settings, device) for n, network in networks.items()},
    }
    names = [{"network": c.network, "implementation": c.implementation} for c in chosen]
    rows = pd.DataFrame([name | found for name, found in zip(names, alone, strict=True)])
    for kind, jobs in timings.items():
        for network in networks.values():
            network.train(kind == "training")
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # float32 is meant
            seconds = time_in_turn(jobs, rounds=settings.rounds, device=device)
        rows = rows.join(summarise(seconds, baseline=0).add_prefix(f"{kind}_"))
    return rows.assign(**asdict(settings), **provenance(device))


def _has_escnn() -> bool:
    try:
        make_layers(P4M, "escnn")
    except MissingPackageError:
        return False
    return True


def _in_fresh_process(candidate: Candidate, settings: Settings, device: torch.device) -> dict:
    """What depends on what a process did before: the time to build, and the peak of its memory."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_alone, candidate, settings, device, torch.get_num_threads()).result()


def _alone(candidate: Candidate, settings: Settings, device: torch.device, threads: int) -> dict:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if candidate.implementation != "native":
        _has_escnn()  # some seconds of import that are no part of building a network
    before = _peak_mb(device)
    start = time.perf_counter()
    network = candidate.build(settings)
    build_seconds = time.perf_counter() - start
    network.to(device)
    step = _training(network, settings, device)
    for _ in range(2):  # the second has the optimiser's moments too
        step()
    peak = _peak_mb(device) - before
    weights = {name: value.cpu() for name, value in network.state_dict().items()}
    torch.save(weights, buffer := io.BytesIO())
    image = torch.randn(1, 3, settings.size, settings.size, device=device)
    network.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "multiplications": counter.get_total_flops() / 2 / 1e6,  # a flop counter counts additions too
        "build_seconds": build_seconds,
        "escnn_init_seconds": _escnn_init_seconds(network),
        "peak_mb": peak,
        "checkpoint_mb": len(buffer.getbuffer()) / 2**20,
    }


def _escnn_init_seconds(network: nn.Module) -> float:
    """The time of escnn's own initialisation, which our layers on escnn replace by the same draws at once."""
    layers = [layer for layer in network.cpu().modules() if hasattr(layer, "reset_parameters_as_escnn")]
    start = time.perf_counter()
    for layer in layers:
        layer.reset_parameters_as_escnn()
    return time.perf_counter() - start if layers else math.nan


def _training(network: nn.Module, settings: Settings, device: torch.device):
    """A training step of Adam on a batch of noise."""
    images = torch.randn(settings.batch, 3, settings.size, settings.size, device=device)
    mask = (torch.rand(settings.batch, 1, settings.size, settings.size, device=device) > 0.5).float()
    optimizer = torch.optim.Adam(network.parameters())

    def step() -> None:
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(network(images), mask).backward()
        optimizer.step()

    return step


def _inference(network: nn.Module, settings: Settings, device: torch.device):
    images = torch.randn(settings.batch, 3, settings.size, settings.size, device=device)
    return torch.inference_mode()(lambda: network(images))


def _peak_mb(device: torch.device) -> float:
    """The most memory held so far: by torch on a GPU, by the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:  # not ru_maxrss, which on Linux begins with the peak of the parent process
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) / 2**10 for line in file if line.startswith("VmHWM"))
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, kilobytes elsewhere
