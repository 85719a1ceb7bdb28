"""The group convolution by the Fourier transform of the point group: exact, with 5.3 times fewer multiplications on
P4M.

Substitute ``t = r_u s`` in Eq. 2, ``out(g, y) = sum_{k,u,t} f_k(gu, y + r_g t) psi_k(u, t)``. Then ``r_g t = r_gu s``,
and with ``v_{k,s}(h; y) = f_k(h, y + r_h s)`` and ``phi_{k,s}(u) = psi_k(u, r_u s)``

    out(g, y) = sum_{k,s} sum_u v_{k,s}(gu; y) phi_{k,s}(u):

at every position y, for every tap s, a correlation on the point group alone. The group's Fourier transform,
``v^(rho) = sum_h v(h) rho(h)`` and ``phi^(rho) = sum_u phi(u) rho(u)^T``, turns it into products of small matrices:

    out^(rho) = sum_{k,s} v^_{k,s}(rho) phi^_{k,s}(rho),   out(g) = sum_rho d_rho / |G| tr(rho(g)^T out^(rho)).

Instead of |G|^2 products per tap and pair of fields these are sum_rho d_rho^3: 12 instead of 64 for P4M, 6 instead of
16 for P4 (in real arithmetic). The transforms of feature maps are additions (:mod:`study.gconv.fast.transform`).

Both gradients have this form too. That of f is the group convolution of the output's gradient e with the adjoint filter
``psi'(u, t) = psi(u^-1, -r_u^-1 t)``, and that of ``psi'`` is made of products of ``f^`` and of the ``v^`` of e. So
only f and psi are kept for the backward pass.

A transposed convolution, ``z = stride * y + r_g t``, needs no substitution: for every tap,
``O_t(g; y) = sum_u f(gu, y) psi(u, t)`` is such a correlation, and is added to the output at ``stride * y + r_g t``.

There are three implementations. This one is in plain PyTorch, block by block of positions, so that only one block's
``v^`` is in memory; :mod:`study.gconv.fast.fused` is the same in C++ for CPUs, and
:mod:`study.gconv.fast.triton_kernels` for GPUs.
"""

import threading
from collections import defaultdict
from functools import cache

import torch
from torch import Tensor

from study.gconv.fast import fused, triton_kernels
from study.gconv.fast.filter_transform import FilterTransform
from study.gconv.fast.products import add_outer_products, products
from study.gconv.fast.transform import Block, analyse, synthesise
from study.groups import PlaneGroup

BLOCK_BYTES = defaultdict(lambda: 2**28, cpu=2**24)
"""Bytes of the ``v^`` of one block. On a CPU, larger blocks leave the caches, and smaller ones make slow products."""


Weight = tuple[Tensor, ...]
"""Filters prepared by :func:`prepare`, for one implementation."""


@torch.compiler.assume_constant_result
def backend(device: str, dtype: torch.dtype, group: PlaneGroup) -> str:
    """The implementation for tensors of this kind: "cpp", "triton" (P4 and P4M only) or "torch"."""
    real = dtype.is_floating_point and dtype != torch.float64
    if real and group in triton_kernels.GROUPS and triton_kernels.available(device):
        return "triton"
    return "cpp" if fused.available(device, dtype) else "torch"


def prepare(psi: Tensor, filters: FilterTransform) -> Weight:
    """The filters ``(O, K, |G|, k, k)`` as :func:`gather` and :func:`scatter` multiply by them."""
    if _backend(psi, filters) == "cpp":
        return (fused.prepare(psi, filters),)
    return filters.weight(psi)


def gather(
    f: Tensor | list[Tensor],
    weight: Weight,
    filters: FilterTransform,
    taps: Tensor,
    size: tuple[int, int],
    outputs: int,
    stride: int = 1,
    *,
    bias: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """The convolution: ``out^(y) = sum_s v^_s(y) phi^_s`` with ``v_s(h; y) = f(h, stride * y + taps[s, h])``.

    Shapes: f ``(B, K, |G|, H, W)``, or two whose fields are taken together; weight, of :func:`prepare`; taps ``(T, |G|,
    2)``, in pixels; bias ``(outputs,)`` -> ``(B, outputs, |G|, *size)``.
    """
    maps = [x.contiguous() for x in (f if isinstance(f, list) else [f])]
    body = _backend(maps[0], filters)
    f = maps[0] if body == "cpp" or len(maps) == 1 else torch.cat(maps, dim=1)
    if body == "triton":
        return _finish(triton_kernels.gather(f, weight, taps, stride, size), bias, relu)
    out = f.new_empty(len(f), outputs, f.shape[2], *size)
    if body == "cpp":
        writing = fused.Writing("rectified" if relu else "plain")
        fused.gather(maps, *weight, filters, taps, stride, [out], bias=bias, writing=writing)
        return out
    order = f.shape[2]
    blocks, memory = _blocks(out, order * weight[0].shape[2], f)
    for block in blocks:
        v = analyse(f, filters.matrix, taps, stride, block, memory)
        synthesise(products(weight, v), filters.matrix, _in_place(order), 1, block, out)
    return _finish(out, bias, relu)


def scatter(
    f: Tensor,
    weight: Weight,
    filters: FilterTransform,
    taps: Tensor,
    stride: int,
    size: tuple[int, int],
    outputs: int,
    *,
    bias: Tensor | None = None,
) -> Tensor:
    """The transposed convolution: ``out(g, stride * y + taps[t, g]) += O_t(g; y)`` with ``O^_t(y) = f^(y) psi^_t``.

    Shapes: as of :func:`gather`.
    """
    body, f = _backend(f, filters), f.contiguous()
    if body == "triton":
        return _finish(triton_kernels.scatter(f, weight, taps, stride, size), bias, relu=False)
    order = f.shape[2]
    if body == "cpp":
        out = f.new_empty(len(f), outputs, order, *size)
        fused.scatter([f], *weight, filters, taps, stride, out, bias=bias)
        return out
    out = f.new_zeros(len(f), outputs, order, *size)
    blocks, memory = _blocks(f, order * max(weight[0].shape[1:]), f)
    for block in blocks:
        v = analyse(f, filters.matrix, _in_place(order), 1, block, memory)
        synthesise(products(weight, v), filters.matrix, taps, stride, block, out)
    return _finish(out, bias, relu=False)


def filter_gradient(e: Tensor, f: Tensor, psi: Tensor, filters: FilterTransform, taps: Tensor, stride: int) -> Tensor:
    """The gradient of psi: products of ``f^`` and of ``v_s(h; y) = e(h, stride * y + taps[s, h])``, summed over y.

    Shapes: e, the gradient of the output, ``(B, O, |G|, H', W')``; f ``(B, K, |G|, H, W)``; psi ``(O, K, |G|, k, k)``;
    taps ``(T, |G|, 2)``.
    """
    body = _backend(f, filters)
    if body == "triton":
        return filters.filter_gradient(*triton_kernels.filter_gradient(e, f, taps, stride, filters.lines), psi)
    e, f = e.contiguous(), f.contiguous()
    if body == "cpp":
        return fused.filter_gradient(e, [f], psi, filters, taps, stride)
    order, inputs, outputs = f.shape[2], f.shape[1], e.shape[1]
    rows, columns = (filters.lines, inputs, len(taps) * outputs), (2 * inputs, 2 * len(taps) * outputs)
    gradients = [psi.new_zeros(rows), psi.new_zeros(columns if order > filters.lines else (0, 0))]
    blocks, memory = _blocks(f, order * len(taps) * outputs, f)
    spectrum = f.new_empty(order * inputs * max((block.size for block in blocks), default=0))
    for block in blocks:
        v = analyse(e, filters.matrix, taps, stride, block, memory)
        f_hat = analyse(f, filters.matrix, _in_place(order), 1, block, spectrum)
        add_outer_products(gradients, f_hat, v)
    return filters.filter_gradient(*gradients, psi)


def _finish(out: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    out = out if bias is None else out.add_(bias.view(-1, 1, 1, 1))
    return out.relu_() if relu else out


def _backend(f: Tensor, filters: FilterTransform) -> str:
    return backend(f.device.type, f.dtype, filters.group)


def _blocks(grid: Tensor, components: int, f: Tensor) -> tuple[list[Block], Tensor]:
    """The grid ``(B, ..., H, W)`` in blocks, and memory for that many components at the positions of one of them."""
    images, height, width = len(grid), *grid.shape[-2:]
    positions = max(1, BLOCK_BYTES[f.device.type] // (components * f.element_size()))
    rows = min(height, max(1, positions // width))
    rows = -(-height // -(-height // rows))  # equal parts
    together = max(1, min(images, positions // (height * width))) if rows == height else 1
    blocks = [
        Block(slice(b, min(b + together, images)), slice(y, min(y + rows, height)), width)
        for b in range(0, images, together)
        for y in range(0, height, rows)
    ]
    return blocks, _workspace(components * together * rows * width, f)


def _workspace(size: int, f: Tensor) -> Tensor:
    """A work buffer that the next call overwrites. On a CPU it is kept, since fresh pages from the system are slow."""
    if f.device.type != "cpu":
        return f.new_empty(size)
    kept = _KEPT.__dict__.get(f.dtype)
    if kept is None or len(kept) < size:
        with torch.inference_mode(False):  # the tensor may be used in a training later
            kept = _KEPT.__dict__[f.dtype] = torch.empty(size, dtype=f.dtype, device="cpu")
    return kept[:size]


def release_workspace() -> None:
    """Release the work buffer of this thread."""
    _KEPT.__dict__.clear()


_KEPT = threading.local()


@cache
def _in_place(order: int) -> Tensor:
    """A single tap, at the position itself."""
    return torch.zeros(1, order, 2, dtype=torch.int64, device="cpu")
