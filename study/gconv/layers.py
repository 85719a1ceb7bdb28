"""Group-equivariant layers as ordinary torch modules.

Images are ``(B, C, H, W)`` and functions on the group ``(B, K, |G|, H, W)``. Channels always count fields, not planes.
Every layer is equivariant exactly, whatever its weights; a strided convolution or pooling on sizes with
``(size + 2 * padding - kernel_size) % stride == 0``, where its stride leaves no remainder (see
:mod:`study.gconv.sizes`). The networks of :mod:`study.networks` check the size; a single layer does not.
"""

import torch
from torch import Tensor, nn

from study.gconv import filters
from study.gconv.convolution import PlaneGroupConv2d, Transposed
from study.gconv.fast import dispatch

ALGORITHMS = ("auto", "dense", "fourier")


class LiftingConv2d(PlaneGroupConv2d):
    """The first layer: from an image to a feature map on the group (Eq. 1, Z2 -> G).

    ``out(g, y) = sum_{k,t} f_k(y + r_g t) psi_k(t)``

    Shapes: input ``(B, in_channels, H, W)``, output ``(B, out_channels, |G|, H', W')``, weight ``(out, in, k, k)``.

    Args:
        in_channels: channels of the image.
        out_channels: fields of the output.
        kernel_size: side of the square filter, in pixels.
        group: one of :data:`study.groups.GROUPS`.
        stride, padding: in pixels, as in ``nn.Conv2d``.
        bias: learn one bias per field.
        padding_mode: "zeros", "reflect", "replicate" or "circular", as in ``nn.Conv2d``; all are equivariant.

    Raises:
        ValueError: if an argument is out of range, or the input has another number of axes or channels.
    """

    _expand = staticmethod(filters.lifting_weight)

    def fan_in(self) -> float:
        return self.in_channels * self.kernel_size**2

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"LiftingConv2d expects (B, {self.in_channels}, H, W), not {tuple(x.shape)}")
        return self._fields(self._convolve(x))


class GroupConv2d(PlaneGroupConv2d):
    """From a feature map on the group to another (Eq. 2, G -> G).

    ``out(g, y) = sum_{k,u,t} f_k(gu, y + r_g t) psi_k(u, t)``

    Shapes: input ``(B, in_channels, |G|, H, W)``, output ``(B, out_channels, |G|, H', W')``, weight
    ``(out, in, |G|, k, k)`` = ``psi_k(u, t)``. Arguments and errors as for :class:`LiftingConv2d`, and:

    Args:
        algorithm: the form of the computation, with the same result: "dense", as an ordinary convolution of planes
            (:mod:`study.gconv.filters`); "fourier", by the Fourier transform of the point group
            (:mod:`study.gconv.fast.fourier`), for which the stride must be 1 and the group not Z2 (otherwise it is
            dense); or "auto", the faster of the two by measured rules (:mod:`study.gconv.fast.dispatch`). The attribute
            may be changed later. ``torch.func`` transforms either form; under ``torch.compile`` such a transform makes
            it dense.
    """

    _expand = staticmethod(filters.group_weight)

    def __init__(self, *args, algorithm: str = "auto", **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.algorithm = algorithm

    @property
    def algorithm(self) -> str:
        return self._algorithm

    @algorithm.setter
    def algorithm(self, name: str) -> None:
        if name not in ALGORITHMS:
            raise ValueError(f"algorithm is {name!r}; give one of {', '.join(ALGORITHMS)}")
        self._algorithm = name

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", algorithm={self.algorithm!r}" if self.algorithm != "auto" else "")

    def _weight_shape(self) -> tuple[int, ...]:
        return (self.out_channels, self.in_channels, self.group.order, self.kernel_size, self.kernel_size)

    def _make_taps(self, device: torch.device) -> Tensor:
        return filters.feature_filter_taps(self.group, self.kernel_size, device)

    def forward(self, f: Tensor) -> Tensor:
        planes = self._planes(f)
        if dispatch.runs(self, f):  # the same by the Fourier transform of the point group, where that is faster
            return dispatch.run(self, f)
        return self._fields(self._convolve(planes))


class GroupConvTranspose2d(Transposed, GroupConv2d):
    """Equivariant up-sampling: the transposed convolution of Eq. 2.

    ``out(g, z) = sum f_k(gu, y) psi_k(u, t)`` over all k, u, y, t with ``z = stride * y + r_g t``

    Shapes: input ``(B, in_channels, |G|, H, W)``, output ``(B, out_channels, |G|, H', W')`` with
    ``H' = (H - 1) * stride - 2 * padding + kernel_size``, weight ``(out, in, |G|, k, k)``. There is no
    ``output_padding``: it pads one side only, which breaks the symmetry. As in torch, padding is with zeros.
    """


class ProjectionConv2d(PlaneGroupConv2d):
    """The last layer, new in the paper: from a feature map on the group to an image (Eq. 3, G -> Z2).

    ``out(y) = sum_{k,h,t} f_k(h, y + r_h t) psi_k(t)``

    Shapes: input ``(B, in_channels, |G|, H, W)``, output ``(B, out_channels, H', W')``, weight ``(out, in, k, k)``.
    Unlike pooling over orientations it can weigh the two sides of an oriented feature differently.
    """

    _expand = staticmethod(filters.projection_weight)

    def forward(self, f: Tensor) -> Tensor:
        return self._convolve(self._planes(f))

    def _plane_bias(self) -> Tensor | None:
        return self.bias


class GroupBatchNorm2d(nn.BatchNorm3d):
    """Batch normalisation of ``(B, K, |G|, H, W)`` with one mean and variance per field, over B, |G|, H and W.

    Statistics per plane would break equivariance: turning the input permutes the planes, but not their learned values
    (running moments, scale, shift).
    """
