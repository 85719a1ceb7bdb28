"""A whole training step of the U-Nets, and inference with them: dense, by Fourier, on escnn, compiled, deployed."""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from study.bench import networks as net
from study.bench.networks import DEPTH
from study.gconv import GroupConv2d
from study.networks.deploy import deploy
from study.networks.steps import inference, training_step
from study.networks.unet import build_unet
from study.provenance import provenance
from study.timing import summarise, time_in_turn


@dataclass(frozen=True)
class Settings:
    """The settings of a measurement.

    Attributes:
        widths: channels of the U-Nets at full resolution.
        size: side of the images in pixels.
        batch: number of images in a batch.
        precision: "float32", or "bfloat16" or "float16" by autocast.
        rounds: number of times that everything is timed.
    """

    widths: tuple[int, ...]
    size: int
    batch: int
    precision: str
    rounds: int

    def __post_init__(self) -> None:
        net.check_input(self.size, self.precision)


@dataclass(frozen=True)
class Candidate:
    """A U-Net of depth 4.

    Attributes:
        group: "z2", "p4" or "p4m".
        width: channels of the U-Net at full resolution.
        form: "native" (each layer chooses), "dense", "escnn" or "escnn, full basis".
        channels_last: whether the images, and so the outputs of dense convolutions, are in channels-last memory format.
        compiled: by ``torch.compile``, which fuses batch norm and ReLU.
    """

    group: str
    width: int
    form: str = "native"
    channels_last: bool = False
    compiled: bool = False

    @property
    def implementation(self) -> str:
        """The layers, for :class:`study.bench.networks.Candidate`."""
        return "native" if self.form in ("native", "dense") else "escnn"

    def build(self, settings: Settings) -> nn.Module:
        """A new network: images ``(B, 3, H, W)`` -> logits ``(B, 1, H, W)``; the caller seeds torch."""
        basis = None if self.implementation == "native" else "full" if "full" in self.form else "escnn"
        options = {"implementation": self.implementation, "basis": basis}
        network = build_unet(self.group, width=self.width, depth=DEPTH, **options)
        for layer in network.modules():
            if isinstance(layer, GroupConv2d) and self.form == "dense":
                layer.algorithm = "dense"
        return torch.compile(network) if self.compiled else network

    def prepare(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x


ALL_FORMS_AT = 32
"""The width at which the dense form and escnn are measured too; they take minutes at larger widths."""


def candidates(width: int, device: torch.device) -> list[Candidate]:
    """All candidates of a width, the plain U-Net first; on a GPU also those that are of use only there."""
    groups = ("p4m", "p4")
    found = [Candidate("z2", width), *(Candidate(group, width) for group in groups)]
    if width == ALL_FORMS_AT:
        found += [Candidate(group, width, "dense") for group in groups]
        if net.has_escnn():
            found += [Candidate("p4m", width, "escnn"), Candidate("p4m", width, "escnn, full basis")]
    if device.type == "cuda":
        last = {"channels_last": True}
        found += [Candidate("z2", width, **last), Candidate("z2", width, **last, compiled=True)]
        for group in groups:
            found += [Candidate(group, width, "dense", **last), Candidate(group, width, "dense", **last, compiled=True)]
            found += [Candidate(group, width, compiled=True)]
    return found


def measure(settings: Settings, device: torch.device) -> pd.DataFrame:
    """One row per width and candidate; times are multiples of those of the plain U-Net of that width.

    Columns: the candidate's, those of :func:`~study.bench.networks.measure_alone`, and for ``training``,
    ``inference`` and ``deployed`` (inference after :func:`~study.networks.deploy.deploy`; not for escnn) those of
    :func:`~study.timing.summarise`, of a batch; the settings and the provenance.
    """
    rows = pd.concat([compare(candidates(width, device), settings, device) for width in settings.widths])
    shared = {key: value for key, value in asdict(settings).items() if key != "widths"}
    return rows.reset_index(drop=True).assign(depth=DEPTH, **shared, **provenance(device))


def compare(chosen: list[Candidate], settings: Settings, device: torch.device) -> pd.DataFrame:
    """The rows of :func:`measure` for some candidates, relative to the first."""
    alone = [net.measure_alone(c, settings, device) for c in tqdm(chosen, desc="alone", disable=None)]
    torch.manual_seed(0)
    networks = {n: c.build(settings).to(device) for n, c in enumerate(chosen)}
    images = {n: c.prepare(net.noise(settings, device)) for n, c in enumerate(chosen)}
    rows = pd.DataFrame([asdict(c) | found for c, found in zip(chosen, alone, strict=True)])
    for kind in ("training", "inference", "deployed"):
        jobs = {}
        for n, network in networks.items():
            network.train(kind == "training")
            if kind == "training":
                jobs[n] = training_step(network, images[n], settings.precision)
            elif kind == "inference":
                jobs[n] = inference(network, images[n], settings.precision)
            elif chosen[n].implementation == "native":
                jobs[n] = _deployed(network, images[n], getattr(torch, settings.precision), chosen[n].compiled)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False, benchmark=True):  # float32, not TF32
            seconds = time_in_turn(jobs, rounds=settings.rounds, device=device, warm_up=3)
        rows = rows.join(summarise(seconds, baseline=0).add_prefix(f"{kind}_"))
    return rows


def _deployed(network: nn.Module, images: Tensor, dtype: torch.dtype, compiled: bool) -> Callable[[], Tensor]:
    """Inference with the deployed network, entirely in that precision."""
    network = deploy(copy.deepcopy(getattr(network, "_orig_mod", network)).to(dtype))
    return inference(torch.compile(network) if compiled else network, images.to(dtype), "float32")
