"""The Fourier form as operators of torch, with derivatives; opaque to ``torch.compile`` and ``torch.export``."""

import math
from functools import wraps

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils.flop_counter import register_flop_formula

from study.gconv.fast import fourier, fused
from study.gconv.fast.eager import is_transformed
from study.gconv.fast.filter_transform import FilterTransform, products_per_tap
from study.groups import GROUPS


def _without_autocast(function):
    """The function in the dtype of its tensors, even if autocast is active in the backward pass."""

    @wraps(function)
    def run(f, *others, **settings):
        device = (f[0] if isinstance(f, list) else f).device.type
        if not torch.is_autocast_enabled(device):  # entering the context takes longer than asking
            return function(f, *others, **settings)
        with torch.autocast(device, enabled=False):
            return function(f, *others, **settings)

    return run


@torch.library.custom_op("study::group_conv", mutates_args=())
@_without_autocast
def group_conv(f: Tensor, psi: Tensor, group: str, padding: int) -> Tensor:
    """Eq. 2, with stride 1 and zero padding.

    Shapes: f ``(B, K, |G|, H, W)``, psi ``(O, K, |G|, k, k)`` -> ``(B, O, |G|, H', W')``.
    """
    filters = FilterTransform.get(group, "convolution", psi.shape[-1], psi)
    size = _output_size(f, psi.shape[-1], padding)
    return fourier.gather(f, fourier.prepare(psi, filters), filters, filters.taps - padding, size, len(psi))


@torch.library.custom_op("study::group_conv_backward", mutates_args=())
@_without_autocast
def group_conv_backward(
    e: Tensor, f: Tensor, psi: Tensor, group: str, padding: int, wants_f: bool, wants_psi: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of f and psi, given that of the output; empty if they are not needed."""
    if wants_f and wants_psi and (joint := _joint_gradients(e, f, psi, group, padding)):
        return joint
    filters = FilterTransform.get(group, "adjoint convolution", psi.shape[-1], psi)
    return _gradients(e, f, psi, filters, filters.taps - (psi.shape[-1] - 1 - padding), 1, wants_f, wants_psi)


@torch.library.custom_op("study::group_conv_transpose", mutates_args=())
@_without_autocast
def group_conv_transpose(f: Tensor, psi: Tensor, group: str, stride: int, padding: int) -> Tensor:
    """Eq. 2, transposed.

    Shapes: f ``(B, K, |G|, H, W)``, psi ``(O, K, |G|, k, k)`` -> ``(B, O, |G|, H', W')``.
    """
    filters = FilterTransform.get(group, "transposed convolution", psi.shape[-1], psi)
    size = _transposed_output_size(f, psi.shape[-1], stride, padding)
    return fourier.scatter(f, fourier.prepare(psi, filters), filters, filters.taps - padding, stride, size, len(psi))


@torch.library.custom_op("study::group_conv_transpose_backward", mutates_args=())
@_without_autocast
def group_conv_transpose_backward(
    e: Tensor, f: Tensor, psi: Tensor, group: str, stride: int, padding: int, wants_f: bool, wants_psi: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of f and psi, given that of the output; empty if they are not needed."""
    if wants_f and wants_psi and (joint := _joint_gradients(e, f, psi, group, padding, stride)):
        return joint
    filters = FilterTransform.get(group, "adjoint transposed convolution", psi.shape[-1], psi)
    return _gradients(e, f, psi, filters, filters.taps - padding, stride, wants_f, wants_psi)


def _gradients(e, f, psi, filters, taps, stride, wants_f, wants_psi) -> tuple[Tensor, Tensor]:
    grad_f, grad_psi = f.new_empty(0), psi.new_empty(0)
    if wants_f:
        grad_f = fourier.gather(e, fourier.prepare(psi, filters), filters, taps, f.shape[3:], f.shape[1], stride)
    if wants_psi:
        grad_psi = fourier.filter_gradient(e, f, psi, filters, taps, stride)
    return grad_f, grad_psi


def _joint_gradients(e, f, psi, group, padding, upsampling=None) -> tuple[Tensor, Tensor] | None:
    """Both gradients at once, if there is compiled code for it."""
    if fourier.backend(f.device.type, f.dtype, GROUPS[group]) != "cpp":
        return None
    grad_f = f.new_empty(f.shape)
    maps = e.contiguous(), [f.contiguous()], psi.contiguous()
    return grad_f, fused.gradients(*maps, group, padding, [grad_f], upsampling=upsampling)


@torch.library.custom_op("study::group_conv_ready", mutates_args=())
@_without_autocast
def group_conv_ready(
    f: list[Tensor],
    weight: list[Tensor],
    bias: Tensor,
    group: str,
    kernel_size: int,
    stride: int,
    padding: int,
    relu: bool,
) -> Tensor:
    """:func:`group_conv` for inference, with a filter of :func:`ready_filter`, a bias ``(O,)``, and ReLU or not.

    The fields of several feature maps are taken together.
    """
    filters = FilterTransform.get(group, "convolution", kernel_size, f[0])
    size = _output_size(f[0], kernel_size, padding)
    return fourier.gather(f, tuple(weight), filters, filters.taps - padding, size, len(bias), bias=bias, relu=relu)


@torch.library.custom_op("study::group_conv_transpose_ready", mutates_args=())
@_without_autocast
def group_conv_transpose_ready(
    f: list[Tensor],
    weight: list[Tensor],
    bias: Tensor,
    group: str,
    kernel_size: int,
    stride: int,
    padding: int,
    relu: bool,
) -> Tensor:
    """:func:`group_conv_transpose` for inference, likewise."""
    f = torch.cat(f, dim=1) if len(f) > 1 else f[0]
    filters = FilterTransform.get(group, "transposed convolution", kernel_size, f)
    size = _transposed_output_size(f, kernel_size, stride, padding)
    out = fourier.scatter(f, tuple(weight), filters, filters.taps - padding, stride, size, len(bias), bias=bias)
    return out.relu_() if relu else out


@_without_autocast
def ready_filter(psi: Tensor, group: str, *, transposed: bool) -> tuple[Tensor, ...]:
    """The filter ``(O, K, |G|, k, k)`` prepared for the two functions above, on its device and in its dtype."""
    kind = "transposed convolution" if transposed else "convolution"
    return fourier.prepare(psi, FilterTransform.get(group, kind, psi.shape[-1], psi))


def _output_size(f: Tensor, kernel_size: int, padding: int) -> tuple[int, int]:
    height, width = (size + 2 * padding - kernel_size + 1 for size in f.shape[-2:])
    return height, width


def _transposed_output_size(f: Tensor, kernel_size: int, stride: int, padding: int) -> tuple[int, int]:
    height, width = ((size - 1) * stride - 2 * padding + kernel_size for size in f.shape[-2:])
    return height, width


@group_conv.register_fake
def _(f, psi, group, padding):
    return f.new_empty(f.shape[0], psi.shape[0], f.shape[2], *_output_size(f, psi.shape[-1], padding))


@group_conv_transpose.register_fake
def _(f, psi, group, stride, padding):
    size = _transposed_output_size(f, psi.shape[-1], stride, padding)
    return f.new_empty(f.shape[0], psi.shape[0], f.shape[2], *size)


@group_conv_ready.register_fake
def _(f, weight, bias, group, kernel_size, stride, padding, relu):
    f = f[0]
    return f.new_empty(f.shape[0], *bias.shape, f.shape[2], *_output_size(f, kernel_size, padding))


@group_conv_transpose_ready.register_fake
def _(f, weight, bias, group, kernel_size, stride, padding, relu):
    f = f[0]
    return f.new_empty(f.shape[0], *bias.shape, f.shape[2], *_transposed_output_size(f, kernel_size, stride, padding))


@group_conv_backward.register_fake
def _(e, f, psi, group, padding, wants_f, wants_psi):
    return _empty(f, wants_f), _empty(psi, wants_psi)


@group_conv_transpose_backward.register_fake
def _(e, f, psi, group, stride, padding, wants_f, wants_psi):
    return _empty(f, wants_f), _empty(psi, wants_psi)


def _empty(tensor: Tensor, wanted: bool) -> Tensor:
    """Contiguous, whatever the strides of the tensor."""
    return tensor.new_empty(tensor.shape if wanted else 0)


@register_flop_formula([torch.ops.study.group_conv, torch.ops.study.group_conv_transpose])
def _forward_flops(f_shape, psi_shape, group, *settings, out_shape, **_) -> int:
    return _flops(group, psi_shape, out_shape if len(settings) == 1 else f_shape)


@register_flop_formula([torch.ops.study.group_conv_backward, torch.ops.study.group_conv_transpose_backward])
def _backward_flops(e_shape, f_shape, psi_shape, group, *settings, **_) -> int:
    *settings, wants_f, wants_psi = settings
    return (wants_f + wants_psi) * _flops(group, psi_shape, e_shape if len(settings) == 1 else f_shape)


@register_flop_formula(torch.ops.study.group_conv_ready)
def _ready_flops(f_shapes, weight_shapes, bias_shape, group, kernel_size, *_, out_shape, **__) -> int:
    fields = sum(shape[1] for shape in f_shapes)
    return _flops(group, (*bias_shape, fields, f_shapes[0][2], kernel_size**2), out_shape)


@register_flop_formula(torch.ops.study.group_conv_transpose_ready)
def _transpose_ready_flops(f_shapes, weight_shapes, bias_shape, group, kernel_size, *_, **__) -> int:
    return _flops(group, (*bias_shape, *f_shapes[0][1:3], kernel_size**2), f_shapes[0])


def _flops(group: str, psi_shape, positions) -> int:
    """Two per product. The positions are those of the output, or of a transposed convolution those of the input."""
    outputs, inputs, _, *kernel = psi_shape
    images, _, _, *grid = positions
    pairs = outputs * inputs * math.prod(kernel)
    return 2 * products_per_tap(GROUPS[group]) * pairs * images * math.prod(grid)


def _with_derivatives(convolve, convolve_backward):
    """The operator as a function that ``torch.func`` transforms as it does torch's own.

    Autograd follows a custom operator in reverse mode only, and not inside ``torch.func``. There,
    ``autograd.Function``s take the place of the operator and of its gradients; not elsewhere, as they take 30 us per
    call.

    Their derivatives are made of the two again, and so exist in both modes and to any order: with the form
    ``L(e, f, psi) = <e, convolve(f, psi)>``, linear in each, the convolution is ``dL/de``, and its gradients ``dL/df``
    and ``dL/dpsi``. A gradient or tangent that is None is zero.
    """

    class Convolution(Function):
        @staticmethod
        def forward(f, psi, *settings):
            return convolve(f, psi, *settings)

        @staticmethod
        def setup_context(ctx, inputs, output):
            f, psi, *ctx.settings = inputs
            _save(ctx, f, psi)

        @staticmethod
        def backward(ctx, e):
            f, psi = (tensor.conj() for tensor in ctx.saved_tensors)
            wanted = ctx.needs_input_grad[:2]
            return *_only(wanted, gradients(e, f, psi, *ctx.settings, *wanted)), *(None for _ in ctx.settings)

        @staticmethod
        def jvp(ctx, df, dpsi, *_):
            f, psi = ctx.saved_tensors
            return _sum(convolution(df, psi, *ctx.settings), convolution(f, dpsi, *ctx.settings))

        @staticmethod
        def vmap(info, in_dims, f, psi, *settings):
            if in_dims[1] is not None:
                return _one_by_one(convolution, info, in_dims, f, psi, *settings)
            f = f.movedim(in_dims[0], 0)  # (N, B, K, |G|, H, W)
            return convolution(f.flatten(0, 1), psi, *settings).unflatten(0, f.shape[:2]), 0

    class Gradients(Function):
        @staticmethod
        def forward(e, f, psi, *settings):
            return convolve_backward(e, f, psi, *settings)

        @staticmethod
        def setup_context(ctx, inputs, output):
            e, f, psi, *ctx.settings, wants_f, wants_psi = inputs
            ctx.wanted = wants_f, wants_psi
            _save(ctx, e, f, psi)

        @staticmethod
        def backward(ctx, a, b):
            """Of ``<a, dL/df> + <b, dL/dpsi> = L(e, a, psi) + L(e, f, b)``."""
            a, b = _only(ctx.wanted, (a, b))
            e, f, psi = (tensor.conj() for tensor in ctx.saved_tensors)
            wants_e, wants_f, wants_psi = ctx.needs_input_grad[:3]
            grad_e = None
            if wants_e:
                grad_e = _sum(convolution(a, psi, *ctx.settings), convolution(f, b, *ctx.settings))
            grad_f, _ = gradients(e, f, b, *ctx.settings, wants_f, False)
            _, grad_psi = gradients(e, a, psi, *ctx.settings, False, wants_psi)
            return grad_e, grad_f, grad_psi, *(None for _ in ctx.settings), None, None

        @staticmethod
        def jvp(ctx, de, df, dpsi, *_):
            e, f, psi = ctx.saved_tensors
            wants_f, wants_psi = ctx.wanted
            by_e = gradients(de, f, psi, *ctx.settings, wants_f, wants_psi)
            by_f = gradients(e, df, psi, *ctx.settings, False, wants_psi)
            by_psi = gradients(e, f, dpsi, *ctx.settings, wants_f, False)
            return _sum(by_e[0], by_psi[0]), _sum(by_e[1], by_f[1])

        @staticmethod
        def vmap(info, in_dims, *inputs):
            return _one_by_one(gradients, info, in_dims, *inputs)

    def convolution(f, psi, *settings):
        if f is None or psi is None:
            return None
        return (Convolution.apply if is_transformed(f, psi) else convolve)(f, psi, *settings)

    def gradients(e, f, psi, *settings):
        if e is None or f is None or psi is None or not any(settings[-2:]):
            return None, None
        return (Gradients.apply if is_transformed(e, f, psi) else convolve_backward)(e, f, psi, *settings)

    convolve.register_autograd(Convolution.backward, setup_context=Convolution.setup_context)
    convolve_backward.register_autograd(Gradients.backward, setup_context=Gradients.setup_context)
    return convolution


def _save(ctx, *tensors: Tensor) -> None:
    """For both modes; None stands for a missing gradient or tangent."""
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)
    ctx.set_materialize_grads(False)


def _only(wanted, grads):
    return [grad if wants else None for wants, grad in zip(wanted, grads, strict=True)]


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


def _one_by_one(function, info, in_dims, *inputs):
    """The rule for vmap that is a loop."""
    pairs = list(zip(inputs, in_dims, strict=True))
    results = [function(*(x if d is None else x.select(d, n) for x, d in pairs)) for n in range(info.batch_size)]
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    return tuple(torch.stack(result) for result in zip(*results, strict=True)), (0, 0)


convolve = _with_derivatives(group_conv, group_conv_backward)
convolve_transposed = _with_derivatives(group_conv_transpose, group_conv_transpose_backward)
