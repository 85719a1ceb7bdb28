"""The models that a study compares: a table of networks and how each is trained.

It imports no torch, so that tables and figures are quick to read it.
"""

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from study.networks.network import Architecture


@dataclass(frozen=True)
class Model:
    """A network and how it is trained.

    Attributes:
        label: for people.
        augmented: whether the training patches are roto-reflected at random.
        width_factor: of the study's width.
        grid: in the place of the study's.
        group, implementation, basis, budget, readout, symmetric_kernels: settings of the network, as of
            :func:`~study.networks.unet.build_unet`; another network need not have those that are left as they are.
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

    @property
    def network(self) -> "Model":
        """This model without what its network does not depend on: the same for the U-Net and the augmented U-Net."""
        return replace(self, label="", augmented=False)

    def architecture(self, network: str = "unet", **shared: object) -> "Architecture":
        """The network in a study.

        Args:
            network: a name of :data:`study.networks.registry.NETWORKS`.
            shared: its settings that all models of the study have, as the U-Net's ``width``, ``depth`` and ``grid``.

        Raises:
            StudyError: if the network is unknown, lacks a setting of this model or of the study, or refuses one.
        """
        from study.networks.registry import from_values  # here, as it imports torch, which the table does not need

        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _OF_TRAINING}
        own = {name: value for name, value in own.items() if value != getattr(type(self), name, None)}
        if self.width_factor != 1:
            own["width"] = round(shared.get("width", 0) * self.width_factor)
        return from_values({"network": network} | shared | own)


_OF_TRAINING = ("label", "augmented", "width_factor")
"""What is no setting of the network."""

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


def native_counterpart(name: str) -> str | None:
    """The model from scratch that a model on escnn is the twin of; None for one that only escnn has."""
    twins = (key for key, model in PAPER_MODELS.items() if model.group == MODELS[name].group and not model.augmented)
    return next(twins, None)
