"""One builder for the U-Net and the U-Net of every group: they differ only in the layers that are put in.

The architecture is the paper's: blocks of two 3x3 convolutions, ``depth`` poolings, transposed convolutions, skip
connections, batch norm and ReLU after every convolution (transposed ones too), and a projection to the logits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from numbers import Integral

import torch
from torch import Tensor, nn

from study import gconv
from study.errors import StudyError
from study.gconv.fast import blocks
from study.gconv.layers import PlaneGroupConv2d
from study.groups import APPROXIMATE_GROUPS, GROUPS, Z2, PlaneGroup

IMPLEMENTATIONS = ("native", "escnn")


@dataclass(frozen=True)
class Grid:
    """How a U-Net halves and doubles its grid.

    ``pool`` and ``up`` are (kernel, stride, padding) of the pooling and of the transposed convolution.
    ``remainder`` is the size modulo ``2 ** depth`` that it takes, and ``exact`` whether it is equivariant there.
    """

    pool: tuple[int, int, int]
    up: tuple[int, int, int]
    remainder: int
    exact: bool = True

    def check(self, height: int, width: int, depth: int) -> None:
        """Raise a :class:`~study.errors.StudyError` that names the nearest sizes that work, unless both sides do."""
        period = 2**depth
        for size in (height, width):
            smaller = (size - self.remainder) // period * period + self.remainder
            if smaller != size or size < period:
                fitting = [n for n in (smaller, smaller + period) if n >= period] or [period + self.remainder]
                fault = "would break the equivariance" if self.exact else "does not fit the network"
                raise StudyError(
                    f"an image of {height} x {width} {fault}: {size} is not a multiple of "
                    f"{period}{' plus 1' if self.remainder else ''}; crop or pad it symmetrically to "
                    f"{' or '.join(map(str, fitting))}"
                )


GRIDS = {
    "even": Grid(pool=(2, 2, 0), up=(4, 2, 1), remainder=0),
    "odd": Grid(pool=(3, 2, 1), up=(3, 2, 1), remainder=1),
}
"""The two exact families; "odd" has the paper's 3x3 kernels."""

PAPER_LITERAL = Grid(pool=(3, 2, 1), up=(4, 2, 1), remainder=0, exact=False)
"""The counter-example, by the name "literal": the paper as it describes itself, 3x3 pooling on 320 x 320. It is not
equivariant there, although every layer is a group convolution; on 321 x 321 the same pooling is (the "odd" grid)."""

BUDGETS = ("equal parameters", "equal width")
"""What a group network has as much of as the plain U-Net: weights, or planes."""

READOUTS = ("projection", "max", "mean")
"""How the orientations are left at the end: by Eq. 3, or pooled."""


@dataclass(frozen=True)
class Layers:
    """The layers that a U-Net is built from, with the signatures of their ``torch.nn`` namesakes."""

    lift: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]
    up: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    relu: Callable[[], nn.Module]
    pool: Callable[..., nn.Module]
    project: Callable[..., nn.Module]


PLAIN = Layers(
    lift=nn.Conv2d,
    conv=nn.Conv2d,
    up=nn.ConvTranspose2d,
    norm=nn.BatchNorm2d,
    relu=partial(nn.ReLU, inplace=True),
    pool=nn.MaxPool2d,
    project=nn.Conv2d,
)


def native_layers(group: PlaneGroup) -> Layers:
    """The layers of :mod:`study.gconv` on one group."""
    return Layers(
        lift=partial(gconv.LiftingConv2d, group=group),
        conv=partial(gconv.GroupConv2d, group=group),
        up=partial(gconv.GroupConvTranspose2d, group=group),
        norm=gconv.GroupBatchNorm2d,
        relu=partial(nn.ReLU, inplace=True),
        pool=gconv.GroupMaxPool2d,
        project=partial(gconv.ProjectionConv2d, group=group),
    )


def symmetric_layers(group: PlaneGroup) -> Layers:
    """The plain U-Net's layers with symmetric filters: equivariant without orientation channels."""
    conv = partial(gconv.SymmetricConv2d, group=group)
    return replace(PLAIN, lift=conv, conv=conv, up=partial(gconv.SymmetricConvTranspose2d, group=group), project=conv)


def pooled_readout(
    in_channels: int, out_channels: int, kernel_size: int, *, group: PlaneGroup, reduction: str, padding: int
) -> nn.Sequential:
    """In the place of the projection: ``(B, in, |G|, H, W)``, pooled over the orientations, -> ``(B, out, H, W)``.

    What is left knows no direction, so the convolution that follows must not either: its filters are symmetric.
    """
    conv = gconv.SymmetricConv2d(in_channels, out_channels, kernel_size, group=group, padding=padding)
    return nn.Sequential(gconv.OrientationPool2d(reduction), conv)


def make_layers(group: PlaneGroup, implementation: str = "native", basis: str | None = None) -> Layers:
    """The layers of a group: torch's own for Z2, and otherwise those of :mod:`study.gconv`; or all on escnn."""
    if implementation == "escnn":
        return escnn_layers(group, basis or "escnn")
    return PLAIN if group == Z2 else native_layers(group)


def escnn_layers(group: PlaneGroup, basis: str) -> Layers:
    """The layers of :mod:`study.escnn.layers` on one group, Z2 too.

    Raises:
        StudyError: if escnn is not installed.
    """
    from study.escnn import layers as escnn  # here, so that all the rest works without it

    return Layers(
        lift=partial(escnn.LiftingConv2d, group=group, basis=basis),
        conv=partial(escnn.GroupConv2d, group=group, basis=basis),
        up=partial(escnn.GroupConvTranspose2d, group=group, basis=basis),
        norm=partial(escnn.GroupBatchNorm2d, group=group),
        relu=partial(escnn.ReLU, group=group),
        pool=partial(escnn.GroupMaxPool2d, group=group),
        project=partial(escnn.ProjectionConv2d, group=group, basis=basis),
    )


class UNet(nn.Module):
    """A U-Net of any :class:`Layers`; use :func:`build_unet` unless you bring layers of your own.

    Shapes: image ``(B, in_channels, H, W)`` -> logits ``(B, num_classes, H, W)``.

    Args:
        layers: what to build from.
        channels: channels (of fields, on a group) at each level, from full resolution to the bottom.
        in_channels, num_classes: channels of the image and of the logits.
        grid: how to pool and up-sample.

    Raises:
        StudyError: when called on a size that the grid does not keep exactly equivariant.
    """

    def __init__(self, layers: Layers, channels: list[int], *, in_channels: int, num_classes: int, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.depth = len(channels) - 1
        down = list(pairwise(channels))
        self.encoder = nn.ModuleList([_block(layers, layers.lift, in_channels, channels[0])])
        self.encoder.extend(_block(layers, layers.conv, shallow, deep) for shallow, deep in down)
        self.pool = layers.pool(*grid.pool)
        self.up = nn.ModuleList(_up(layers, deep, shallow, grid) for shallow, deep in reversed(down))
        self.decoder = nn.ModuleList(_block(layers, layers.conv, 2 * shallow, shallow) for shallow, _ in reversed(down))
        self.project = layers.project(channels[0], num_classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ValueError(f"a U-Net expects images (B, C, H, W), not {tuple(x.shape)}")
        self.grid.check(*x.shape[-2:], self.depth)
        f = self.encoder[0](x)
        skips = []
        for block in self.encoder[1:]:
            skips.append(f)
            f = block(self.pool(f))
        for up, block in zip(self.up, self.decoder, strict=True):
            f = block(skips.pop(), up(f))
        return self.project(f)


class Block(nn.Sequential):
    """Convolutions, each with batch norm and ReLU, of one feature map or of several whose channels are taken together.

    In a training on a CPU, what :mod:`study.gconv.fast.blocks` knows takes fewer passes over memory; the result is the
    same.
    """

    def forward(self, *f: Tensor) -> Tensor:
        if blocks.runs(self, f):
            return blocks.run(self, f)
        first, *others = self
        f = first(*f) if getattr(first, "takes_several", False) else first(blocks.joined(f))
        for layer in others:
            f = layer(f)
        return f


def _block(layers: Layers, first: Callable[..., nn.Module], in_channels: int, channels: int) -> Block:
    """Two 3x3 convolutions, each with batch norm (which makes a bias of their own redundant) and ReLU."""
    return Block(
        first(in_channels, channels, 3, padding=1, bias=False),
        layers.norm(channels),
        layers.relu(),
        layers.conv(channels, channels, 3, padding=1, bias=False),
        layers.norm(channels),
        layers.relu(),
    )


def _up(layers: Layers, in_channels: int, channels: int, grid: Grid) -> Block:
    """A transposed convolution that doubles the grid, with batch norm and ReLU."""
    kernel_size, stride, padding = grid.up
    return Block(
        layers.up(in_channels, channels, kernel_size, stride=stride, padding=padding, bias=False),
        layers.norm(channels),
        layers.relu(),
    )


def field_counts(group: PlaneGroup, width: int, depth: int, budget: str = "equal parameters") -> list[int]:
    """Fields at each level, from full resolution down, where the U-Net has ``width * 2**level`` channels.

    With "equal parameters" they are as many over sqrt(|G|), and with "equal width" over |G|, rounded.
    """
    share = group.order if budget == "equal width" else math.sqrt(group.order)
    return [max(1, round(width * 2**level / share)) for level in range(depth + 1)]


@torch.no_grad()
def equalise_steps(network: UNet) -> None:
    """Scale the new weights of a group network to the size that they have in the plain U-Net of equal parameters.

    Batch norm follows every convolution but the projection, so the scale of these weights changes no output; but Adam's
    first steps are as long as the learning rate, whatever the scale, so it decides how far a step turns a filter. By
    their fan-in the layers draw weights that are ``|G| ** (1 / 4)`` times smaller, and the same learning rate would be
    a larger one on a larger group. Here the fan-in is counted as torch counts it in the plain U-Net, which has
    ``sqrt(|G|)`` channels for each field: by the input's channels, in a transposed convolution by the output's.
    """
    for block in (*network.encoder, *network.up, *network.decoder):
        for conv in block:
            if isinstance(conv, PlaneGroupConv2d):
                channels = conv.out_channels if conv.plain is nn.ConvTranspose2d else conv.in_channels
                if isinstance(conv, gconv.GroupConv2d):  # not of an image, or of maps without orientations
                    channels *= math.sqrt(conv.group.order)
                plain_fan_in = channels * conv.kernel_size**2
                conv.weight.mul_(math.sqrt(conv.fan_in() / plain_fan_in))


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
    are those of :func:`equalise_steps`, those on escnn its own.

    Args:
        group: "z2", "p2", "pm", "pmm", "p4" or "p4m"; on escnn also "p8" and "p8m", which turn by 45 degrees too,
            approximately.
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
    groups = GROUPS if implementation == "native" else GROUPS | APPROXIMATE_GROUPS
    grids = GRIDS | {"literal": PAPER_LITERAL}
    for name, value, known in [
        ("implementation", implementation, IMPLEMENTATIONS),
        ("grid", grid, grids),
        ("budget", budget, BUDGETS),
        ("readout", readout, READOUTS),
    ]:
        if value not in known:
            raise StudyError(f"unknown {name} {value!r}; choose from {', '.join(known)}")
    if group not in groups:
        if group in APPROXIMATE_GROUPS:
            raise StudyError(f'only escnn has layers of the group {group!r}; give implementation="escnn"')
        raise StudyError(f"unknown group {group!r}; choose from {', '.join(groups)}")
    if implementation == "native" and basis is not None:
        raise StudyError(f'basis is {basis!r}, but native layers have every filter; give implementation="escnn"')
    if implementation != "native" and (symmetric_kernels or readout != "projection"):
        raise StudyError(
            'symmetric kernels and pooled orientations are not there on escnn; give implementation="native"'
        )
    if readout != "projection" and (symmetric_kernels or group == "z2"):
        raise StudyError(f'readout is {readout!r}, but this U-Net has no orientations; give readout="projection"')
    if not isinstance(depth, Integral) or not 1 <= depth <= 5:
        raise StudyError(f"depth is {depth!r}; give an integer from 1 to 5")
    for name, value in [("width", width), ("in_channels", in_channels), ("num_classes", num_classes)]:
        if not isinstance(value, Integral) or value < 1:
            raise StudyError(f"{name} is {value!r}; give a positive integer")
    acting = groups[group]
    if symmetric_kernels:
        layers, channels = symmetric_layers(acting), field_counts(Z2, width, depth)
    else:
        layers, channels = make_layers(acting, implementation, basis), field_counts(acting, width, depth, budget)
    if readout != "projection":
        layers = replace(layers, project=partial(pooled_readout, group=acting, reduction=readout))
    network = UNet(layers, channels, in_channels=in_channels, num_classes=num_classes, grid=grids[grid])
    equalise_steps(network)
    return network
