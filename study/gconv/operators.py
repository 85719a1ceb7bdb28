"""The Fourier form as operators of torch, with gradients; ``torch.compile`` and ``torch.export`` take them whole."""

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from study.gconv import fourier
from study.gconv.filter_transform import FilterTransform, products_per_tap
from study.gconv.filters import feature_filter_taps, group_weight
from study.groups import GROUPS


@torch.library.custom_op("study::group_conv", mutates_args=())
def group_conv(f: Tensor, psi: Tensor, group: str, padding: int) -> Tensor:
    """Eq. 2, with stride 1 and zero padding.

    Shapes: f ``(B, K, |G|, H, W)``, psi ``(O, K, |G|, k, k)`` -> ``(B, O, |G|, H', W')``.
    """
    filters = FilterTransform.get(group, "convolution", psi.shape[-1], psi)
    size = _output_size(f, psi.shape[-1], padding)
    return fourier.gather(f, filters.weight(psi), filters, filters.taps - padding, size)


@torch.library.custom_op("study::group_conv_backward", mutates_args=())
def group_conv_backward(
    e: Tensor, f: Tensor, psi: Tensor, group: str, padding: int, wants_f: bool, wants_psi: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of f and psi, given that of the output; empty where they are not wanted."""
    filters = FilterTransform.get(group, "adjoint convolution", psi.shape[-1], psi)
    taps = filters.taps - (psi.shape[-1] - 1 - padding)
    return fourier.gather_backward(e, f, psi, filters, taps, 1, wants_f, wants_psi)


@torch.library.custom_op("study::group_conv_transpose", mutates_args=())
def group_conv_transpose(f: Tensor, psi: Tensor, group: str, stride: int, padding: int) -> Tensor:
    """Eq. 2, transposed.

    Shapes: f ``(B, K, |G|, H, W)``, psi ``(O, K, |G|, k, k)`` -> ``(B, O, |G|, H', W')``.
    """
    filters = FilterTransform.get(group, "transposed convolution", psi.shape[-1], psi)
    size = _transposed_output_size(f, psi.shape[-1], stride, padding)
    return fourier.scatter(f, filters.weight(psi), filters, filters.taps - padding, stride, size)


@torch.library.custom_op("study::group_conv_transpose_backward", mutates_args=())
def group_conv_transpose_backward(
    e: Tensor, f: Tensor, psi: Tensor, group: str, stride: int, padding: int, wants_f: bool, wants_psi: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of f and psi, given that of the output; empty where they are not wanted."""
    filters = FilterTransform.get(group, "adjoint transposed convolution", psi.shape[-1], psi)
    return fourier.gather_backward(e, f, psi, filters, filters.taps - padding, stride, wants_f, wants_psi)


@torch.library.custom_op("study::group_conv_ready", mutates_args=())
def group_conv_ready(
    f: Tensor, one: Tensor, two: Tensor, bias: Tensor, group: str, kernel_size: int, stride: int, padding: int
) -> Tensor:
    """:func:`group_conv` for inference, with a filter that :func:`ready_filter` has transformed and a bias ``(O,)``."""
    filters = FilterTransform.get(group, "convolution", kernel_size, f)
    size = _output_size(f, kernel_size, padding)
    return fourier.gather(f, (one, two), filters, filters.taps - padding, size).add_(bias.view(-1, 1, 1, 1))


@torch.library.custom_op("study::group_conv_transpose_ready", mutates_args=())
def group_conv_transpose_ready(
    f: Tensor, one: Tensor, two: Tensor, bias: Tensor, group: str, kernel_size: int, stride: int, padding: int
) -> Tensor:
    """:func:`group_conv_transpose` for inference, likewise."""
    filters = FilterTransform.get(group, "transposed convolution", kernel_size, f)
    size = _transposed_output_size(f, kernel_size, stride, padding)
    return fourier.scatter(f, (one, two), filters, filters.taps - padding, stride, size).add_(bias.view(-1, 1, 1, 1))


def ready_filter(psi: Tensor, group: str, *, transposed: bool) -> tuple[Tensor, Tensor]:
    """The filter ``(O, K, |G|, k, k)`` as the two above want it."""
    kind = "transposed convolution" if transposed else "convolution"
    return FilterTransform.get(group, kind, psi.shape[-1], psi).weight(psi)


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
def _(f, one, two, bias, group, kernel_size, stride, padding):
    return f.new_empty(f.shape[0], *bias.shape, f.shape[2], *_output_size(f, kernel_size, padding))


@group_conv_transpose_ready.register_fake
def _(f, one, two, bias, group, kernel_size, stride, padding):
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
def _ready_flops(f_shape, one_shape, two_shape, bias_shape, group, *_, out_shape, **__) -> int:
    return _flops(group, (*one_shape[1:], 1), out_shape)  # taps are part of the matrices


@register_flop_formula(torch.ops.study.group_conv_transpose_ready)
def _transpose_ready_flops(f_shape, one_shape, two_shape, bias_shape, group, *_, **__) -> int:
    return _flops(group, (*one_shape[1:], 1), f_shape)


def _flops(group: str, psi_shape, positions) -> int:
    """Two per product. The positions are those of the output, or of a transposed convolution those of the input."""
    outputs, inputs, _, *kernel = psi_shape
    images, _, _, *grid = positions
    pairs = outputs * inputs * math.prod(kernel)
    return 2 * products_per_tap(GROUPS[group]) * pairs * images * math.prod(grid)


def _keep(tensors: int):
    """What the backward pass needs: the leading arguments, which are tensors, and the others."""

    def setup_context(ctx, inputs: tuple, output) -> None:
        ctx.save_for_backward(*inputs[:tensors])
        ctx.settings = inputs[tensors:]

    return setup_context


def _first_derivative(backward):
    def gradients(ctx, e: Tensor):
        wants_f, wants_psi = ctx.needs_input_grad[:2]
        grad_f, grad_psi = backward(e, *ctx.saved_tensors, *ctx.settings, wants_f, wants_psi)
        return grad_f if wants_f else None, grad_psi if wants_psi else None, *(None for _ in ctx.settings)

    return gradients


def _second_derivative(dense):
    """Hardly anybody needs it, so it is that of the dense form; a third one there is not."""

    @once_differentiable
    def gradients(ctx, *grads: Tensor):
        *settings, wants_f, wants_psi = ctx.settings
        e, f, psi = inputs = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
        wanted = [(tensor, grad) for tensor, grad, w in zip((f, psi), grads, (wants_f, wants_psi), strict=True) if w]
        tensors, grads = zip(*wanted, strict=True)
        with torch.enable_grad():
            first = torch.autograd.grad(dense(f, psi, *settings), tensors, e, create_graph=True)
            second = torch.autograd.grad(first, inputs, grads, allow_unused=True)
        return *second, *(None for _ in ctx.settings)

    return gradients


def _dense_weight(psi: Tensor, group: str) -> Tensor:
    return group_weight(psi, feature_filter_taps(GROUPS[group], psi.shape[-1]).to(psi.device))


def _dense(f: Tensor, psi: Tensor, group: str, padding: int) -> Tensor:
    out = F.conv2d(f.flatten(1, 2), _dense_weight(psi, group), padding=padding)
    return out.unflatten(1, (len(psi), f.shape[2]))


def _dense_transpose(f: Tensor, psi: Tensor, group: str, stride: int, padding: int) -> Tensor:
    out = F.conv_transpose2d(f.flatten(1, 2), _dense_weight(psi, group).transpose(0, 1), None, stride, padding)
    return out.unflatten(1, (len(psi), f.shape[2]))


for _forward, _backward, _reference in (
    (group_conv, group_conv_backward, _dense),
    (group_conv_transpose, group_conv_transpose_backward, _dense_transpose),
):
    _forward.register_autograd(_first_derivative(_backward), setup_context=_keep(2))
    _backward.register_autograd(_second_derivative(_reference), setup_context=_keep(3))
