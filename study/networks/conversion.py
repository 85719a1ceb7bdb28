"""Weights from one implementation to the other: between layers, between networks, and between checkpoints.

A convolution is carried over by its filter ``psi``, in the form that :mod:`study.gconv` learns it. From escnn this is
exact, up to the float32 in which escnn computes its basis; to escnn it is exact in the full basis, and in the default
one the least-squares projection. Elements keep their places: escnn orders them as :mod:`study.groups` does.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from study.errors import StudyError
from study.groups import APPROXIMATE_GROUPS
from study.networks.checkpoint import load_checkpoint, rebuild, save_checkpoint
from study.networks.network import Network
from study.networks.registry import from_values
from study.tasks import activation

GROUPY_ELEMENTS = [0, 1, 2, 3, 6, 5, 4, 7]
"""The place of each of GrouPy's P4M elements here. GrouPy mirrors the other axis, after rotating, which exchanges 4 and
6: a GrouPy filter ``(out, in, 8, k, k)`` becomes ours by ``filter[:, :, GROUPY_ELEMENTS]``, and a feature map
``(B, K, 8, H, W)`` in the same way. (P4 has the same order in both.)"""


def copy_filter(source: nn.Module, target: nn.Module) -> float:
    """Give the convolution ``target`` the filter and the bias of ``source``; each may be of torch, native or on escnn.

    Returns:
        The residual ``|psi - psi'| / |psi|``; 0 up to rounding unless ``target`` is on escnn's default basis.

    Raises:
        StudyError: if the two have filters of different shapes, or only one has a bias.
    """
    psi, bias = _read(source)
    wanted, has_bias = _read(target)
    if _shape(psi) != _shape(wanted) or (bias is None) != (has_bias is None):
        shapes = f"a filter of shape {_shape(psi)} does not fit a {type(target).__name__} of {_shape(wanted)}"
        raise StudyError(f"{shapes}, or one of them has a bias; convert between equal architectures")
    _write(target, psi, bias)
    wanted, found = (filter_.detach().double().reshape(wanted.shape) for filter_ in (psi, _read(target)[0]))
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-300))  # a filter may be all zeros


def copy_weights(source: Network, target: Network) -> dict[str, float]:
    """Give a network the weights and the batch norm statistics of another of the same architecture, on any layers.

    Returns:
        The residual of each convolution, by its name in the network.

    Raises:
        StudyError: if the two differ in group, channels, depth or kernels.
    """
    layers = dict(source.named_modules())
    residuals = {}
    for name, layer in target.named_modules():
        if _is_convolution(layer):
            if name not in layers:
                raise StudyError(f"the source has no layer {name}; convert between equal architectures")
            residuals[name] = copy_filter(layers[name], layer)
        elif _is_norm(layer) and name in layers:  # a norm on escnn holds another of torch, which has no counterpart
            _moments(layer).load_state_dict(_moments(layers[name]).state_dict())
    return residuals


@dataclass(frozen=True)
class Converted:
    """A network in its new form, and how far it is from the old one.

    Attributes:
        residuals: of the filters, by layer.
        difference: the largest difference of foreground probabilities on a batch of noise.
    """

    network: Network
    residuals: dict[str, float]
    difference: float


def convert_checkpoint(path: Path | str, output: Path | str, *, to: str, basis: str | None = None) -> Converted:
    """Write the checkpoint ``path`` as one of another implementation, for
    :func:`~study.networks.checkpoint.load_model`.

    Args:
        to: "native" or "escnn".
        basis: of escnn: "full" or "escnn".

    Raises:
        StudyError: if the file is missing or is not a checkpoint, the native layers lack its group, or escnn is needed
            and not installed.
    """
    checkpoint = load_checkpoint(path)
    source = rebuild(checkpoint, path)
    architecture = from_values(checkpoint["architecture"])
    if not hasattr(architecture, "implementation"):
        raise StudyError(f"{path} is of a network that has no layers on escnn; nothing was written")
    if to == "native" and architecture.group in APPROXIMATE_GROUPS:
        raise StudyError(f"{path} is of the group {architecture.group}, which only escnn has; nothing was written")
    architecture = replace(architecture, implementation=to, basis=basis)
    target = architecture.build()
    residuals = copy_weights(source, target)
    difference = _difference(source, target.eval())
    step = {"from": str(path), "architecture": checkpoint["architecture"], "difference": difference}
    provenance = {key: value for key, value in checkpoint.items() if key not in ("architecture", "weights")}
    save_checkpoint(
        output,
        architecture,
        target.state_dict(),
        **provenance | {"converted": [*checkpoint.get("converted", []), step]},
    )
    return Converted(target, residuals, difference)


@torch.no_grad()
def _difference(one: Network, other: Network) -> float:
    side = one.sizes.at_least(64)
    noise = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    both = one(noise), other(noise)
    first, second = map(activation.probabilities, both)
    return float((first - second).abs().max())


def _is_convolution(layer: nn.Module) -> bool:
    # those on escnn are told by what they can do, so that nothing here imports escnn
    return hasattr(layer, "set_filter") or (hasattr(layer, "kernel_size") and hasattr(layer, "weight"))


def _read(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """The filter ``psi`` and the bias per field."""
    if hasattr(layer, "set_filter"):
        return layer.filter(), layer.field_bias()
    transposed = isinstance(layer, nn.ConvTranspose2d)  # torch has (in, out, k, k) there
    return layer.weight.transpose(0, 1) if transposed else layer.weight, layer.bias


@torch.no_grad()
def _write(layer: nn.Module, psi: Tensor, bias: Tensor | None) -> None:
    if hasattr(layer, "set_filter"):
        layer.set_filter(psi)
        layer.set_field_bias(bias)
        return
    own, own_bias = _read(layer)
    own.copy_(psi.reshape(own.shape))
    if bias is not None:
        own_bias.copy_(bias)


def _shape(psi: Tensor) -> tuple[int, ...]:
    """Without the axis of a group of one element, which torch's own layers lack."""
    return tuple(psi.shape[:2]) + tuple(n for n in psi.shape[2:-2] if n > 1) + tuple(psi.shape[-2:])


def _is_norm(layer: nn.Module) -> bool:
    return hasattr(layer, "moments") or isinstance(layer, nn.modules.batchnorm._BatchNorm)


def _moments(layer: nn.Module) -> nn.Module:
    return getattr(layer, "moments", layer)
