"""Convolutions by symmetric filters: equivariant without orientation channels."""

import torch
from torch import Tensor

from study.gconv import filters
from study.gconv.convolution import PlaneGroupConv2d, Transposed


class SymmetricConv2d(PlaneGroupConv2d):
    """From an image to an image by filters that no element of the group changes, without orientation channels.

    ``out(y) = sum_{k,t} f_k(y + t) psi_k(t)`` with ``psi_k(r_g t) = psi_k(t)`` for all g

    It is equivariant at the price of an ordinary convolution, but has no filters with a direction: one weight is
    learned for each orbit of taps, three instead of nine in a 3x3 filter on P4M (as in GMR-Conv, arXiv 2504.02819, and
    the SRE U-Net, 2501.14592).

    Shapes: input ``(B, in_channels, H, W)``, output ``(B, out_channels, H', W')``, weight ``(out, in, orbits)`` in the
    order of :func:`~study.gconv.filters.tap_orbits`. Arguments and errors as for :class:`LiftingConv2d`.
    """

    _expand = staticmethod(filters.symmetric_weight)

    def _weight_shape(self) -> tuple[int, ...]:
        return (self.out_channels, self.in_channels, int(filters.tap_orbits(self.group, self.kernel_size).max()) + 1)

    def _make_taps(self, device: torch.device) -> Tensor:
        return torch.as_tensor(filters.tap_orbits(self.group, self.kernel_size), device=device)

    def fan_in(self) -> float:
        return self.in_channels * self.kernel_size**2

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"{type(self).__name__} expects (B, {self.in_channels}, H, W), not {tuple(x.shape)}")
        return self._convolve(x)

    def _plane_bias(self) -> Tensor | None:
        return self.bias


class SymmetricConvTranspose2d(Transposed, SymmetricConv2d):
    """Up-sampling by symmetric filters: the transposed convolution of :class:`SymmetricConv2d`.

    ``out(z) = sum f_k(y) psi_k(t)`` over all k, y, t with ``z = stride * y + t``; sizes and padding as of
    :class:`GroupConvTranspose2d`.
    """
