"""The convolutions of planes that have few channels on one side: an image's, lifted, or a projection's.

A group convolution on Z2 is an ordinary one, so the compiled code of :mod:`study.gconv.fast.fused` does that too.
torch's own is slow on a CPU where there are hundreds of planes on one side and a few on the other.
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from study.gconv.fast import fused
from study.gconv.fast.eager import is_unobserved
from study.gconv.fast.filter_transform import FilterTransform


def runs(planes: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> bool:
    """Whether :func:`conv2d` can replace torch's convolution, and is faster."""
    side = min(planes.shape[-2:]) + 2 * padding - weight.shape[-1] + 1
    fits = stride == 1 and planes.numel() > 0 and side > 0
    return fits and is_unobserved([planes, weight, *([] if bias is None else [bias])]) and is_faster(weight)


def is_faster(weight: Tensor) -> bool:
    """Whether there is compiled code for such a filter ``(O, C, k, k)``, and it is faster than torch's."""
    return min(weight.shape[:2]) < 8 and fused.available(weight.device.type, weight.dtype)


def conv2d(planes: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """``torch.nn.functional.conv2d`` with stride 1."""
    return _Conv2d.apply(planes, weight, bias, padding)


class _Conv2d(Function):
    @staticmethod
    def forward(ctx, planes: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        ctx.padding = padding
        ctx.save_for_backward(planes, weight)
        filters, psi = FilterTransform.get("z2", "convolution", weight.shape[-1], weight), _field(weight)
        height, width = (size + 2 * padding - weight.shape[-1] + 1 for size in planes.shape[-2:])
        out = planes.new_empty(len(planes), len(weight), height, width)
        f, taps = _field(planes.contiguous()), filters.taps - padding
        bias = None if bias is None else bias.contiguous()
        fused.gather([f], fused.prepare(psi, filters), filters, taps, 1, [_field(out)], bias=bias)
        return out

    @staticmethod
    def backward(ctx, e: Tensor) -> tuple:
        planes, weight = ctx.saved_tensors
        wants_planes, wants_weight, wants_bias, _ = ctx.needs_input_grad
        grad_bias = e.sum((0, 2, 3)) if wants_bias else None
        if torch.is_grad_enabled():
            with torch.enable_grad():
                wanted = [x for x, wants in ((planes, wants_planes), (weight, wants_weight)) if wants]
                out = F.conv2d(planes, weight, padding=ctx.padding)
                found = iter(torch.autograd.grad(out, wanted, e, create_graph=True))
            return *(next(found) if w else None for w in (wants_planes, wants_weight)), grad_bias, None
        e, planes, psi = _field(e.contiguous()), _field(planes.contiguous()), _field(weight.contiguous())
        grad_planes = torch.empty_like(planes) if wants_planes else None
        grad_psi = fused.gradients(e, [planes], psi, "z2", ctx.padding, [grad_planes] if wants_planes else None)
        grad_planes = grad_planes.squeeze(2) if wants_planes else None
        return grad_planes, grad_psi.squeeze(2) if wants_weight else None, grad_bias, None


def _field(planes: Tensor) -> Tensor:
    """Planes ``(B, C, H, W)`` as fields ``(B, C, 1, H, W)``, and a filter ``(O, C, k, k)`` as one on the group."""
    return planes.unsqueeze(2)
