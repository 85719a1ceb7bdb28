"""Why a call breaks the equivariance of a network, and what helps.

Torch's own convolutions, poolings and resizings are tried by themselves on the input that they had, with filters made
symmetric: what breaks even then is their geometry (a stride that leaves something over, padding on one side, a
resizing), and no weights can mend it.
"""

import math

import torch
from torch import Tensor, nn

from study.equivariance.calls import Layer, copied, side_of, stride_of, watched
from study.gconv.sizes import is_exact
from study.groups import P4M

TOLERANCE = 1e-5
"""Relative: far above rounding, of filters that were computed in float32 too, and far below what breaks."""

SEARCH = 32
"""Pixels up and down that a better size of the image is looked for."""


def first_break(layers: list[Layer]) -> Layer | None:
    """The first call to end that got what turns with the image and gave what does not."""
    for layer in layers:
        if layer.leaving > TOLERANCE and layer.arriving <= TOLERANCE:
            if not layer.why:
                layer.why, layer.remedy = _why_it_breaks(layer)
            return layer
    return None


def _why_it_breaks(layer: Layer) -> tuple[str, str]:
    """Of a call that breaks the network, and whose geometry is right or unknown."""
    kind = layer.kind
    if layer.leaves_something_over:
        return _why_something_is_left(layer.size, **layer.strided)
    if "Conv" in kind:
        return (
            "its filters have no symmetry and there are no orientation channels to turn with",
            "make it a group convolution, give it symmetric filters, or average over the eight roto-reflections",
        )
    if "Norm" in kind:
        return (
            "it scales or shifts the orientation channels of one field apart from each other",
            "normalise a field as one: GroupBatchNorm2d, or BatchNorm3d on (B, K, |G|, H, W)",
        )
    if "Linear" in kind:
        return (
            "its weights tell positions or orientations apart",
            "pool over positions and orientations first, or use a 1 x 1 group convolution",
        )
    return (
        "what it does between its layers tells positions or orientations apart (an interpolation, a slice, a position "
        "embedding, windows that are shifted)",
        "use operations that commute with turning, or average over the eight roto-reflections",
    )


def examine(layer: Layer, module: nn.Module, inputs: list[Tensor]) -> None:
    """Try a module of torch's, its filters symmetric, by itself; fills in ``geometry``, and why if that is wrong."""
    if not isinstance(module, _SPATIAL) or len(inputs) != 1 or inputs[0].ndim != 4 or layer.size is None:
        return
    (x,) = inputs
    if not _is_square(module):
        layer.geometry = math.inf
        layer.why, layer.remedy = "its kernel, stride or padding is not square", "make it so"
        return
    output = module(x)
    scale = output.abs().max().clamp_min(1e-30)
    turned = (module(P4M.transform_image(x, g)) - P4M.transform_image(output, g) for g in range(1, P4M.order))
    layer.geometry = max(float(difference.abs().max() / scale) for difference in turned)
    if layer.geometry > TOLERANCE:
        layer.why, layer.remedy = _why_not_by_itself(layer, module)


_SPATIAL = (
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.LPPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Upsample,
    nn.ZeroPad2d,
    nn.ConstantPad2d,
    nn.ReflectionPad2d,
    nn.ReplicationPad2d,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
)


def _why_not_by_itself(layer: Layer, module: nn.Module) -> tuple[str, str]:
    if isinstance(module, nn.ConvTranspose2d):
        return "output_padding pads one side only", "leave it out, and choose kernel and padding for the size instead"
    if layer.leaves_something_over:
        return _why_something_is_left(layer.size, **layer.strided)
    if isinstance(module, nn.Upsample):
        return "it resizes by a factor that favours one side", "resize by a whole factor"
    if isinstance(module, nn.PixelShuffle | nn.PixelUnshuffle):
        return "its channels are positions, which are not turned with it", "use a transposed group convolution"
    return "it pads one side more than the other", "pad both sides alike, with an odd kernel at stride 1"


def _why_something_is_left(size: int, *, kernel_size: int, stride: int, padding: int) -> tuple[str, str]:
    over = (size + 2 * padding - kernel_size) % stride
    sizes = range(max(1, size - stride), size + stride + 1)
    fitting = [n for n in sizes if is_exact(n, kernel_size=kernel_size, stride=stride, padding=padding)]
    return (
        f"its stride leaves something over: ({size} + 2 * {padding} - {kernel_size}) % {stride} = {over}",
        f"give it a side of {' or '.join(map(str, fitting))}",
    )


def _is_square(module: nn.Module) -> bool:
    pairs = (getattr(module, name, None) for name in ("kernel_size", "stride", "padding", "dilation"))
    if isinstance(module, nn.ZeroPad2d | nn.ConstantPad2d | nn.ReflectionPad2d | nn.ReplicationPad2d):
        return True  # four numbers, and tried anyway
    return all(not isinstance(pair, tuple) or len(set(pair)) == 1 for pair in pairs)


def with_symmetric_filters(network: nn.Module) -> nn.Module:
    """A copy, in which torch's convolutions with square kernels have filters that no roto-reflection changes."""
    network = copied(network)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and _is_square(module):
            module.weight.copy_(_symmetrised(module.weight))
    return network


def _symmetrised(weight: Tensor) -> Tensor:
    """The mean of filters ``(O, K, k, k)`` over the eight roto-reflections."""
    return torch.stack([P4M.transform_image(weight, g) for g in range(P4M.order)]).mean(dim=0)


def is_symmetric(module: nn.Module) -> bool:
    """Whether no roto-reflection changes the filters of a convolution."""
    weight = module.weight
    if weight.shape[-1] != weight.shape[-2]:
        return False
    return bool((weight - _symmetrised(weight)).abs().max() <= TOLERANCE * weight.abs().max())


def fitting_sizes(network: nn.Module, image: Tensor) -> list[int]:
    """The nearest sides below and above on which no strided layer leaves anything over, without computing anything."""
    shapes = copied(network).to("meta")
    side = image.shape[-1]
    fitting = [n for n in range(max(1, side - SEARCH), side + SEARCH + 1) if _fits(shapes, image, n)]
    below = [n for n in fitting if n < side][-1:]
    return below + [n for n in fitting if n > side][:1]


def _fits(network: nn.Module, image: Tensor, side: int) -> bool:
    found = []

    def look(module: nn.Module, name: str, inputs: list[Tensor], output: object) -> None:
        if (strided := stride_of(module)) and (size := side_of(inputs)):
            found.append(is_exact(size, **strided))

    try:
        with watched(network, look):
            network(torch.empty(*image.shape[:2], side, side, dtype=image.dtype, device="meta"))
    except Exception:  # too small an image, or a network that does not run on shapes alone: no advice
        return False
    return all(found)
