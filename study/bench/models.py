"""The costs of each U-Net, from scratch and on escnn: at equal parameters, at equal width, and at equal compute."""

import math
from dataclasses import asdict, dataclass

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from study.bench import networks as net
from study.errors import StudyError
from study.groups import GROUPS, P4M
from study.networks.grid import GRIDS
from study.networks.layer_sets import BUDGETS, field_counts, make_layers
from study.networks.models import LAYERS, PAPER_MODELS
from study.networks.steps import inference, training_step
from study.networks.unet import UNet
from study.provenance import provenance
from study.timing import summarise, time_in_turn

LABELS = {model.group: model.label for model in PAPER_MODELS.values() if not model.augmented}


@dataclass(frozen=True)
class Settings:
    """The settings of a measurement.

    Attributes:
        width: channels of the U-Net at full resolution; a multiple of 8, so that "equal width" is exact.
        depth: number of poolings.
        size: side of the images in pixels.
        batch: number of images in a batch.
        rounds: number of times that everything is timed.
    """

    width: int
    depth: int
    size: int
    batch: int
    rounds: int

    precision = "float32"  # not a field: the table is about float32

    def __post_init__(self) -> None:
        if self.width < P4M.order or self.width % P4M.order:
            raise StudyError(f"width is {self.width}; give a multiple of {P4M.order}")
        if not 1 <= self.depth <= 5:
            raise StudyError(f"depth is {self.depth}; give 1 to 5")
        GRIDS["even"].sizes(self.depth).check(self.size, self.size)


@dataclass(frozen=True)
class Candidate:
    """A U-Net on the even grid.

    Attributes:
        group: "z2", "p4" or "p4m".
        budget: the quantity that is equal to the U-Net's, one of :data:`~study.networks.layer_sets.BUDGETS`; or
            "compute of P4M", a U-Net with the multiplications of the dense P4M U-Net of equal parameters.
        implementation: one of :data:`~study.networks.models.LAYERS`.
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
        if self.budget in BUDGETS:
            channels = field_counts(group, width, settings.depth, self.budget)
        else:
            channels = [round(math.sqrt(P4M.order) * width) * 2**level for level in range(settings.depth + 1)]
        implementation, _, basis = self.implementation.partition(", ")
        layers = make_layers(group, implementation, "full" if basis else None)
        return UNet(layers, channels, in_channels=3, num_classes=1, grid=GRIDS["even"])

    def prepare(self, x: Tensor) -> Tensor:
        return x


def candidates() -> list[Candidate]:
    """All candidates, the plain U-Net first; without those on escnn if it is not installed."""
    implementations = LAYERS if net.has_escnn() else ("native",)
    cells = [("z2", "equal parameters")]
    cells += [(group, budget) for group in ("p4", "p4m") for budget in ("equal parameters", "equal width")]
    rows = [Candidate(group, budget, kind) for group, budget in cells for kind in implementations]
    return [*rows, Candidate("z2", "compute of P4M", "native")]


def measure(chosen: list[Candidate], settings: Settings, device: torch.device) -> pd.DataFrame:
    """One row per candidate; times are multiples of the first one's, the plain U-Net's.

    Columns: ``network``, ``implementation``, those of :func:`~study.bench.networks.measure_alone`, ``training_*`` and
    ``inference_*`` (of a batch, as of :func:`~study.timing.summarise`), the settings and the provenance.
    """
    alone = [net.measure_alone(c, settings, device) for c in tqdm(chosen, desc="alone", disable=None)]
    torch.manual_seed(0)
    networks = {n: c.build(settings).to(device) for n, c in enumerate(chosen)}
    images = net.noise(settings, device)
    timings = {
        "training": {n: training_step(network, images, "float32") for n, network in networks.items()},
        "inference": {n: inference(network, images, "float32") for n, network in networks.items()},
    }
    names = [{"network": c.network, "implementation": c.implementation} for c in chosen]
    rows = pd.DataFrame([name | found for name, found in zip(names, alone, strict=True)])
    for kind, jobs in timings.items():
        for network in networks.values():
            network.train(kind == "training")
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # float32, not TF32
            seconds = time_in_turn(jobs, rounds=settings.rounds, device=device)
        rows = rows.join(summarise(seconds, baseline=0).add_prefix(f"{kind}_"))
    return rows.assign(**asdict(settings), **provenance(device))
