"""The models that the study compares, and how they are saved and loaded."""

import io
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from study.errors import MissingPackageError, StudyError
from study.files import replacing
from study.groups import APPROXIMATE_GROUPS, GROUPS, Z2, roto_reflections
from study.networks.unet import UNet, build_unet


@dataclass(frozen=True)
class Architecture:
    """The arguments of :func:`~study.networks.unet.build_unet` that a checkpoint must remember."""

    group: str
    width: int
    depth: int
    grid: str
    implementation: str = "native"
    basis: str | None = None
    budget: str = "equal parameters"
    readout: str = "projection"
    symmetric_kernels: bool = False
    num_classes: int = 1

    def build(self) -> UNet:
        """A new network; the caller seeds torch."""
        return build_unet(**asdict(self))

    @property
    def symmetries(self) -> np.ndarray:
        """Which of the eight roto-reflections of P4M the network commutes with by construction: booleans ``(8,)``."""
        group = (GROUPS | APPROXIMATE_GROUPS)[self.group]
        return roto_reflections(Z2 if self.grid == "literal" else group)


@dataclass(frozen=True)
class Model:
    """A network and how it is trained.

    Attributes:
        label: for people.
        augmented: whether the training patches are roto-reflected at random.
        width_factor: of the study's width.
        grid: in the place of the study's.
        group, implementation, basis, budget, readout, symmetric_kernels: of :func:`~study.networks.unet.build_unet`.
    """

    label: str
    group: str
    augmented: bool = False
    implementation: str = "native"
    basis: str | None = None
    budget: str = "equal parameters"
    readout: str = "projection"
    symmetric_kernels: bool = False
    width_factor: float = 1.0
    grid: str | None = None

    @property
    def layers(self) -> str:
        """One of :data:`LAYERS`."""
        return f"{self.implementation}, full basis" if self.basis == "full" else self.implementation

    def architecture(self, *, width: int, depth: int, grid: str, num_classes: int = 1) -> Architecture:
        """The network in a study of that width, depth and grid, with so many channels of logits."""
        return Architecture(
            self.group,
            round(width * self.width_factor),
            depth,
            self.grid or grid,
            implementation=self.implementation,
            basis=self.basis,
            budget=self.budget,
            readout=self.readout,
            symmetric_kernels=self.symmetric_kernels,
            num_classes=num_classes,
        )


LAYERS = ("native", "escnn", "escnn, full basis")
"""What the same network can be made of, in the order of tables and figures."""

PAPER_MODELS = {
    "unet": Model("U-Net", "z2"),
    "unet-aug": Model("U-Net, augmented", "z2", augmented=True),
    "p4": Model("P4 U-Net", "p4"),
    "p4m": Model("P4M U-Net", "p4m"),
}
"""What the paper compares."""

BASELINE_MODELS = {
    "unet-time": Model("U-Net, P4M's time", "z2", augmented=True, width_factor=1.5),
    "unet-sym": Model("U-Net, symmetric kernels", "p4m", symmetric_kernels=True),
}
"""What the P4M U-Net has to beat as well: an ordinary U-Net wide enough for its training step to take as long, and one
that is exactly equivariant without orientation channels, of the U-Net's width and price and fewer parameters."""

SUBGROUP_MODELS = {
    "p2": Model("P2 U-Net", "p2"),
    "pm": Model("PM U-Net", "pm"),
    "pmm": Model("PMM U-Net", "pmm"),
}
"""Beyond the paper: fewer symmetries than P4 and P4M, to see what each is worth."""

VARIANT_MODELS = {
    "p4m-max": Model("P4M U-Net, max over orientations", "p4m", readout="max"),
    "p4m-mean": Model("P4M U-Net, mean over orientations", "p4m", readout="mean"),
    "p4m-equal-width": Model("P4M U-Net, equal width", "p4m", budget="equal width"),
    "p4m-literal": Model("P4M U-Net, the paper's literal pooling", "p4m", grid="literal"),
}
"""The P4M U-Net with one decision changed. The last is the counter-example: its pooling makes it not equivariant."""

NATIVE_MODELS = {
    **{name: PAPER_MODELS[name] for name in ("unet", "unet-aug")},
    **BASELINE_MODELS,
    **SUBGROUP_MODELS,
    **{name: PAPER_MODELS[name] for name in ("p4", "p4m")},
    **VARIANT_MODELS,
}
"""All on the layers from scratch: without orientation channels, then from the fewest symmetries to the most."""

ESCNN_MODELS = {
    "p4-escnn": Model("P4 U-Net, escnn", "p4", implementation="escnn", basis="escnn"),
    "p4-escnn-full": Model("P4 U-Net, escnn, full basis", "p4", implementation="escnn", basis="full"),
    "p4m-escnn": Model("P4M U-Net, escnn", "p4m", implementation="escnn", basis="escnn"),
    "p4m-escnn-full": Model("P4M U-Net, escnn, full basis", "p4m", implementation="escnn", basis="full"),
    "p8-escnn": Model("P8 U-Net, escnn", "p8", implementation="escnn", basis="escnn"),
    "p8m-escnn": Model("P8M U-Net, escnn", "p8m", implementation="escnn", basis="escnn"),
}
"""The same U-Nets on escnn, and two that only escnn has."""

MODELS = NATIVE_MODELS | ESCNN_MODELS
"""By the name that the command line and the results use, in the order of tables and figures."""


def save_checkpoint(path: Path | str, architecture: Architecture, weights: dict, **provenance) -> None:
    """Write a checkpoint that :func:`load_model` can rebuild the network from."""
    save_tensors(path, {"architecture": asdict(architecture), "weights": weights, **provenance})


def save_tensors(path: Path | str, content: dict) -> None:
    """``torch.save`` that replaces ``path`` as a whole, and reports a full disk as such.

    Raises:
        StudyError: see :func:`~study.files.replacing`.
    """
    buffer = io.BytesIO()  # writing through torch would turn a full disk into an unrelated error
    torch.save(content, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


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
    """The trained network of a checkpoint, on the CPU in eval mode: images ``(B, 3, H, W)`` -> logits ``(B, M, H, W)``.

    The images are prepared by :func:`study.data.patches.loading.to_input`.

    Raises:
        StudyError: if the file is missing or is not a checkpoint, or is on escnn and that is not installed.
    """
    return rebuild(load_checkpoint(path), path)


def rebuild(checkpoint: dict, path: Path | str) -> UNet:
    """The network of a checkpoint that was loaded from ``path``; see :func:`load_model`."""
    try:
        network = Architecture(**checkpoint["architecture"]).build()
        network.load_state_dict(checkpoint["weights"])
    except MissingPackageError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise StudyError(f"{path} does not fit the network it names; train it again") from error
    return network.eval()


def native_counterpart(name: str) -> str | None:
    """The model from scratch that a model on escnn is the twin of; None for one that only escnn has."""
    twins = (key for key, model in PAPER_MODELS.items() if model.group == MODELS[name].group and not model.augmented)
    return next(twins, None)
