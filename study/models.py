"""The four models that the study compares, and how they are saved and loaded."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from study.errors import StudyError
from study.files import save_tensors
from study.unet import UNet, build_unet


@dataclass(frozen=True)
class Model:
    """A network and how it is trained: its group, and whether the training patches are roto-reflected at random."""

    label: str
    group: str
    augmented: bool


MODELS = {
    "unet": Model("U-Net", "z2", augmented=False),
    "unet-aug": Model("U-Net, augmented", "z2", augmented=True),
    "p4": Model("P4 U-Net", "p4", augmented=False),
    "p4m": Model("P4M U-Net", "p4m", augmented=False),
}
"""By the name that the command line and the results use, in the order of tables and figures."""


@dataclass(frozen=True)
class Architecture:
    """The arguments of :func:`~study.unet.build_unet` that a checkpoint must remember."""

    group: str
    width: int
    depth: int
    grid: str

    def build(self) -> UNet:
        """A new network; the caller seeds torch."""
        return build_unet(self.group, width=self.width, depth=self.depth, grid=self.grid)


def save_checkpoint(path: Path | str, architecture: Architecture, weights: dict, **provenance) -> None:
    """Write a checkpoint that :func:`load_model` can rebuild the network from."""
    save_tensors(path, {"architecture": asdict(architecture), "weights": weights, **provenance})


def load_checkpoint(path: Path | str) -> dict:
    """The content of a checkpoint, on the CPU; only tensors and plain values are ever unpickled.

    Raises:
        StudyError: if the file is missing or is not a checkpoint.
    """
    if not Path(path).is_file():
        raise StudyError(f"no checkpoint at {path}; train one with `python -m study train`")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint["architecture"], checkpoint["weights"]
    except Exception as error:  # torch raises anything from EOFError to UnpicklingError on a damaged file
        raise StudyError(f"{path} is damaged or not a checkpoint of this study; train it again") from error
    return checkpoint


def load_model(path: Path | str) -> UNet:
    """The trained network of a checkpoint, on the CPU in eval mode: images ``(B, 3, H, W)`` -> logits ``(B, 1, H, W)``.

    The images are prepared by :func:`study.data.patches.to_input`.

    Raises:
        StudyError: if the file is missing or is not a checkpoint.
    """
    checkpoint = load_checkpoint(path)
    try:
        network = Architecture(**checkpoint["architecture"]).build()
        network.load_state_dict(checkpoint["weights"])
    except (TypeError, ValueError, RuntimeError) as error:
        raise StudyError(f"{path} does not fit the network it names; train it again") from error
    return network.eval()
