"""The contract of a network: what training, evaluation, tiling and deployment ask of it, whatever it is made of.

A network is described by an :class:`Architecture`: its settings, plain values that a checkpoint remembers, from which
it can be built again. :mod:`study.networks.registry` knows the architectures by name.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np

from study.groups import APPROXIMATE_GROUPS, GROUPS, Z2, roto_reflections
from study.networks import receptive_field
from study.networks.deploy import deploy
from study.networks.grid import Sizes
from study.networks.parts import Part


class Network(Part):
    """From images ``(B, in_channels, H, W)`` to logits ``(B, num_classes, H, W)``, equivariant on its sizes.

    A subclass sets ``sizes`` and writes ``forward``, which calls :meth:`check_size`, and ``sees``. All else follows.
    Whatever is computed by itself between the layers must be what a :class:`~study.networks.parts.Part` may do.

    Attributes:
        sizes: the sides of images that it takes.
    """

    sizes: Sizes

    def check_size(self, height: int, width: int) -> None:
        """Raise a :class:`~study.errors.StudyError` that names the nearest sizes that work, unless both sides do."""
        self.sizes.check(height, width)

    @property
    def receptive_radius(self) -> int:
        """How far, in pixels along either axis, an output pixel can see, as its layers say.

        Raises:
            StudyError: if a layer may see the whole image.
        """
        return receptive_field.radius(self, self.sizes.period)

    def prepare(self) -> Self:
        """A copy for inference that computes the same; see :func:`study.networks.deploy.deploy`."""
        return deploy(self)


@dataclass(frozen=True)
class Architecture:
    """The settings of a network. A subclass adds its own, checks them when it is made, and builds.

    Attributes:
        group: the name of the group that the network is equivariant to on exact sizes.
        in_channels, num_classes: channels of the images and of the logits; a study's task says how many these are.
        shared: the names of the settings that a study gives to all of its models alike; the others make a model.
    """

    shared: ClassVar[tuple[str, ...]] = ()

    group: str
    in_channels: int = field(default=3, kw_only=True)
    num_classes: int = field(default=1, kw_only=True)

    def build(self) -> Network:
        """A new network; the caller seeds torch.

        Raises:
            MissingPackageError: if it is made of layers of a package that is not installed.
        """
        raise NotImplementedError(f"{type(self).__name__} has to build a network")

    @property
    def sizes(self) -> Sizes:
        """The sides of images that the network takes."""
        raise NotImplementedError(f"{type(self).__name__} has to name its sizes")

    @property
    def symmetries(self) -> np.ndarray:
        """Which of the eight roto-reflections of P4M the network commutes with by construction: booleans ``(8,)``."""
        group = (GROUPS | APPROXIMATE_GROUPS)[self.group]
        return roto_reflections(group if self.sizes.exact else Z2)
