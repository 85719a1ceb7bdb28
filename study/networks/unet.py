"""One builder for the U-Net and the U-Net of every group: they differ only in the layers that are put in.

The architecture is the paper's: blocks of two 3x3 convolutions, ``depth`` poolings, transposed convolutions, skip
connections, batch norm and ReLU after every convolution (transposed ones too), and a projection to the logits.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from numbers import Integral
from typing import ClassVar

from torch import Tensor, nn

from study.errors import StudyError
from study.groups import APPROXIMATE_GROUPS, GROUPS, Z2
from study.networks.grid import GRIDS, PAPER_LITERAL, Grid, Sizes
from study.networks.layer_sets import (
    BUDGETS,
    IMPLEMENTATIONS,
    READOUTS,
    Layers,
    equalise_steps,
    field_counts,
    make_layers,
    pooled_readout,
    symmetric_layers,
)
from study.networks.network import Architecture, Network
from study.networks.parts import two_convolutions, upsampling
from study.networks.receptive_field import Span, seen

_GRIDS = GRIDS | {"literal": PAPER_LITERAL}


class UNet(Network):
    """A U-Net of any :class:`~study.networks.layer_sets.Layers`; :func:`build_unet` chooses them for a group.

    Shapes: image ``(B, in_channels, H, W)`` -> logits ``(B, num_classes, H, W)``.

    Args:
        layers: what to build from.
        channels: channels (of fields, on a group) at each level, from full resolution to the bottom.
        in_channels, num_classes: channels of the image and of the logits.
        grid: how to pool and up-sample.
        block: makes the block of a level, called with ``layers``, its first convolution (``layers.lift`` or
            ``layers.conv``), and the channels of its input and of its output.

    Raises:
        StudyError: when called on a size that the grid does not keep exactly equivariant.
    """

    def __init__(
        self,
        layers: Layers,
        channels: list[int],
        *,
        in_channels: int,
        num_classes: int,
        grid: Grid,
        block: Callable[..., nn.Module] = two_convolutions,
    ) -> None:
        super().__init__()
        self.sizes = grid.sizes(len(channels) - 1)
        down = list(pairwise(channels))
        self.encoder = nn.ModuleList([block(layers, layers.lift, in_channels, channels[0])])
        self.encoder.extend(block(layers, layers.conv, shallow, deep) for shallow, deep in down)
        self.pool = layers.pool(*grid.pool)
        self.up = nn.ModuleList(upsampling(layers, deep, shallow, grid) for shallow, deep in reversed(down))
        self.decoder = nn.ModuleList(block(layers, layers.conv, 2 * shallow, shallow) for shallow, _ in reversed(down))
        self.project = layers.project(channels[0], num_classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ValueError(f"a U-Net expects images (B, C, H, W), not {tuple(x.shape)}")
        self.check_size(*x.shape[-2:])
        f = self.encoder[0](x)
        skips = []
        for block in self.encoder[1:]:
            skips.append(f)
            f = block(self.pool(f))
        for up, block in zip(self.up, self.decoder, strict=True):
            f = block(skips.pop(), up(f))
        return self.project(f)

    def sees(self, span: Span) -> Span:
        span = seen(self.project, span)
        skips = []
        for up, block in zip(reversed(self.up), reversed(self.decoder), strict=True):
            skips.append(seen(block, span))
            span = seen(up, skips[-1])
        for block in reversed(self.encoder[1:]):
            span = seen(self.pool, seen(block, span)) | skips.pop()
        return seen(self.encoder[0], span)


@dataclass(frozen=True)
class UNetArchitecture(Architecture):
    """The settings of a U-Net; :func:`build_unet` explains them.

    Raises:
        StudyError: for an unknown name, a number out of range, or settings that contradict each other.
    """

    shared: ClassVar = ("width", "depth", "grid")

    width: int
    depth: int = 4
    grid: str = "even"
    implementation: str = "native"
    basis: str | None = None
    budget: str = "equal parameters"
    readout: str = "projection"
    symmetric_kernels: bool = False

    def __post_init__(self) -> None:
        for name, known in [
            ("implementation", IMPLEMENTATIONS),
            ("grid", _GRIDS),
            ("budget", BUDGETS),
            ("readout", READOUTS),
        ]:
            if getattr(self, name) not in known:
                raise StudyError(f"unknown {name} {getattr(self, name)!r}; choose from {', '.join(known)}")
        groups = GROUPS if self.implementation == "native" else GROUPS | APPROXIMATE_GROUPS
        if self.group not in groups:
            if self.group in APPROXIMATE_GROUPS:
                raise StudyError(f'only escnn has layers of the group {self.group!r}; give implementation="escnn"')
            raise StudyError(f"unknown group {self.group!r}; choose from {', '.join(groups)}")
        if self.implementation == "native" and self.basis is not None:
            raise StudyError(
                f'basis is {self.basis!r}, but native layers have every filter; give implementation="escnn"'
            )
        if self.implementation != "native" and (self.symmetric_kernels or self.readout != "projection"):
            raise StudyError(
                'symmetric kernels and pooled orientations are not there on escnn; give implementation="native"'
            )
        if self.readout != "projection" and (self.symmetric_kernels or self.group == "z2"):
            raise StudyError(
                f'readout is {self.readout!r}, but this U-Net has no orientations; give readout="projection"'
            )
        if not isinstance(self.depth, Integral) or not 1 <= self.depth <= 5:
            raise StudyError(f"depth is {self.depth!r}; give an integer from 1 to 5")
        self._check_positive("width", "in_channels", "num_classes")

    def _check_positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < 1:
                raise StudyError(f"{name} is {value!r}; give a positive integer")

    @property
    def sizes(self) -> Sizes:
        return _GRIDS[self.grid].sizes(self.depth)

    def build(self) -> UNet:
        return self._build(two_convolutions)

    def _build(self, block: Callable[..., nn.Module]) -> UNet:
        group = GROUPS.get(self.group) or APPROXIMATE_GROUPS[self.group]
        if self.symmetric_kernels:
            layers, channels = symmetric_layers(group), field_counts(Z2, self.width, self.depth)
        else:
            layers = make_layers(group, self.implementation, self.basis)
            channels = field_counts(group, self.width, self.depth, self.budget)
        if self.readout != "projection":
            layers = replace(layers, project=partial(pooled_readout, group=group, reduction=self.readout))
        ends = {"in_channels": self.in_channels, "num_classes": self.num_classes}
        network = UNet(layers, channels, **ends, grid=_GRIDS[self.grid], block=block)
        equalise_steps(network)
        return network


def build_unet(
    group: str,
    *,
    width: int,
    depth: int = 4,
    in_channels: int = 3,
    num_classes: int = 1,
    grid: str = "even",
    implementation: str = "native",
    basis: str | None = None,
    budget: str = "equal parameters",
    readout: str = "projection",
    symmetric_kernels: bool = False,
) -> UNet:
    """Build the U-Net ("z2") or the U-Net of another group, as the P4M U-Net ("p4m").

    Shapes: image ``(B, in_channels, H, W)`` -> logits ``(B, num_classes, H, W)``. The initial weights of native layers
    are those of :func:`~study.networks.layer_sets.equalise_steps`, those on escnn its own.

    Args:
        group: one of :data:`study.groups.GROUPS`, as "z2" or "p4m"; on escnn also "p8" and "p8m", which turn by 45
            degrees too, approximately.
        width: channels of the ordinary U-Net at full resolution; each level below has twice as many. A group network
            has fewer fields instead, by its budget.
        depth: number of poolings, 1 to 5.
        grid: "even" (2x2 pooling and 4x4 transposed convolution; sizes that 2 ** depth divides) or "odd" (the
            paper's 3x3 for both; multiples of 2 ** depth, plus 1). The counter-example "literal", the paper's 3x3
            pooling on multiples of 2 ** depth, is not equivariant.
        implementation: "native", the layers of :mod:`study.gconv`, or "escnn", those of :mod:`study.escnn.layers`.
        basis: of the filters on escnn: "escnn" (its band-limited default, taken if None) or "full" (all filters, as the
            native layers have).
        budget: "equal parameters", ``round(channels / sqrt(|G|))`` fields, or "equal width", ``round(channels / |G|)``
            fields and so as many planes as the U-Net has channels.
        readout: what the network ends in: "projection" (Eq. 3), or the "max" or "mean" over the orientations and a
            convolution by symmetric filters.
        symmetric_kernels: a U-Net without orientation channels, equivariant because its filters are symmetric under
            the group. Its width is the ordinary U-Net's and so are its multiplications; its parameters are fewer.

    Raises:
        StudyError: for an unknown name or a number out of range, or if escnn is asked for and not installed; later,
            when the network is called on a size that would break its equivariance.
    """
    return UNetArchitecture(**locals()).build()
