"""The networks by name. A new one is a file with its :class:`~study.networks.network.Architecture`, and a line here."""

from collections.abc import Mapping
from dataclasses import asdict

from study.errors import StudyError
from study.networks.network import Architecture
from study.networks.residual_unet import ResidualUNetArchitecture
from study.networks.unet import UNetArchitecture

NETWORKS: dict[str, type[Architecture]] = {
    "unet": UNetArchitecture,
    "residual-unet": ResidualUNetArchitecture,
}


def find_network(name: str) -> type[Architecture]:
    """The architecture of that name.

    Raises:
        StudyError: if there is none.
    """
    if name not in NETWORKS:
        raise StudyError(f"unknown network {name!r}; choose from {', '.join(NETWORKS)}")
    return NETWORKS[name]


def to_values(architecture: Architecture) -> dict[str, object]:
    """An architecture as plain values: the name of its network, under ``network``, and its settings."""
    (name,) = (name for name, kind in NETWORKS.items() if kind is type(architecture))
    return {"network": name, **asdict(architecture)}


def from_values(values: Mapping[str, object]) -> Architecture:
    """The architecture that :func:`to_values` wrote; where no network is named, it is a U-Net.

    Raises:
        StudyError: if the network is unknown, or a setting is unknown, missing or out of range.
    """
    settings = dict(values)
    name = settings.pop("network", "unet")
    try:
        return find_network(name)(**settings)
    except TypeError as error:
        raise StudyError(f"these are not the settings of the network {name!r} ({error})") from error
