"""How far a network sees, followed through its layers from an output pixel back to the input.

A span is the range of pixels, ``first`` to ``last`` along either axis, that a feature map is read at. What a layer
reads for a span of its output is a span of its input:

- a convolution or pooling (pixel ``y`` sees ``stride * y - padding + t``, ``0 <= t < kernel``) reads
  ``stride * first - padding`` to ``stride * last - padding + kernel - 1``;
- a transposed convolution (pixel ``y`` reaches ``stride * y - padding + t``)
  ``ceil((first + padding - kernel + 1) / stride)`` to ``floor((last + padding) / stride)``;
- layers one after the other read what the first one reads for what the others read;
- what acts on every pixel alone reads the same span;
- any other module says it itself, by a method ``sees(span) -> span``.
"""

from typing import NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from study.errors import StudyError
from study.gconv import OrientationPool2d

PIXELWISE = (
    *(nn.Identity, nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, _DropoutNd),
    OrientationPool2d,
)
"""What acts on every pixel alone."""


class Span(NamedTuple):
    """The pixels from ``first`` to ``last``, both included."""

    first: int
    last: int

    def __or__(self, other: "Span") -> "Span":
        return Span(min(self.first, other.first), max(self.last, other.last))


def seen(module: nn.Module, span: Span) -> Span:
    """The span of its input that a layer, or a part of a network, reads for a span of its output.

    Raises:
        StudyError: for a module that may see the whole image, or of which nothing is known.
    """
    if hasattr(module, "sees"):
        return module.sees(span)
    if isinstance(module, nn.Sequential):
        for layer in reversed(module):
            span = seen(layer, span)
        return span
    if hasattr(module, "kernel_size") and getattr(module, "padding_mode", "zeros") != "circular":
        return _seen_by_window(module, span, -2) | _seen_by_window(module, span, -1)
    if isinstance(module, PIXELWISE) or (isinstance(module, _BatchNorm) and module.running_mean is not None):
        return span
    raise StudyError(
        f"nobody knows how far {module} sees, so the network cannot be tiled; "
        "take layers that see a few pixels, or give the module a method sees(span)"
    )


def radius(network: nn.Module, period: int) -> int:
    """How far, in pixels along either axis, an output pixel can see: it depends on no input pixel farther away.

    Args:
        network: that reads the same pixels from all places that are equal modulo the period.
        period: in pixels, the product of its strides.
    """
    spans = {place: seen(network, Span(place, place)) for place in range(period)}
    return max(max(place - span.first, span.last - place) for place, span in spans.items())


def _seen_by_window(layer: nn.Module, span: Span, axis: int) -> Span:
    values = (layer.kernel_size, layer.stride, getattr(layer, "padding", 0), getattr(layer, "dilation", 1))
    kernel, stride, padding, dilation = (v[axis] if isinstance(v, tuple) else v for v in values)
    reach = dilation * (kernel - 1)
    if isinstance(padding, str):  # torch's words for it
        padding = {"same": reach // 2, "valid": 0}[padding]
    if getattr(layer, "transposed", False):
        return Span(-((reach - padding - span.first) // stride), (span.last + padding) // stride)
    return Span(stride * span.first - padding, stride * span.last - padding + reach)
