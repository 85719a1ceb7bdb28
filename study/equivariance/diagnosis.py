"""A doctor for equivariance: where a network, anybody's, stops to turn with its image, why, and what helps.

Every call of every module is watched while the network sees an image and its eight roto-reflections
(:mod:`study.equivariance.calls`). The first call whose inputs still turn with the image, and whose output does not, is
where the network breaks; :mod:`study.equivariance.causes` says why.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from study.equivariance.calls import Layer, channel_norm, copied, side_of, stride_of, watched
from study.equivariance.causes import (
    TOLERANCE,
    examine,
    first_break,
    fitting_sizes,
    is_symmetric,
    with_symmetric_filters,
)
from study.errors import StudyError
from study.groups import P4M


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
    """Find where a network stops being equivariant under the eight roto-reflections, why, and what helps.

    The network is copied, and watched in its own mode, device and precision; float64 tells best.

    Args:
        network: from images to a map of logits ``(B, C, H, W)`` or to scores ``(B, C)``; or to a mapping or a sequence
            that holds one first, or as "out". A map should turn with the image, and scores should stay.
        image: ``(B, C, S, S)``, which should not be symmetric itself.

    Raises:
        StudyError: if the image is not square, or the output is none of these or not finite.
    """
    if image.ndim != 4 or image.shape[-1] != image.shape[-2]:
        raise StudyError(f"the image is {tuple(image.shape)}; give (B, C, S, S), as a quarter turn needs a square")
    network = copied(network)
    symmetric = dict(with_symmetric_filters(network).named_modules())
    layers, norms = [], []

    def first_look(module: nn.Module, name: str, inputs: list[Tensor], output: object) -> None:
        norms.append(([channel_norm(x) for x in inputs], channel_norm(output)))
        layers.append(Layer(name, type(module).__name__, side_of(inputs), strided=stride_of(module)))
        examine(layers[-1], symmetric[name], inputs)

    with watched(network, first_look):
        expected = _output(network(image))
    errors = [torch.zeros((), dtype=expected.dtype, device=expected.device)]
    for g in range(1, P4M.order):
        calls = iter(zip(layers, norms, strict=True))

        def compare(module: nn.Module, name: str, inputs: list[Tensor], output: object, g=g, calls=calls) -> None:
            layer, (arriving, leaving) = next(calls, (None, (None, None)))
            if layer is None or layer.name != name:
                raise StudyError("the network calls other layers when its image is turned; it cannot be compared")
            found = [_error(channel_norm(x), before, g) for x, before in zip(inputs, arriving, strict=True)]
            layer.arriving = max([layer.arriving, *found])
            layer.leaving = max(layer.leaving, _error(channel_norm(output), leaving, g))

        with watched(network, compare):
            turned = _output(network(P4M.transform_image(image, g)))
        right = P4M.transform_image(expected, g) if expected.ndim == 4 else expected
        errors.append((turned - right).abs().max() / expected.abs().max().clamp_min(1e-30))
    result = Diagnosis(torch.stack(errors).double().cpu(), layers=layers)
    if not result.equivariant:
        result.first = first_break(layers)
    result.geometry = [layer for layer in layers if layer.geometry > TOLERANCE]
    plain = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    result.unsymmetric = (sum(not is_symmetric(m) for m in plain), len(plain))
    if result.geometry or (result.first and result.first.leaves_something_over):
        result.sizes = fitting_sizes(network, image)
    return result


def _output(output: object) -> Tensor:
    output = getattr(output, "tensor", output)
    if isinstance(output, Mapping):
        output = output["out"] if "out" in output else next(iter(output.values()), None)
    elif isinstance(output, list | tuple):
        output = output[0] if output else None
    if not isinstance(output, Tensor) or output.ndim not in (2, 4):
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise StudyError(f"the network returns {shape}; it should return (B, C, H, W) or (B, C)")
    if not output.isfinite().all():
        raise StudyError("the network returns NaN or infinity, which cannot be compared; give it weights that do not")
    return output


def _error(turned: Tensor | None, before: Tensor | None, g: int) -> float:
    if turned is None or before is None or turned.shape != before.shape:
        return 0.0
    right = P4M.transform_image(before, g) if before.ndim == 3 else before
    return float((turned - right).abs().max() / before.abs().max().clamp_min(1e-30))
