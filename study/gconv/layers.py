"""Group-equivariant layers as ordinary torch modules.

Images are ``(B, C, H, W)`` and functions on the group ``(B, K, |G|, H, W)``. Channels always count fields, not planes.
Every layer is equivariant exactly, whatever its weights; a strided convolution or pooling on sizes with
``(size + 2 * padding - kernel_size) % stride == 0``, where its stride leaves nothing over (see
:mod:`study.equivariance`). The networks of :mod:`study.networks.unet` check that; a single layer computes what it is
asked.
"""

import math
from collections.abc import Callable
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from study.gconv import filters, pooling
from study.gconv.fast import operators, planar, rules
from study.groups import PlaneGroup

ALGORITHMS = ("auto", "dense", "fourier")


def check_arguments(*, padding_mode: str, padding_modes: tuple[str, ...], **sizes: int) -> None:
    """Raise a ValueError that names the first size that is no integer or too small, or an unknown padding mode."""
    for name, value in sizes.items():
        least = 0 if name == "padding" else 1
        if not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name} is {value!r}; give an integer of at least {least}")
    if padding_mode not in padding_modes:
        raise ValueError(f"padding_mode is {padding_mode!r}; give one of {', '.join(padding_modes)}")


class PlaneGroupConv2d(nn.Module):
    """What all convolutions here share: one learned filter, its table of taps, and one bias per field."""

    plain = nn.Conv2d
    padding_modes = ("zeros", "reflect", "replicate", "circular")
    _expand: Callable[[Tensor, Tensor], Tensor]
    """From the filter and the table to the weight: one of the functions of :mod:`study.gconv.filters`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        group: PlaneGroup,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        if not isinstance(group, PlaneGroup):
            raise TypeError(f"group is {group!r}; give one of study.groups.Z2, P2, PM, PMM, P4, P4M")
        check_arguments(
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            padding_mode=padding_mode,
            padding_modes=self.padding_modes,
        )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.group = group
        self.stride = stride
        self.padding = padding
        self.padding_mode = padding_mode
        self.weight = nn.Parameter(torch.empty(self._weight_shape()))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.register_buffer("_taps", None, persistent=False)
        self._place_taps()
        # of the whole layer, not in _load_from_state_dict: a parametrised weight is loaded after that
        self.register_load_state_dict_post_hook(PlaneGroupConv2d._place_taps)
        self.reset_parameters()

    def _weight_shape(self) -> tuple[int, ...]:
        """A planar filter; the layers that take a feature map to a feature map override it."""
        return (self.out_channels, self.in_channels, self.kernel_size, self.kernel_size)

    def _make_taps(self, device: torch.device) -> Tensor:
        return filters.image_filter_taps(self.group, self.kernel_size, device)

    def _place_taps(self, *_) -> None:
        """Make the table where the weight is: anew, as ``to_empty`` and the meta device leave garbage in it."""
        with torch.inference_mode(False):  # it may be used in a training later
            self._taps = self._make_taps(self.weight.device)

    def fan_in(self) -> float:
        """The number of products summed in one output value, that is, the fan-in of the expanded filter."""
        return self.in_channels * self.group.order * self.kernel_size**2

    def reset_parameters(self) -> None:
        """Draw from U(-b, b), b = 1 / sqrt(fan-in), as ``nn.Conv2d`` does, by the expanded filter's fan-in."""
        bound = 1 / math.sqrt(self.fan_in())
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def expanded_weight(self) -> Tensor:
        """The weight of the ordinary convolution of planes that this layer is."""
        weight, taps = self.weight, self._taps
        if taps.device != weight.device:  # somebody put another weight in place, as functional_call does
            taps = self._make_taps(weight.device)
        return self._expand(weight, taps)

    @torch.no_grad()
    def export(self) -> nn.Conv2d | nn.ConvTranspose2d:
        """torch's own convolution that does to planes what this layer, as it is now, does to fields.

        Its channels are the planes, field by field, as in ``f.flatten(1, 2)``. Its weight is a copy, and would not stay
        equivariant in a training.
        """
        weight, bias = self.expanded_weight(), self._plane_bias()
        planes = weight.shape[:2] if self.plain is nn.ConvTranspose2d else weight.shape[1::-1]  # in, out
        options = {"stride": self.stride, "padding": self.padding, "padding_mode": self.padding_mode}
        options |= {"bias": bias is not None, "device": weight.device, "dtype": weight.dtype}
        # without drawing weights first, which would change what the caller draws next
        conv = nn.utils.skip_init(self.plain, *planes, self.kernel_size, **options)
        conv.weight.copy_(weight)
        if bias is not None:
            conv.bias.copy_(bias)
        return conv.train(self.training)

    def _convolve(self, planes: Tensor) -> Tensor:
        """``(B, in planes, H, W)`` -> ``(B, out planes, H', W')``."""
        padding = self.padding
        if self.padding_mode != "zeros":
            planes, padding = F.pad(planes, 4 * [padding], mode=self.padding_mode), 0
        weight, bias = self.expanded_weight(), self._plane_bias()
        if self.stride == 1 and planar.runs(planes, weight, padding):
            return planar.conv2d(planes, weight, bias, padding)
        return F.conv2d(planes, weight, bias, self.stride, padding)

    def _planes(self, f: Tensor) -> Tensor:
        """A feature map ``(B, K, |G|, H, W)`` as planes ``(B, K * |G|, H, W)``; a view."""
        if f.ndim != 5 or f.shape[1] != self.in_channels or f.shape[2] != self.group.order:
            raise ValueError(
                f"{type(self).__name__} expects (B, {self.in_channels}, {self.group.order}, H, W), not {tuple(f.shape)}"
            )
        return f.flatten(1, 2)

    def _fields(self, planes: Tensor) -> Tensor:
        """Planes ``(B, out * |G|, H, W)`` as a feature map ``(B, out, |G|, H, W)``; a view."""
        return planes.unflatten(1, (self.out_channels, self.group.order))

    def _plane_bias(self) -> Tensor | None:
        """The bias of a field, repeated for its |G| planes: ``(out * |G|,)``."""
        return None if self.bias is None else self.bias.repeat_interleave(self.group.order)

    def _apply(self, fn, recurse: bool = True) -> "PlaneGroupConv2d":
        super()._apply(fn, recurse)
        self._place_taps()
        return self

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, group={self.group.name}"
        if self.stride != 1:
            text += f", stride={self.stride}"
        if self.padding != 0:
            text += f", padding={self.padding}"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode!r}"
        if self.bias is None:
            text += ", bias=False"
        return text


class LiftingConv2d(PlaneGroupConv2d):
    """The first layer: from an image to a feature map on the group (Eq. 1, Z2 -> G).

    ``out(g, y) = sum_{k,t} f_k(y + r_g t) psi_k(t)``

    Shapes: input ``(B, in_channels, H, W)``, output ``(B, out_channels, |G|, H', W')``, weight ``(out, in, k, k)``.

    Args:
        in_channels: channels of the image.
        out_channels: fields of the output.
        kernel_size: side of the square filter, in pixels.
        group: ``Z2``, ``P2``, ``PM``, ``PMM``, ``P4`` or ``P4M``.
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
        algorithm: how the same is computed: "dense", as an ordinary convolution of planes (:mod:`study.gconv.filters`);
            "fourier", by the Fourier transform of the point group (:mod:`study.gconv.fast.fourier`), for which the
            stride must be 1 and the group not Z2, else it is dense after all; or "auto", by the rules of what was
            measured to be faster (:mod:`study.gconv.fast.rules`). The attribute may be changed later. ``torch.func``
            transforms either form; what is compiled with such a transform inside is dense.
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
        device, dtype = f.device.type, f.dtype
        casts = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        casts = casts and dtype.is_floating_point and dtype != torch.float64
        if casts:
            dtype = torch.get_autocast_dtype(device)
        positions = f.shape[0] * f.shape[3] * f.shape[4]
        # what has no output, or two dtypes, the dense form refuses as torch does
        valid = self._has_output(f) and (casts or self.weight.dtype == dtype)
        # the compiler knows no functions with a derivative in forward mode, and torch.func needs them in the operators
        compiles = not (torch.compiler.is_compiling() and operators.is_transformed())
        training = torch.is_grad_enabled() and (self.weight.requires_grad or f.requires_grad)
        if not (valid and compiles and self.prefers_fourier(device, dtype, positions, training)):
            return self._fields(self._convolve(planes))
        out = self._transform_and_multiply(f.to(dtype), self.weight.to(dtype))
        return out if self.bias is None else out + self.bias.to(dtype).view(-1, 1, 1, 1)

    def prefers_fourier(
        self, device: str, dtype: torch.dtype, positions: float = math.inf, training: bool = True
    ) -> bool:
        """Whether the Fourier form is taken; arguments as of :func:`study.gconv.fast.rules.fourier_is_faster`."""
        if self.algorithm == "dense" or not self._has_fourier_form():
            return False
        return self.algorithm == "fourier" or rules.fourier_is_faster(self, device, dtype, positions, training)

    def _has_fourier_form(self) -> bool:
        return self.group.order > 1 and self.stride == 1

    def _has_output(self, f: Tensor) -> bool:
        side = min(f.shape[-2:])
        return side > 0 and side + 2 * self.padding >= self.kernel_size

    def _transform_and_multiply(self, f: Tensor, psi: Tensor) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            f, padding = F.pad(f.flatten(1, 2), 4 * [padding], mode=self.padding_mode).unflatten(1, f.shape[1:3]), 0
        return operators.convolve(f, psi, self.group.name, padding)


class _Transposed:
    """What the transposed convolutions have of their own, above the class of the convolution."""

    plain = nn.ConvTranspose2d
    padding_modes = ("zeros",)

    def fan_in(self) -> float:
        return super().fan_in() / self.stride**2  # a pixel of the output meets every stride-th tap, in both directions

    def expanded_weight(self) -> Tensor:
        return super().expanded_weight().transpose(0, 1)  # conv_transpose2d wants (in, out, k, k)

    def _convolve(self, planes: Tensor) -> Tensor:
        return F.conv_transpose2d(planes, self.expanded_weight(), self._plane_bias(), self.stride, self.padding)


class GroupConvTranspose2d(_Transposed, GroupConv2d):
    """Equivariant up-sampling: Eq. 2 with the transposed convolution's way of walking the grid.

    ``out(g, z) = sum f_k(gu, y) psi_k(u, t)`` over all k, u, y, t with ``z = stride * y + r_g t``

    Shapes: input ``(B, in_channels, |G|, H, W)``, output ``(B, out_channels, |G|, H', W')`` with
    ``H' = (H - 1) * stride - 2 * padding + kernel_size``, weight ``(out, in, |G|, k, k)``. There is no
    ``output_padding``: it pads one side only, which breaks the symmetry. As in torch, padding is with zeros.
    """

    def _has_fourier_form(self) -> bool:
        return self.group.order > 1

    def _has_output(self, f: Tensor) -> bool:
        side = min(f.shape[-2:])
        return side > 0 and (side - 1) * self.stride - 2 * self.padding + self.kernel_size > 0

    def _transform_and_multiply(self, f: Tensor, psi: Tensor) -> Tensor:
        return operators.convolve_transposed(f, psi, self.group.name, self.stride, self.padding)


class ProjectionConv2d(PlaneGroupConv2d):
    """The last layer, new in the paper: from a feature map on the group to an image (Eq. 3, G -> Z2).

    ``out(y) = sum_{k,h,t} f_k(h, y + r_h t) psi_k(t)``

    Shapes: input ``(B, in_channels, |G|, H, W)``, output ``(B, out_channels, H', W')``, weight ``(out, in, k, k)``.
    Unlike pooling over orientations it may weigh what lies ahead of a feature differently from what lies behind it.
    """

    _expand = staticmethod(filters.projection_weight)

    def forward(self, f: Tensor) -> Tensor:
        return self._convolve(self._planes(f))

    def _plane_bias(self) -> Tensor | None:
        return self.bias


class SymmetricConv2d(PlaneGroupConv2d):
    """From an image to an image by filters that no element of the group changes: no orientation channels at all.

    ``out(y) = sum_{k,t} f_k(y + t) psi_k(t)`` with ``psi_k(r_g t) = psi_k(t)`` for all g

    Equivariant at the price of an ordinary convolution, for which it gives away every filter that has a direction: one
    weight is learned for each orbit of taps, three instead of nine in a 3x3 filter on P4M (as in GMR-Conv, arXiv
    2504.02819, and the SRE U-Net, 2501.14592).

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


class SymmetricConvTranspose2d(_Transposed, SymmetricConv2d):
    """Up-sampling by symmetric filters: :class:`SymmetricConv2d` with the transposed convolution's way of walking.

    ``out(z) = sum f_k(y) psi_k(t)`` over all k, y, t with ``z = stride * y + t``; sizes and padding as of
    :class:`GroupConvTranspose2d`.
    """


class GroupBatchNorm2d(nn.BatchNorm3d):
    """Batch normalisation of ``(B, K, |G|, H, W)`` with one mean and variance per field, over B, |G|, H and W.

    Statistics per plane would break equivariance: turning the input permutes the planes, but not what was learned
    about each of them (running moments, scale, shift).
    """


class GroupMaxPool2d(nn.Module):
    """Spatial max pooling of each plane: ``(B, K, |G|, H, W)`` -> ``(B, K, |G|, H', W')``.

    Exact where ``(size + 2 * padding - kernel_size) % stride == 0``: 2x2 with stride 2 on even sizes, the paper's
    3x3 with stride 2 and padding 1 on odd ones.

    Args:
        kernel_size, stride, padding: in pixels, as for ``nn.MaxPool2d``; the stride is the kernel size by default.

    Raises:
        ValueError: if the input is not a feature map.
    """

    def __init__(self, kernel_size: int, stride: int | None = None, padding: int = 0) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding

    def forward(self, f: Tensor) -> Tensor:
        if f.ndim != 5:
            raise ValueError(f"GroupMaxPool2d expects (B, K, |G|, H, W), not {tuple(f.shape)}")
        if (self.kernel_size, self.stride, self.padding) == (2, 2, 0) and pooling.runs(f):
            return pooling.max_pool(f)
        pooled = F.max_pool2d(f.flatten(1, 2), self.kernel_size, self.stride, self.padding)  # (B, K * |G|, H', W')
        return pooled.unflatten(1, f.shape[1:3])  # (B, K, |G|, H', W')

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class OrientationPool2d(nn.Module):
    """From a feature map on the group to an image by the maximum or the mean over the orientations.

    The usual invariant alternative to :class:`ProjectionConv2d`: ``(B, K, |G|, H, W)`` -> ``(B, K, H, W)``.

    Raises:
        ValueError: if ``reduction`` is neither "max" nor "mean", or the input is not a feature map.
    """

    def __init__(self, reduction: str = "max") -> None:
        super().__init__()
        if reduction not in ("max", "mean"):
            raise ValueError(f'reduction is {reduction!r}; give "max" or "mean"')
        self.reduction = reduction

    def forward(self, f: Tensor) -> Tensor:
        if f.ndim != 5:
            raise ValueError(f"OrientationPool2d expects (B, K, |G|, H, W), not {tuple(f.shape)}")
        return f.amax(dim=2) if self.reduction == "max" else f.mean(dim=2)

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"
