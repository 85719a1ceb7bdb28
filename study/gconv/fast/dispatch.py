"""Whether a group convolution takes its Fourier form, and that form; :mod:`study.gconv.layers` has the equation.

A layer asks :func:`runs` in every call, and computes by :func:`run` or, where that is not the faster one, as an
ordinary convolution of planes.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from study.gconv.fast import fourier, operators, rules


def runs(layer: nn.Module, f: Tensor) -> bool:
    """Whether a :class:`~study.gconv.GroupConv2d` takes :func:`run` for a feature map ``(B, K, |G|, H, W)``."""
    dtype = _product_dtype(f)
    # the dense form raises torch's error for an input that is too small, or of another dtype than the filter
    valid = _has_output(layer, f) and (layer.weight.dtype == dtype or _casts(f))
    # torch.compile does not support functions with a forward-mode derivative, which torch.func needs in the operators
    compiles = not (torch.compiler.is_compiling() and operators.is_transformed())
    training = torch.is_grad_enabled() and (layer.weight.requires_grad or f.requires_grad)
    positions = f.shape[0] * f.shape[3] * f.shape[4]
    return valid and compiles and prefers_fourier(layer, f.device.type, dtype, positions, training)


def run(layer: nn.Module, f: Tensor) -> Tensor:
    """Eq. 2 by the Fourier transform of the point group: ``(B, K, |G|, H, W)`` -> ``(B, O, |G|, H', W')``."""
    dtype = _product_dtype(f)
    f, psi, padding, group = f.to(dtype), layer.weight.to(dtype), layer.padding, layer.group.name
    if layer.padding_mode != "zeros":
        f, padding = F.pad(f.flatten(1, 2), 4 * [padding], mode=layer.padding_mode).unflatten(1, f.shape[1:3]), 0
    if layer.transposed:
        out = operators.convolve_transposed(f, psi, group, layer.stride, padding)
    else:
        out = operators.convolve(f, psi, group, padding)
    return out if layer.bias is None else out + layer.bias.to(dtype).view(-1, 1, 1, 1)


def prefers_fourier(
    layer: nn.Module, device: str, dtype: torch.dtype, positions: float = math.inf, training: bool = True
) -> bool:
    """Whether a layer takes the Fourier form; arguments as of :func:`study.gconv.fast.rules.fourier_is_faster`."""
    if layer.algorithm == "dense" or layer.group.order == 1 or (layer.stride != 1 and not layer.transposed):
        return False
    return layer.algorithm == "fourier" or rules.fourier_is_faster(layer, device, dtype, positions, training)


def forms(network: nn.Module, device: str, dtype: torch.dtype) -> str:
    """The forms of a network's group convolutions in a training, for the provenance of a result."""
    layers = [layer for layer in network.modules() if hasattr(layer, "algorithm")]
    if not layers:
        return "no group convolutions"
    fast = [layer for layer in layers if prefers_fourier(layer, device, dtype)]
    backend = fourier.backend(device, dtype, layers[0].group)
    return f"{len(fast)} of {len(layers)} group convolutions by Fourier ({backend})"


def _casts(f: Tensor) -> bool:
    """Whether autocast decides the dtype of the products."""
    device = f.device.type
    casts = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return casts and f.dtype.is_floating_point and f.dtype != torch.float64


def _product_dtype(f: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype(f.device.type) if _casts(f) else f.dtype


def _has_output(layer: nn.Module, f: Tensor) -> bool:
    side = min(f.shape[-2:])
    if layer.transposed:
        return side > 0 and (side - 1) * layer.stride - 2 * layer.padding + layer.kernel_size > 0
    return side > 0 and side + 2 * layer.padding >= layer.kernel_size
