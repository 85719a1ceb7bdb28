"""What networks are made of, above single layers: blocks of layers, and parts that join or add what layers give."""

from collections.abc import Callable

from torch import Tensor, nn

from study.gconv.fast import blocks
from study.networks.grid import Grid
from study.networks.layer_sets import Layers
from study.networks.receptive_field import Span


class Part(nn.Module):
    """A module that hands feature maps to its children, and only adds, joins or passes on what they give.

    So it does to planes ``(B, K * |G|, H, W)`` what it does to feature maps ``(B, K, |G|, H, W)``, and
    :func:`study.networks.deploy.deploy` may replace its children by such that exchange planes.
    """

    def sees(self, span: Span) -> Span:
        """The span of its input that it reads for a span of its output; see :mod:`study.networks.receptive_field`."""
        raise NotImplementedError(f"{type(self).__name__} has to say what it sees")


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


def two_convolutions(layers: Layers, first: Callable[..., nn.Module], in_channels: int, channels: int) -> Block:
    """Two 3x3 convolutions, each with batch norm (which makes a bias of their own redundant) and ReLU."""
    return Block(
        first(in_channels, channels, 3, padding=1, bias=False),
        layers.norm(channels),
        layers.relu(),
        layers.conv(channels, channels, 3, padding=1, bias=False),
        layers.norm(channels),
        layers.relu(),
    )


def upsampling(layers: Layers, in_channels: int, channels: int, grid: Grid) -> Block:
    """A transposed convolution that doubles the grid, with batch norm and ReLU."""
    kernel_size, stride, padding = grid.up
    return Block(
        layers.up(in_channels, channels, kernel_size, stride=stride, padding=padding, bias=False),
        layers.norm(channels),
        layers.relu(),
    )
