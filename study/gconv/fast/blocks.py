"""A block of a network in fewer passes over memory: convolution, batch norm and ReLU, as their modules compute them.

A P4M network with a U-Net's parameters has 2.8 times its planes, so operations that are bound by memory cost 2.8 times
as much. Here batch norm and ReLU need no passes of their own: the moments are computed while a convolution writes, and
scale, shift and ReLU are applied while the next one reads. The two feature maps that a skip connection joins are not
copied. Only the outputs of the convolutions are kept for the backward pass.

:func:`run` takes the modules of a block and their input, and :func:`runs` says whether it can: in a training, on a CPU,
with the compiled code of :mod:`study.gconv.fast.fused`. Modules, state dicts and results are the same, to rounding.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from study.gconv.fast import fused, operators
from study.gconv.fast.dispatch import prefers_fourier
from study.gconv.fast.eager import is_unobserved
from study.gconv.fast.filter_transform import FilterTransform
from study.gconv.fast.fused import Reading, Writing
from study.gconv.layers import GroupBatchNorm2d, GroupConv2d, GroupConvTranspose2d, LiftingConv2d


def runs(block: Sequence[nn.Module], f: Sequence[Tensor]) -> bool:
    """Whether :func:`run` can replace the modules, one after the other."""
    dtype = f[0].dtype
    return (
        is_unobserved(f)
        and fused.available(f[0].device.type, dtype)
        and not nn.modules.module._has_any_global_hook()
        and len(block) % 3 == 0
        and all(_is_ordinary(module, dtype) for module in block)
        and all(_is_known(*layers, f) for layers in zip(block[::3], block[1::3], block[2::3], strict=True))
        and _fit_together(block, f)
    )


def run(block: Sequence[nn.Module], f: Sequence[Tensor]) -> Tensor:
    """``relu(norm(conv(...)))``, twice or once, of one feature map, or of two whose fields are taken together.

    Shapes: f, ``(B, K, |G|, H, W)`` each (or an image, for the lifting) -> ``(B, O, |G|, H', W')``.
    """
    (first, *convs), norms = block[::3], block[1::3]
    if type(first) is GroupConv2d:
        z, moments = _Conv.apply(first.weight, first.group.name, *f)
    else:  # up-sampling, or the lifting, which is an ordinary convolution
        z = first(joined(f)).contiguous()
        moments = fused.sums(z.detach(), Writing("moments", z.new_empty(z.shape[1], 2, dtype=torch.float64)))
    _keep(moments, norms[0], z)
    for conv, (before, after) in zip(convs, pairwise(norms), strict=True):
        z, moments = _NormReluConv.apply(
            z, moments, before.weight, before.bias, conv.weight, before.eps, conv.group.name
        )
        _keep(moments, after, z)
    return _NormRelu.apply(z, moments, norms[-1].weight, norms[-1].bias, norms[-1].eps)


def joined(f: Sequence[Tensor]) -> Tensor:
    """The feature maps with their fields, or planes, side by side."""
    return f[0] if len(f) == 1 else torch.cat(list(f), dim=1)


class _Conv(Function):
    """Eq. 2, padded to the same size, and the moments of its output."""

    @staticmethod
    def forward(ctx, psi: Tensor, group: str, *f: Tensor) -> tuple[Tensor, Tensor]:
        f = [x.contiguous() for x in f]
        ctx.group = group
        ctx.save_for_backward(psi, *f)
        z, moments = _convolve(f, psi, group)
        ctx.mark_non_differentiable(moments)
        return z, moments

    @staticmethod
    def backward(ctx, e: Tensor, _) -> tuple:
        psi, *f = ctx.saved_tensors
        wants_f = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():
            grad_psi, *grad_f = _differentiable(lambda psi, *f: _reference(joined(f), psi, ctx.group), (psi, *f), e)
            return grad_psi, None, *grad_f
        grad_f = [torch.empty_like(x) for x in f] if any(wants_f) else None
        grad_psi = fused.gradients(e.contiguous(), f, psi, ctx.group, psi.shape[-1] // 2, grad_f)
        return grad_psi, None, *(grad_f or [None] * len(f))


class _NormReluConv(Function):
    """Batch norm and ReLU of z, and Eq. 2 of that, padded to the same size, with the moments of the output."""

    @staticmethod
    def forward(ctx, z: Tensor, moments: Tensor, weight: Tensor, bias: Tensor, psi: Tensor, eps: float, group: str):
        ctx.eps, ctx.group = eps, group
        ctx.save_for_backward(z, moments, weight, bias, psi)
        out, out_moments = _convolve([z], psi, group, Reading(_scale_and_shift(moments, weight, bias, eps)))
        ctx.mark_non_differentiable(out_moments)
        return out, out_moments

    @staticmethod
    def backward(ctx, e: Tensor, _) -> tuple:
        z, moments, weight, bias, psi = ctx.saved_tensors
        norm = moments, weight, bias, ctx.eps
        if torch.is_grad_enabled():
            *grads, grad_psi = _differentiable(
                lambda z, weight, bias, psi: _reference(_norm_relu(z, weight, bias, ctx.eps), psi, ctx.group),
                (z, weight, bias, psi),
                e,
            )
            return grads[0], None, *grads[1:], grad_psi, None, None
        grad, sums = torch.empty_like(z), torch.empty_like(moments)
        reading = Reading(_scale_and_shift(*norm))
        writing = Writing("gradients", sums, _coefficients_of_sums(*norm), z)
        settings = psi, ctx.group, psi.shape[-1] // 2, [grad]
        grad_psi = fused.gradients(e.contiguous(), [z], *settings, reading_f=reading, writing=writing)
        grad_z = fused.unnormalise(grad, _unnormalising(z, *norm, sums), grad)
        return grad_z, None, *_of_affine(sums, weight), grad_psi, None, None


class _NormRelu(Function):
    """Batch norm and ReLU of z."""

    @staticmethod
    def forward(ctx, z: Tensor, moments: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        ctx.eps = eps
        ctx.save_for_backward(z, moments, weight, bias)
        return fused.normalise(z, _scale_and_shift(moments, weight, bias, eps))

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        z, moments, weight, bias = ctx.saved_tensors
        norm = moments, weight, bias, ctx.eps
        if torch.is_grad_enabled():
            grads = _differentiable(lambda *tensors: _norm_relu(*tensors, ctx.eps), (z, weight, bias), grad)
            return grads[0], None, *grads[1:], None
        grad, sums = grad.contiguous(), torch.empty_like(moments)
        fused.sums(grad, Writing("gradients", sums, _coefficients_of_sums(*norm), z))
        grad_z = fused.unnormalise(grad, _unnormalising(z, *norm, sums), torch.empty_like(z))
        return grad_z, None, *_of_affine(sums, weight), None


def _is_ordinary(module: nn.Module, dtype: torch.dtype) -> bool:
    """Whether a module has no hooks, and is in a training in that precision."""
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    parameters = module.parameters(recurse=False)
    return not hooks and module.training and all(p.dtype == dtype and p.device.type == "cpu" for p in parameters)


def _is_known(conv: nn.Module, norm: nn.Module, relu: nn.Module, f: Sequence[Tensor]) -> bool:
    """Whether :func:`run` supports these layers, and they accept such a feature map."""
    if type(norm) is not GroupBatchNorm2d or norm.weight is None or type(relu) is not nn.ReLU:
        return False
    if type(conv) in (LiftingConv2d, GroupConvTranspose2d):
        return True
    if type(conv) is not GroupConv2d or conv.bias is not None or conv.padding_mode != "zeros":
        return False
    images, _, *_, height, width = f[0].shape
    positions = images * height * width
    return (
        2 * conv.padding == conv.kernel_size - 1
        and positions > 0
        and prefers_fourier(conv, "cpu", f[0].dtype, positions)
    )


def _fit_together(block: Sequence[nn.Module], f: Sequence[Tensor]) -> bool:
    """Whether the number of fields is that of the next layer; the modules raise the error where it is not."""
    convs, norms = block[::3], block[1::3]
    first = convs[0]
    fit = all(norm.num_features == conv.out_channels for conv, norm in zip(convs, norms, strict=True))
    fit = fit and all(a.out_channels == b.in_channels and a.group == b.group for a, b in pairwise(convs))
    if type(first) is GroupConv2d:
        shape = (len(f[0]), first.group.order, *f[0].shape[3:])
        fit = fit and all(x.ndim == 5 and (len(x), *x.shape[2:]) == shape for x in f)
        fit = fit and len(f) <= 2 and sum(x.shape[1] for x in f) == first.in_channels
    return fit


def _keep(moments: Tensor, norm: GroupBatchNorm2d, z: Tensor) -> None:
    """Update the running moments, as ``nn.BatchNorm3d`` does."""
    if norm.running_mean is None:
        return
    norm.num_batches_tracked.add_(1)
    momentum = 1 / int(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    values = z.numel() / z.shape[1]
    mean, variance = moments.to(norm.running_mean.dtype).unbind(1)
    norm.running_mean.lerp_(mean, momentum)
    norm.running_var.lerp_(variance * (values / max(1, values - 1)), momentum)


def _convolve(f: Sequence[Tensor], psi: Tensor, group: str, reading: Reading | None = None) -> tuple[Tensor, Tensor]:
    filters = FilterTransform.get(group, "convolution", psi.shape[-1], psi)
    z = f[0].new_empty(len(f[0]), len(psi), *f[0].shape[2:])
    writing = Writing("moments", z.new_empty(len(psi), 2, dtype=torch.float64))
    taps = filters.taps - psi.shape[-1] // 2
    fused.gather(f, fused.prepare(psi, filters), filters, taps, 1, [z], reading=reading, writing=writing)
    return z, writing.sums


# Batch norm, x' = (z - mean) / sqrt(variance + eps), y = weight x' + bias; moments are (K, 2), in float64.


def _scale_and_shift(moments: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """``y = c0 z + c1``: ``(K, 2)``."""
    return _coefficients_of_sums(moments, weight, bias, eps)[:, :2].contiguous()


def _coefficients_of_sums(moments: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """``y = c0 z + c1`` and ``x' = c2 z + c3``: ``(K, 4)``."""
    mean, variance = moments.unbind(1)
    inverse = (variance + eps).rsqrt()
    scale = weight * inverse
    return torch.stack([scale, bias - mean * scale, inverse, -mean * inverse], dim=1).to(weight.dtype)


def _unnormalising(z: Tensor, moments: Tensor, weight: Tensor, bias: Tensor, eps: float, sums: Tensor) -> Reading:
    """The gradient of z, given that of ``relu(y)`` and its sums: minus what changes the moments."""
    mean, variance = moments.unbind(1)
    inverse = (variance + eps).rsqrt()
    scale = weight * inverse
    of_shift, of_scale = (sums * (z.shape[1] / z.numel())).unbind(1)
    columns = [scale, bias - mean * scale, scale]
    columns += [-scale * inverse * of_scale, scale * (inverse * mean * of_scale - of_shift)]
    return Reading(torch.stack(columns, dim=1).to(z.dtype), z)


def _of_affine(sums: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of weight and bias."""
    of_bias, of_weight = sums.to(weight.dtype).unbind(1)
    return of_weight, of_bias


# The same by autograd, for second derivatives.


def _reference(f: Tensor, psi: Tensor, group: str) -> Tensor:
    return operators.convolve(f, psi, group, psi.shape[-1] // 2)


def _norm_relu(z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.batch_norm(z, None, None, weight, bias, training=True, eps=eps).relu()


def _differentiable(function: Callable[..., Tensor], tensors: Sequence[Tensor], e: Tensor) -> Sequence[Tensor | None]:
    """The gradients of the tensors as a graph of their own."""
    with torch.enable_grad():
        aliases = [x.view_as(x) if x.requires_grad else x for x in tensors]
        wanted = [x for x in aliases if x.requires_grad]
        found = iter(torch.autograd.grad(function(*aliases), wanted, e, create_graph=True))
    return [next(found) if x.requires_grad else None for x in aliases]
