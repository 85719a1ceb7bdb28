"""The layers that networks are built from, one set for each group and implementation; and how many fields they get."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from study import gconv
from study.gconv.convolution import PlaneGroupConv2d
from study.groups import Z2, PlaneGroup

IMPLEMENTATIONS = ("native", "escnn")

BUDGETS = ("equal parameters", "equal width")
"""What a group network has as much of as the plain one: weights, or planes."""

READOUTS = ("projection", "max", "mean")
"""How the orientations are left at the end: by Eq. 3, or pooled."""


@dataclass(frozen=True)
class Layers:
    """The layers that a network is built from, with the signatures of their ``torch.nn`` namesakes."""

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


def field_counts(group: PlaneGroup, width: int, depth: int, budget: str = "equal parameters") -> list[int]:
    """Fields at each level, from full resolution down, where the plain network has ``width * 2**level`` channels.

    With "equal parameters" they are as many over sqrt(|G|), and with "equal width" over |G|, rounded.
    """
    share = group.order if budget == "equal width" else math.sqrt(group.order)
    return [max(1, round(width * 2**level / share)) for level in range(depth + 1)]


@torch.no_grad()
def equalise_steps(network: nn.Module) -> None:
    """Scale the new weights of a group network to the size that they have in the plain network of equal parameters.

    Where batch norm follows a convolution, the scale of its weights changes no output; but Adam's first steps are as
    long as the learning rate, whatever the scale, so it decides how far a step turns a filter. By their fan-in the
    layers draw weights that are ``|G| ** (1 / 4)`` times smaller, and the same learning rate would be a larger one on a
    larger group. Here the fan-in is counted as torch counts it in the plain network, which has ``sqrt(|G|)`` channels
    for each field: by the input's channels, in a transposed convolution by the output's.
    """
    blocks = [module for module in network.modules() if isinstance(module, nn.Sequential)]
    for conv, norm in (pair for block in blocks for pair in pairwise(block)):
        if isinstance(conv, PlaneGroupConv2d) and isinstance(norm, _BatchNorm):
            channels = conv.out_channels if conv.transposed else conv.in_channels
            if isinstance(conv, gconv.GroupConv2d):  # not of an image, or of maps without orientations
                channels *= math.sqrt(conv.group.order)
            plain_fan_in = channels * conv.kernel_size**2
            conv.weight.mul_(math.sqrt(conv.fan_in() / plain_fan_in))
