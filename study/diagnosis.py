"""A doctor for equivariance: where a network, anybody's, stops to turn with its image, why, and what helps.

Every call of every module is watched while the network sees an image and its eight roto-reflections. What is compared
is the norm over the channels at each position: any orthogonal change of the channels leaves it as it is, so it turns
with the image whether a layer has no orientation channels, those of regular representations, in any layout, or others.
The first call whose inputs still turn with the image, and whose output does not, is where the network breaks.

Apart from that, each of torch's own convolutions, poolings and resizings is tried by itself on the input that it had,
with its filters made symmetric: what breaks even then is its geometry (a stride that leaves something over, padding on
one side, a resizing), and no weights can mend it.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from study.errors import StudyError
from study.gconv.sizes import is_exact
from study.groups import P4M

TOLERANCE = 1e-5
"""Relative: far above rounding, of filters that were computed in float32 too, and far below what breaks."""

SEARCH = 32
"""Pixels up and down that a better size of the image is looked for."""


@dataclass
class Layer:
    """One call of one module.

    Attributes:
        name: of the module in the network; empty for the network itself.
        kind: its class.
        size: side of its input in pixels; None where that is no map.
        arriving, leaving: errors of its inputs and of its output, relative; 0 where they are not compared.
        geometry: error by itself with symmetric filters; NaN where that is not tried.
        why, remedy: why it breaks, and what helps; empty if it does not.
        strided: its kernel (with dilation), stride and padding; None if it has none, or up-samples.
    """

    name: str
    kind: str
    size: int | None
    arriving: float = 0.0
    leaving: float = 0.0
    geometry: float = math.nan
    why: str = ""
    remedy: str = ""
    strided: dict[str, int] | None = None

    @property
    def leaves_something_over(self) -> bool:
        """Whether its stride does, on the side of its input."""
        return bool(self.strided and self.size) and not is_exact(self.size, **self.strided)

    def __str__(self) -> str:
        at = f" on {self.size} x {self.size}" if self.size else ""
        return f"{self.name or 'the network itself'} ({self.kind}){at}: {self.why}; {self.remedy}"


@dataclass
class Diagnosis:
    """What :func:`diagnose` found.

    Attributes:
        errors: of the output under each of the eight roto-reflections, relative, ``(8,)``.
        first: where the network breaks; None if nowhere.
        geometry: the calls that would break it whatever their weights, in their order.
        unsymmetric: how many of torch's convolutions have filters without symmetry, of how many.
        sizes: sides near the image's on which no stride leaves anything over; empty if there are none known.
        layers: every call of every module, in the order in which they end.
    """

    errors: Tensor
    first: Layer | None = None
    geometry: list[Layer] = field(default_factory=list)
    unsymmetric: tuple[int, int] = (0, 0)
    sizes: list[int] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)

    @property
    def equivariant(self) -> bool:
        return bool(self.errors.max() <= TOLERANCE)

    def __str__(self) -> str:
        lines = ["error under each roto-reflection: " + " ".join(f"{error:.0e}" for error in self.errors.tolist())]
        if self.equivariant:
            lines.append("It is equivariant.")
        elif self.first:
            lines.append(f"It breaks first at {self.first}.")
        if self.geometry:
            lines.append("Whatever the weights, these break it:")
            lines += [f"  {layer}" for layer in self.geometry]
        if self.sizes:
            lines.append(f"On images of side {' or '.join(map(str, self.sizes))} no stride leaves anything over.")
        broken, convolutions = self.unsymmetric
        if broken and not self.equivariant:
            lines.append(f"{broken} of {convolutions} ordinary convolutions have filters without symmetry.")
        return "\n".join(lines)


@torch.no_grad()
def diagnose(network: nn.Module, image: Tensor) -> Diagnosis:
    """Find where a network stops to be equivariant under the eight roto-reflections, why, and what helps.

    The network is copied, and watched in its own mode, device and precision; float64 tells best.

    Args:
        network: from images to a map of logits ``(B, C, H, W)`` or to scores ``(B, C)``; or to a mapping or a sequence
            that holds one first, or as "out". A map should turn with the image, and scores should stay.
        image: ``(B, C, S, S)``, which should not be symmetric itself.

    Raises:
        StudyError: if the image is not square, or the output is none of these.
    """
    if image.ndim != 4 or image.shape[-1] != image.shape[-2]:
        raise StudyError(f"the image is {tuple(image.shape)}; give (B, C, S, S), as a quarter turn needs a square")
    network = _copied(network)
    symmetric = dict(_with_symmetric_filters(network).named_modules())
    layers, norms = [], []

    def first_look(module: nn.Module, name: str, inputs: list[Tensor], output: object) -> None:
        norms.append(([_norm(x) for x in inputs], _norm(output)))
        layers.append(Layer(name, type(module).__name__, _side(inputs), strided=_strided(module)))
        _examine(layers[-1], symmetric[name], inputs)

    with _watched(network, first_look):
        expected = _output(network(image))
    errors = [torch.zeros((), dtype=expected.dtype, device=expected.device)]
    for g in range(1, P4M.order):
        calls = iter(zip(layers, norms, strict=True))

        def compare(module: nn.Module, name: str, inputs: list[Tensor], output: object, g=g, calls=calls) -> None:
            layer, (arriving, leaving) = next(calls, (None, (None, None)))
            if layer is None or layer.name != name:
                raise StudyError("the network calls other layers when its image is turned; it cannot be compared")
            found = [_error(_norm(x), before, g) for x, before in zip(inputs, arriving, strict=True)]
            layer.arriving = max([layer.arriving, *found])
            layer.leaving = max(layer.leaving, _error(_norm(output), leaving, g))

        with _watched(network, compare):
            turned = _output(network(P4M.transform_image(image, g)))
        right = P4M.transform_image(expected, g) if expected.ndim == 4 else expected
        errors.append((turned - right).abs().max() / expected.abs().max().clamp_min(1e-30))
    result = Diagnosis(torch.stack(errors).double().cpu(), layers=layers)
    if not result.equivariant:
        result.first = _first_break(layers)
    result.geometry = [layer for layer in layers if layer.geometry > TOLERANCE]
    plain = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    result.unsymmetric = (sum(not _is_symmetric(m) for m in plain), len(plain))
    if result.geometry or (result.first and result.first.leaves_something_over):
        result.sizes = _fitting_sizes(network, image)
    return result


# --- watching ---


def _copied(network: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(network)
    except RuntimeError:  # in eval mode, escnn keeps filters that cannot be copied
        modes = [module.training for module in network.modules()]
        copied = copy.deepcopy(network.train())
        for one in (network, copied):
            for module, mode in zip(one.modules(), modes, strict=True):
                if module.training != mode:  # from the outside inwards, so that each ends in its own
                    module.train(mode)
        return copied


@contextmanager
def _watched(network: nn.Module, look: Callable[[nn.Module, str, list[Tensor], object], None]) -> Iterator[None]:
    """``look`` is told of every call of every module as it ends: module, name, the tensors given, what it returned."""
    given, handles = [], []  # a stack: calls are nested

    def before(module, arguments, options) -> None:
        tensors = [getattr(x, "tensor", x) for x in (*arguments, *options.values())]  # escnn wraps its tensors
        # copies: an activation in place overwrites what is looked at when the call ends
        given.append([x.clone() for x in tensors if isinstance(x, Tensor) and x.is_floating_point()])

    for name, module in network.named_modules():

        def after(module, arguments, options, output, name=name) -> None:
            look(module, name, given.pop(), getattr(output, "tensor", output))

        handles += [
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after, with_kwargs=True),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _output(output: object) -> Tensor:
    output = getattr(output, "tensor", output)
    if isinstance(output, Mapping):
        output = output["out"] if "out" in output else next(iter(output.values()), None)
    elif isinstance(output, list | tuple):
        output = output[0] if output else None
    if not isinstance(output, Tensor) or output.ndim not in (2, 4):
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise StudyError(f"the network returns {shape}; it should return (B, C, H, W) or (B, C)")
    return output


def _norm(x: object) -> Tensor | None:
    """Over the channels: ``(B, H, W)`` of a map, ``(B,)`` of scores; None of what is neither.

    Maps are ``(B, C, H, W)``, ``(B, K, |G|, H, W)``, channels last ``(B, H, W, C)``, or tokens ``(B, H W, C)`` with or
    without a leading one for the class.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return None
    if x.ndim == 2:
        return x.norm(dim=1)
    if x.ndim == 3:
        side = math.isqrt(x.shape[1])
        if side**2 not in (x.shape[1], x.shape[1] - 1) or side < 2:
            return None
        return x[:, -(side**2) :].norm(dim=2).unflatten(1, (side, side))  # (B, H W) -> (B, H, W)
    if x.ndim == 4 and x.shape[2] == x.shape[3]:
        return x.norm(dim=1)
    if x.ndim == 4 and x.shape[1] == x.shape[2]:
        return x.norm(dim=3)
    if x.ndim == 5 and x.shape[3] == x.shape[4]:
        return x.flatten(1, 2).norm(dim=1)  # (B, K |G|, H, W)
    return None


def _error(turned: Tensor | None, before: Tensor | None, g: int) -> float:
    if turned is None or before is None or turned.shape != before.shape:
        return 0.0
    right = P4M.transform_image(before, g) if before.ndim == 3 else before
    return float((turned - right).abs().max() / before.abs().max().clamp_min(1e-30))


def _side(inputs: list[Tensor]) -> int | None:
    norm = _norm(inputs[0]) if inputs else None
    return norm.shape[-1] if norm is not None and norm.ndim == 3 else None


# --- why ---


def _first_break(layers: list[Layer]) -> Layer | None:
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


def _examine(layer: Layer, module: nn.Module, inputs: list[Tensor]) -> None:
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


def _strided(module: nn.Module) -> dict[str, int] | None:
    """Kernel (with its dilation), stride and padding of whatever has them as numbers and does not up-sample."""
    if "Transpose" in type(module).__name__ or "Unpool" in type(module).__name__:
        return None
    values = []
    for name, otherwise in (("kernel_size", None), ("stride", None), ("padding", 0), ("dilation", 1)):
        value = getattr(module, name, otherwise)
        value = value[0] if isinstance(value, list | tuple) else value
        if not isinstance(value, int):
            return None
        values.append(value)
    kernel, stride, padding, dilation = values
    return {"kernel_size": dilation * (kernel - 1) + 1, "stride": stride, "padding": padding}


def _is_square(module: nn.Module) -> bool:
    pairs = (getattr(module, name, None) for name in ("kernel_size", "stride", "padding", "dilation"))
    if isinstance(module, nn.ZeroPad2d | nn.ConstantPad2d | nn.ReflectionPad2d | nn.ReplicationPad2d):
        return True  # four numbers, and tried anyway
    return all(not isinstance(pair, tuple) or len(set(pair)) == 1 for pair in pairs)


def _with_symmetric_filters(network: nn.Module) -> nn.Module:
    """A copy, in which torch's convolutions with square kernels have filters that no roto-reflection changes."""
    network = _copied(network)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and _is_square(module):
            module.weight.copy_(_symmetrised(module.weight))
    return network


def _symmetrised(weight: Tensor) -> Tensor:
    """The mean of filters ``(O, K, k, k)`` over the eight roto-reflections."""
    return torch.stack([P4M.transform_image(weight, g) for g in range(P4M.order)]).mean(dim=0)


def _is_symmetric(module: nn.Module) -> bool:
    weight = module.weight
    if weight.shape[-1] != weight.shape[-2]:
        return False
    return bool((weight - _symmetrised(weight)).abs().max() <= TOLERANCE * weight.abs().max())


def _fitting_sizes(network: nn.Module, image: Tensor) -> list[int]:
    """The nearest sides below and above on which no strided layer leaves anything over, without computing anything."""
    shapes = _copied(network).to("meta")
    side = image.shape[-1]
    fitting = [n for n in range(max(1, side - SEARCH), side + SEARCH + 1) if _fits(shapes, image, n)]
    below = [n for n in fitting if n < side][-1:]
    return below + [n for n in fitting if n > side][:1]


def _fits(network: nn.Module, image: Tensor, side: int) -> bool:
    found = []

    def look(module: nn.Module, name: str, inputs: list[Tensor], output: object) -> None:
        if (strided := _strided(module)) and (size := _side(inputs)):
            found.append(is_exact(size, **strided))

    try:
        with _watched(network, look):
            network(torch.empty(*image.shape[:2], side, side, dtype=image.dtype, device="meta"))
    except Exception:  # too small an image, or a network that does not run on shapes alone: no advice
        return False
    return all(found)
