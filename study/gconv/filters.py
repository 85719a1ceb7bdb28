"""From the learned filter of a group convolution to the weight of an ordinary ``conv2d``, one equation each.

With ``L_g`` the action of :class:`~study.groups.PlaneGroup` and ``s = r_g t`` the tap at which ``conv2d`` reads:

- Eq. 1, lifting ``out(g, y) = sum_{k,t} f_k(y + r_g t) psi_k(t)``: the weight for output ``g`` is
  ``psi(g^-1 s) = [L_g psi](s)``.
- Eq. 2, group ``out(g, y) = sum_{k,u,t} f_k(gu, y + r_g t) psi_k(u, t)``: the weight from input ``h = gu`` to output
  ``g`` is ``psi(g^-1 h, g^-1 s) = [L_g psi](h, s)``.
- Eq. 3, projection ``out(y) = sum_{k,h,t} f_k(h, y + r_h t) psi_k(t)``: the weight from input ``h`` is
  ``[L_h psi](s)``.
- Symmetric filters, ``psi(g t) = psi(t)`` for all g, are not in the paper: one weight for each orbit of taps.

A weight is thus a copy of the filter's taps in another order. The order is computed once, by letting the group act on
the tap numbers themselves. Expanding a filter is then one gather, differentiable and never cached.
"""

import numpy as np
import torch
from torch import Tensor

from study.groups import PlaneGroup


def image_filter_taps(group: PlaneGroup, kernel_size: int, device: torch.device | None = None) -> Tensor:
    """The tap of ``psi`` that stands at each place of ``L_g psi``, for planar filters: ``(|G|, k, k)``."""
    taps = torch.arange(kernel_size**2, device=device).view(kernel_size, kernel_size)
    return torch.stack([group.transform_image(taps, g) for g in range(group.order)])


def feature_filter_taps(group: PlaneGroup, kernel_size: int, device: torch.device | None = None) -> Tensor:
    """The tap of ``psi`` that stands at each place of ``L_g psi``, for filters on the group: ``(|G|, |G|, k, k)``."""
    taps = torch.arange(group.order * kernel_size**2, device=device)
    taps = taps.view(1, 1, group.order, kernel_size, kernel_size)
    return torch.cat([group.transform_feature(taps, g) for g in range(group.order)], dim=1)[0]


def tap_orbits(group: PlaneGroup, kernel_size: int) -> np.ndarray:
    """The number of the orbit that each tap belongs to: ``(k, k)``, counted from 0.

    Taps are in one orbit if an element of the group maps one to the other. Under P4M a 3x3 filter has three: corners,
    edges and the centre. A 4x4 filter has three too.
    """
    steps = 2 * np.indices((kernel_size, kernel_size)).reshape(2, -1) - (kernel_size - 1)  # from the centre, in halves
    rows, columns = (group.matrices @ steps + kernel_size - 1).swapaxes(0, 1) // 2  # (|G|, k * k) each
    first = (rows * kernel_size + columns).min(axis=0)  # the first tap represents the orbit
    return np.unique(first, return_inverse=True)[1].reshape(kernel_size, kernel_size)


def lifting_weight(psi: Tensor, taps: Tensor) -> Tensor:
    """Eq. 1: filters ``(out, in, k, k)`` -> conv2d weight ``(out * |G|, in, k, k)``."""
    transformed = _gather(psi, taps)  # (out, in, g, k, k)
    return transformed.transpose(1, 2).flatten(0, 1)  # (out * g, in, k, k)


def group_weight(psi: Tensor, taps: Tensor) -> Tensor:
    """Eq. 2: filters ``(out, in, |G|, k, k)`` -> conv2d weight ``(out * |G|, in * |G|, k, k)``."""
    transformed = _gather(psi, taps)  # (out, in, g, h, k, k)
    return transformed.transpose(1, 2).flatten(2, 3).flatten(0, 1)  # (out * g, in * h, k, k)


def projection_weight(psi: Tensor, taps: Tensor) -> Tensor:
    """Eq. 3: filters ``(out, in, k, k)`` -> conv2d weight ``(out, in * |G|, k, k)``."""
    return _gather(psi, taps).flatten(1, 2)  # (out, in, h, k, k) -> (out, in * h, k, k)


def symmetric_weight(psi: Tensor, orbits: Tensor) -> Tensor:
    """Symmetric filters: one value per orbit ``(out, in, orbits)`` -> conv2d weight ``(out, in, k, k)``."""
    return _gather(psi, orbits)


def _gather(psi: Tensor, taps: Tensor) -> Tensor:
    """``psi`` with its taps in the order of ``taps``: ``(out, in, *taps.shape)``."""
    # index_select, not psi[..., taps]: on a CPU its backward pass is three times faster
    return psi.flatten(2).index_select(2, taps.flatten()).unflatten(2, taps.shape)
