"""The base of all convolutions here: a learned filter, expanded in every call to the weight of an ordinary one."""

import math
from collections.abc import Callable
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from study.gconv import filters
from study.gconv.fast import planar
from study.groups import GROUPS, PlaneGroup


def check_arguments(*, padding_mode: str, padding_modes: tuple[str, ...], **sizes: int) -> None:
    """Raise a ValueError that names the first size that is no integer or too small, or an unknown padding mode."""
    for name, value in sizes.items():
        least = 0 if name == "padding" else 1
        if not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name} is {value!r}; give an integer of at least {least}")
    if padding_mode not in padding_modes:
        raise ValueError(f"padding_mode is {padding_mode!r}; give one of {', '.join(padding_modes)}")


class PlaneGroupConv2d(nn.Module):
    """The base of all convolutions here: a learned filter, its table of taps, and one bias per field."""

    plain = nn.Conv2d
    transposed = False
    padding_modes = ("zeros", "reflect", "replicate", "circular")
    _expand: Callable[[Tensor, Tensor], Tensor]
    """Expand the filter by the table to the weight: one of the functions of :mod:`study.gconv.filters`."""

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
            known = ", ".join(name.upper() for name in GROUPS)
            raise TypeError(f"group is {group!r}; give one of study.groups.{known}")
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
        # a hook of the whole layer: _load_from_state_dict runs before a parametrised weight is loaded
        self.register_load_state_dict_post_hook(PlaneGroupConv2d._place_taps)
        self.reset_parameters()

    def _weight_shape(self) -> tuple[int, ...]:
        """A planar filter; the layers that take a feature map to a feature map override it."""
        return (self.out_channels, self.in_channels, self.kernel_size, self.kernel_size)

    def _make_taps(self, device: torch.device) -> Tensor:
        return filters.image_filter_taps(self.group, self.kernel_size, device)

    def _place_taps(self, *_) -> None:
        """Make the table again on the device of the weight, as ``to_empty`` and the meta device leave it undefined."""
        with torch.inference_mode(False):  # the tensor may be used in a training later
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
        if taps.device != weight.device:  # the weight was exchanged, as functional_call does
            taps = self._make_taps(weight.device)
        return self._expand(weight, taps)

    @torch.no_grad()
    def export(self) -> nn.Conv2d | nn.ConvTranspose2d:
        """torch's own convolution that computes on planes what this layer, with its present weight, computes on fields.

        Its channels are the planes, field by field, as in ``f.flatten(1, 2)``. Its weight is a copy, and would not stay
        equivariant in a training.
        """
        weight, bias = self.expanded_weight(), self._plane_bias()
        planes = weight.shape[:2] if self.transposed else weight.shape[1::-1]  # in, out
        options = {"stride": self.stride, "padding": self.padding, "padding_mode": self.padding_mode}
        options |= {"bias": bias is not None, "device": weight.device, "dtype": weight.dtype}
        # on the meta device, since drawing weights would change the caller's random numbers
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
        if planar.runs(planes, weight, bias, self.stride, padding):
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


class Transposed:
    """The part that transposed convolutions have beside their convolution's class."""

    plain = nn.ConvTranspose2d
    transposed = True
    padding_modes = ("zeros",)

    def fan_in(self) -> float:
        return super().fan_in() / self.stride**2  # an output pixel reads every stride-th tap, in both directions

    def expanded_weight(self) -> Tensor:
        return super().expanded_weight().transpose(0, 1)  # conv_transpose2d wants (in, out, k, k)

    def _convolve(self, planes: Tensor) -> Tensor:
        return F.conv_transpose2d(planes, self.expanded_weight(), self._plane_bias(), self.stride, self.padding)
