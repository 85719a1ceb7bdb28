"""The layers of :mod:`study.gconv` on escnn: the same constructors, the same 5-D feature maps, escnn's own arithmetic.

(Batch norm and pooling take a ``group`` too, because escnn needs it.)

Each layer holds the escnn module of its kind on regular representations and only wraps and unwraps its tensors, so that
comparisons are with escnn itself. There are two bases of filters:

- ``"escnn"``, its default: band-limited, a strict subspace of all equivariant filters (for a 3x3 filter 24 of 36
  dimensions on P4 and 48 of 72 on P4M; for the 4x4 of a transposed convolution 20 of 64 and 40 of 128);
- ``"full"``: every equivariant filter, by one thin ring through each orbit of pixels.

Importing this module imports escnn; nothing else in the study does.
"""

import contextlib
import copy
import math
import warnings
from collections import Counter
from functools import cache

import torch
from torch import Tensor, nn

from study.errors import MissingPackageError, StudyError
from study.gconv.convolution import check_arguments
from study.groups import APPROXIMATE_GROUPS, GROUPS, PlaneGroup

try:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*py3nj.*")  # only SO(3) needs it, and it alone needs Fortran
        from escnn import gspaces
        from escnn import nn as enn
        from escnn.nn.init import _generalized_he_init_variances, generalized_he_init
except ImportError as error:
    raise MissingPackageError(
        f"escnn cannot be imported ({error}); install it without a Fortran compiler by `pip install '.[escnn]'` and "
        "`pip install --no-deps escnn==1.0.11`, or with one by `pip install escnn==1.0.11`"
    ) from error

BASES = ("escnn", "full")


def _space(group: PlaneGroup) -> gspaces.GSpace2D:
    """The same group in escnn's words."""
    if group.rotations == 1 and not group.reflections:
        return gspaces.trivialOnR2()
    if not group.reflections:
        return gspaces.rot2dOnR2(group.rotations)
    # about the line at the angle a, (x, y) = (column, -row) goes to (x cos 2a + y sin 2a, x sin 2a - y cos 2a)
    axis = math.atan2(-group.mirror[1][0], group.mirror[1][1]) / 2 % math.pi
    return gspaces.flip2dOnR2(axis) if group.rotations == 1 else gspaces.flipRot2dOnR2(group.rotations, axis=axis)


def image_type(group: PlaneGroup, channels: int) -> enn.FieldType:
    """escnn's type of an image: ``channels`` trivial representations."""
    space = _space(group)
    return enn.FieldType(space, channels * [space.trivial_repr])


def feature_type(group: PlaneGroup, fields: int) -> enn.FieldType:
    """escnn's type of a feature map on the group: ``fields`` regular representations."""
    space = _space(group)
    return enn.FieldType(space, fields * [space.regular_repr])


class _EscnnConv2d(nn.Module):
    """The base of the four convolutions: an escnn convolution, and its filter in the form of :mod:`study.gconv`.

    A layer differs from its escnn module in three respects, without which the study could not train it. The filter that
    escnn caches in eval mode is not part of the state dict; it is expanded again when a state dict is loaded; and it is
    used only without gradients, because it has none.
    """

    kind = enn.R2Conv
    transposed = False
    padding_modes = ("zeros", "reflect", "replicate", "circular")
    input_type = staticmethod(feature_type)
    output_type = staticmethod(feature_type)

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
        basis: str = "escnn",
    ) -> None:
        super().__init__()
        if not isinstance(group, PlaneGroup):
            known = ", ".join(name.upper() for name in GROUPS | APPROXIMATE_GROUPS)
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
        if basis not in BASES:
            raise StudyError(f"unknown basis {basis!r}; choose from {', '.join(BASES)}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.padding_mode = padding_mode
        self.group = group
        self.basis = basis
        options = {
            "stride": stride,
            "padding": padding,
            "bias": bias,
            **_basis_options(type(self), group, kernel_size, basis),
        }
        if padding_mode != "zeros":  # transposed convolutions have no such argument
            options["padding_mode"] = padding_mode
        self.conv = self.make(group, in_channels, out_channels, kernel_size, **options)
        _own_basis(self.conv)
        self.reset_parameters()
        self.train()  # otherwise the empty filters of escnn's constructor would be in the state dict
        self.register_load_state_dict_post_hook(_expand_again)

    @classmethod
    def make(cls, group: PlaneGroup, in_channels: int, out_channels: int, kernel_size: int, **options) -> nn.Module:
        """The escnn module, without initial weights.

        Raises:
            StudyError: if escnn's basis has no filter of this size.
        """
        types = cls.input_type(group, in_channels), cls.output_type(group, out_channels)
        try:
            with contextlib.redirect_stdout(None):  # escnn prints a warning before it raises
                return cls.kind(*types, kernel_size, initialize=False, **options)
        except ValueError as error:
            if "empty" not in str(error):
                raise
            raise StudyError(
                f"escnn's default basis has no filter of kernel_size {kernel_size}; choose another, or basis='full'"
            ) from error

    def reset_parameters(self) -> None:
        """Draw the weights as escnn does (generalised He initialisation), and zero the bias.

        escnn computes the same variances for every pair of fields, one weight at a time, which takes minutes for wide
        layers (escnn issue 54). Here they are computed for one pair.
        """
        deviations = _he_deviations(type(self), self.group, self.kernel_size, self.basis).to(self.conv.weights)
        with torch.no_grad():
            weights = torch.randn_like(self.conv.weights).view(-1, len(deviations))
            self.conv.weights.copy_((weights * deviations / math.sqrt(self.in_channels)).flatten())
            if self.conv.bias is not None:
                self.conv.bias.zero_()

    def reset_parameters_as_escnn(self) -> None:
        """The same by escnn's own function, which is slow."""
        generalized_he_init(self.conv.weights.data, self.conv.basisexpansion)

    def filter(self) -> Tensor:
        """The learned filter as the weight of the native layer: ``(out, in, k, k)`` or ``(out, in, |G|, k, k)``."""
        weights = self.conv.weights.view(self.out_channels, self.in_channels, -1)  # (out, in, dimension)
        return (weights @ self._taps()).view(self._filter_shape())

    def set_filter(self, psi: Tensor) -> None:
        """Set the filter to the weight of a native layer, or to the nearest filter (least squares) of the basis."""
        wanted = psi.detach().double().view(self.out_channels, self.in_channels, -1)  # (out, in, element * k * k)
        taps = self._taps().double()
        with torch.no_grad():
            self.conv.weights.copy_((wanted @ torch.linalg.pinv(taps)).flatten())
        _expand_again(self)

    def field_bias(self) -> Tensor | None:
        """The bias as the native layer has it, one value per field: ``(out,)``."""
        return None if self.conv.bias is None else self.conv.bias * self._bias_scale()

    def set_field_bias(self, bias: Tensor | None) -> None:
        """Set the bias to that of a native layer."""
        if bias is not None:
            with torch.no_grad():
                self.conv.bias.copy_(bias / self._bias_scale())
            _expand_again(self)

    def train(self, mode: bool = True) -> "_EscnnConv2d":
        # otherwise the filter that escnn caches would hold a graph and prevent deepcopy and a second backward pass
        with torch.inference_mode(False), torch.no_grad():
            super().train(mode)
        self.conv._non_persistent_buffers_set.update({"filter", "expanded_bias"} & self.conv._buffers.keys())
        return self

    def forward(self, f: Tensor) -> Tensor:
        expected = (self.in_channels, *self._element_axis(self.input_type))
        if f.ndim != 3 + len(expected) or f.shape[1:-2] != expected:
            raise ValueError(
                f"{type(self).__name__} expects (B, {', '.join(map(str, expected))}, H, W), not {tuple(f.shape)}"
            )
        self.conv.training = self.training or torch.is_grad_enabled()  # otherwise it would use the cached filter
        planes = self.conv(self.conv.in_type(f.flatten(1, -3))).tensor  # (B, K, |G|, H, W) -> (B, out * |G|, H', W')
        return planes.unflatten(1, (self.out_channels, *self._element_axis(self.output_type)))

    def _element_axis(self, kind) -> tuple[int, ...]:
        """The size of the group axis of feature maps; empty for images."""
        return (self.group.order,) if kind is feature_type else ()

    def _filter_shape(self) -> tuple[int, ...]:
        """A filter has a group axis if both the input and the output have one."""
        axis = self._element_axis(self.input_type) and self._element_axis(self.output_type)
        return (self.out_channels, self.in_channels, *axis, self.kernel_size, self.kernel_size)

    def _taps(self) -> Tensor:
        """The filters of the basis as :mod:`study.gconv` writes them: ``(dimension, element * k * k)``.

        The output plane of the identity of an escnn filter is ``psi(u, t)`` itself; the others follow from it.
        """
        elements = math.prod(self._filter_shape()[2:-2])
        return _block(self.conv).sampled_basis[:, 0, :elements].flatten(1)  # (dimension, out plane, in plane, k * k)

    def _bias_scale(self) -> Tensor:
        """The value that a weight of the trivial irrep adds to each plane of its field: ``(out,)``."""
        planes = math.prod(self._element_axis(self.output_type))
        return self.conv.bias_expansion[::planes].diagonal()

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, group={self.group.name}, basis={self.basis!r}"


class LiftingConv2d(_EscnnConv2d):
    """From an image to a feature map: ``R2Conv`` from trivial to regular fields; see :class:`gconv.LiftingConv2d`."""

    input_type = staticmethod(image_type)


class GroupConv2d(_EscnnConv2d):
    """From a feature map to another: ``R2Conv`` between regular fields; see :class:`gconv.GroupConv2d`."""


class GroupConvTranspose2d(_EscnnConv2d):
    """Up-sampling: ``R2ConvTransposed`` between regular fields; see :class:`gconv.GroupConvTranspose2d`."""

    kind = enn.R2ConvTransposed
    transposed = True
    padding_modes = ("zeros",)


class ProjectionConv2d(_EscnnConv2d):
    """To an image: ``R2Conv`` from regular to trivial fields; see :class:`gconv.ProjectionConv2d`."""

    output_type = staticmethod(image_type)


class GroupBatchNorm2d(nn.Module):
    """escnn's ``InnerBatchNorm``: one mean and variance per field; see :class:`gconv.GroupBatchNorm2d`."""

    def __init__(self, num_features: int, *, group: PlaneGroup) -> None:
        super().__init__()
        self.norm = enn.InnerBatchNorm(feature_type(group, num_features))

    @property
    def moments(self) -> nn.BatchNorm3d:
        """The torch layer that holds the statistics, scale and shift of every field."""
        (moments,) = (m for m in self.norm.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
        return moments

    def forward(self, f: Tensor) -> Tensor:
        return self.norm(self.norm.in_type(f.flatten(1, 2))).tensor.view_as(f)

    def sees(self, span):
        """The same pixels; see :mod:`study.networks.receptive_field`."""
        return span


class _PerField(nn.Module):
    """A pointwise escnn module that does not depend on the number of fields: each field is processed as an image."""

    def __init__(self, pointwise: enn.EquivariantModule) -> None:
        super().__init__()
        self.pointwise = pointwise

    def forward(self, f: Tensor) -> Tensor:
        fields = self.pointwise(self.pointwise.in_type(f.flatten(0, 1))).tensor  # (B * K, |G|, H', W')
        return fields.unflatten(0, f.shape[:2])  # (B, K, |G|, H', W')


class GroupMaxPool2d(_PerField):
    """escnn's ``PointwiseMaxPool2D``; see :class:`gconv.GroupMaxPool2d`."""

    def __init__(self, kernel_size: int, stride: int | None = None, padding: int = 0, *, group: PlaneGroup) -> None:
        super().__init__(enn.PointwiseMaxPool2D(feature_type(group, 1), kernel_size, stride, padding))
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding


class ReLU(_PerField):
    """escnn's ``ReLU``, in place."""

    def __init__(self, *, group: PlaneGroup) -> None:
        super().__init__(enn.ReLU(feature_type(group, 1), inplace=True))

    def sees(self, span):
        """The same pixels; see :mod:`study.networks.receptive_field`."""
        return span


def _expand_again(layer: _EscnnConv2d, _incompatible_keys=None) -> None:
    """In eval mode escnn would keep the filter of the old weights; expand the new ones."""
    if not layer.training:
        layer.train()
        layer.eval()


def _own_basis(conv: nn.Module) -> None:
    """Give a layer its own basis module.

    escnn shares one among all layers of a process, so that casting or moving one layer silently casts or moves the
    basis of all layers, and loading one can change all.
    """
    shared = _block(conv)
    own = copy.copy(shared)
    own._buffers = {key: buffer.clone() for key, buffer in shared._buffers.items()}
    (name,) = (name for name, child in conv.basisexpansion.named_children() if child is shared)
    setattr(conv.basisexpansion, name, own)


def _block(conv: nn.Module) -> nn.Module:
    """The module that holds the basis; there is only one, since inputs and outputs have one type of field each."""
    (block,) = (module for module in conv.modules() if hasattr(module, "sampled_basis"))
    return block


@cache
def _basis_options(layer: type[_EscnnConv2d], group: PlaneGroup, kernel_size: int, basis: str) -> dict:
    """The arguments of ``R2Conv`` that give a basis.

    The full basis has one thin ring through each orbit of pixels, with the angular frequencies that its n pixels can
    tell apart: up to n / 2. Where an orbit has eight pixels, some of these filters are linear combinations of others
    and are left out.

    Raises:
        StudyError: for the full basis of a group that turns by 45 degrees.
    """
    if basis == "escnn":
        return {}
    if group.name in APPROXIMATE_GROUPS:
        raise StudyError(
            f"{group.name} has basis='escnn' only: filters that are not band-limited cannot turn by 45 degrees"
        )
    centre = (kernel_size - 1) / 2
    offsets = [(row - centre, column - centre) for row in range(kernel_size) for column in range(kernel_size)]
    pixels = Counter(math.hypot(*offset) for offset in offsets)
    rings = sorted(pixels)
    options = {
        "rings": rings,
        "sigma": 0.02,  # pixels; neighbouring orbits of a 7x7 filter are 0.16 apart
        "frequencies_cutoff": lambda radius: pixels[min(rings, key=lambda ring: abs(ring - radius))] // 2,
    }
    conv = layer.make(group, 1, 1, kernel_size, **options)
    block = _block(conv)
    independent = _independent_rows(block.sampled_basis.flatten(1).double())
    kept = {filter_["idx"] for filter_, keep in zip(block.get_basis_info(), independent, strict=True) if keep}
    return options | {"basis_filter": lambda filter_: filter_["idx"] in kept}


def _independent_rows(rows: Tensor) -> list[bool]:
    """Which rows are not linear combinations of the rows above them."""
    span = rows.new_zeros(0, rows.shape[1])  # orthonormal
    independent = []
    for row in rows:
        rest = row - (span @ row) @ span
        independent.append(bool(rest.norm() > 1e-3 * row.norm()))
        if independent[-1]:
            span = torch.cat([span, rest[None] / rest.norm()])
    return independent


@cache
def _he_deviations(layer: type[_EscnnConv2d], group: PlaneGroup, kernel_size: int, basis: str) -> Tensor:
    """The standard deviation of the weight of each basis filter, for one pair of fields: ``(dimension,)``."""
    conv = layer.make(group, 1, 1, kernel_size, **_basis_options(layer, group, kernel_size, basis))
    return _generalized_he_init_variances(conv.basisexpansion)  # escnn calls them variances, and multiplies by them
