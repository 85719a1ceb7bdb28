"""The residual U-Net: a U-Net whose levels are made of residual blocks (He et al. 2016; Zhang et al. 2018, ResUNet).

It is made of the same layer sets as the U-Net, and sums of feature maps are equivariant, so it is exact on every group.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from study.gconv.fast.blocks import joined
from study.networks.layer_sets import Layers
from study.networks.parts import Block, Part
from study.networks.receptive_field import Span, seen
from study.networks.unet import UNet, UNetArchitecture


class ResidualBlock(Part):
    """``relu(norm(conv(relu(norm(conv(f))))) + shortcut(f))``, of one feature map or of several taken together.

    Args:
        layers: what to build from.
        first: the kind of the first convolution and of the shortcut's, ``layers.lift`` or ``layers.conv``.
        in_channels, channels: of the input and of the output (fields, on a group).
        keeps: whether the shortcut is ``f`` itself, which then has the channels of the output; or a 1x1 convolution
            with batch norm.
    """

    def __init__(
        self, layers: Layers, first: Callable[..., nn.Module], in_channels: int, channels: int, *, keeps: bool = False
    ) -> None:
        super().__init__()
        self.shortcut = nn.Identity()
        if not keeps:
            self.shortcut = Block(first(in_channels, channels, 1, bias=False), layers.norm(channels))
        self.inner = Block(first(in_channels, channels, 3, padding=1, bias=False), layers.norm(channels), layers.relu())
        self.outer = Block(layers.conv(channels, channels, 3, padding=1, bias=False), layers.norm(channels))
        self.relu = layers.relu()

    def forward(self, *f: Tensor) -> Tensor:
        f = joined(f)
        return self.relu(self.outer(self.inner(f)) + self.shortcut(f))

    def sees(self, span: Span) -> Span:
        return seen(self.inner, seen(self.outer, span)) | seen(self.shortcut, span)


def residual_blocks(
    layers: Layers, first: Callable[..., nn.Module], in_channels: int, channels: int, *, count: int
) -> Block:
    """The blocks of a level, one after the other."""
    others = (ResidualBlock(layers, layers.conv, channels, channels, keeps=True) for _ in range(count - 1))
    return Block(ResidualBlock(layers, first, in_channels, channels), *others)


@dataclass(frozen=True)
class ResidualUNetArchitecture(UNetArchitecture):
    """The settings of a residual U-Net: those of the U-Net, and how many residual blocks make a level."""

    shared: ClassVar = (*UNetArchitecture.shared, "blocks")

    blocks: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("blocks")

    def build(self) -> UNet:
        return self._build(partial(residual_blocks, count=self.blocks))
