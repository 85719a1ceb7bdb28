"""The size, the time and the rounding of exported networks, beside the network itself."""

from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from tqdm import tqdm

from study.equivariance import train_briefly
from study.experiments.export import export
from study.networks.checkpoint import load_checkpoint, save_checkpoint
from study.networks.models import PAPER_MODELS
from study.provenance import provenance

MODELS = ("unet", "p4m")
"""What is exported: the plain U-Net, and the P4M U-Net of as many parameters."""


@dataclass(frozen=True)
class Settings:
    """Channels of the U-Net at full resolution, the number of poolings, and how often everything is timed."""

    width: int = 16
    depth: int = 4
    rounds: int = 7


def measure(settings: Settings) -> pd.DataFrame:
    """A row for each model and format, on the CPU, in float32, after a few training steps on noise.

    Columns: ``network``, ``format``, ``mb``, ``side`` (of the image, in pixels), ``ms``, ``difference`` (the largest
    one of probabilities, over the eight roto-reflections), the settings and the provenance.
    """
    rows = []
    for name in tqdm(MODELS, desc="export", disable=None):
        torch.manual_seed(0)
        architecture = PAPER_MODELS[name].architecture(width=settings.width, depth=settings.depth, grid="even")
        network = architecture.build()
        side = network.sizes.at_least(64)
        train_briefly(network, torch.randn(2, 3, side, side))
        with TemporaryDirectory() as folder:
            path = Path(folder) / "best.pt"
            save_checkpoint(path, architecture, network.state_dict())
            made = export(load_checkpoint(path), path, Path(folder), rounds=settings.rounds)
        rows += [
            {
                "network": PAPER_MODELS[name].label,
                "format": one.format,
                "mb": one.size / 1e6,
                "side": one.side,
                "ms": one.milliseconds,
                "difference": one.difference,
            }
            for one in made
        ]
    return pd.DataFrame(rows).assign(**asdict(settings), **provenance(torch.device("cpu")))
