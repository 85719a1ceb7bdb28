"""The group convolution by the Fourier transform of the point group: exact, with 5.3 times fewer products on P4M.

Substitute ``t = r_u s`` in Eq. 2, ``out(g, y) = sum_{k,u,t} f_k(gu, y + r_g t) psi_k(u, t)``. Then ``r_g t = r_gu s``,
and with ``v_{k,s}(h; y) = f_k(h, y + r_h s)`` and ``phi_{k,s}(u) = psi_k(u, r_u s)``

    out(g, y) = sum_{k,s} sum_u v_{k,s}(gu; y) phi_{k,s}(u):

at every position y, for every tap s, a correlation on the point group alone. The group's Fourier transform,
``v^(rho) = sum_h v(h) rho(h)`` and ``phi^(rho) = sum_u phi(u) rho(u)^T``, turns it into products of small matrices:

    out^(rho) = sum_{k,s} v^_{k,s}(rho) phi^_{k,s}(rho),   out(g) = sum_rho d_rho / |G| tr(rho(g)^T out^(rho)).

Instead of |G|^2 products per tap and pair of fields these are sum_rho d_rho^3: 12 instead of 64 for P4M, 6 instead of
16 for P4 (in real arithmetic). The transforms of feature maps are additions (:mod:`study.gconv.transform`).

Both gradients have this form too. That of f is the group convolution of the output's gradient e with the adjoint filter
``psi'(u, t) = psi(u^-1, -r_u^-1 t)``, and that of ``psi'`` is made of products of ``f^`` and of the ``v^`` of e. So one
transform of e serves both, and only f and psi are kept for the backward pass.

A transposed convolution, ``z = stride * y + r_g t``, needs no substitution: for every tap,
``O_t(g; y) = sum_u f(gu, y) psi(u, t)`` is such a correlation, and is added to the output at ``stride * y + r_g t``.

Everything is done block by block of positions, of which only one has its ``v^`` in memory.
"""

import threading
from collections import defaultdict
from functools import cache

import torch
from torch import Tensor

from study.gconv import transform, triton_kernels
from study.gconv.filter_transform import FilterTransform
from study.gconv.products import add_outer_products, products
from study.gconv.transform import Block, analyse, synthesise

BLOCK_BYTES = defaultdict(lambda: 2**28, cpu=2**24)
"""Memory of the ``v^`` of one block. On a CPU, more leaves the caches, and less makes the products small and slow."""


def gather(
    f: Tensor, weight: tuple[Tensor, Tensor], filters: FilterTransform, taps: Tensor, size: tuple[int, int]
) -> Tensor:
    """The convolution: ``out^(y) = sum_s v^_s(y) phi^_s`` with ``v_s(h; y) = f(h, y + taps[s, h])``.

    Shapes: f ``(B, K, |G|, H, W)``; weight, of ``filters.weight``; taps ``(T, |G|, 2)``, in pixels -> ``(B, O, |G|,
    *size)``.
    """
    if transform.backend(f.device.type, f.dtype) == "triton":
        return triton_kernels.gather(f, weight, taps, 1, size)
    f = f.contiguous()
    order = f.shape[2]
    out = f.new_empty(len(f), weight[0].shape[1], order, *size)
    blocks, memory = _blocks(out, order * weight[0].shape[2], f)
    for block in blocks:
        v = analyse(f, filters.matrix, taps, 1, block, memory)
        synthesise(products(weight, v), filters.matrix, _in_place(order), 1, block, out)
    return out


def scatter(
    f: Tensor, weight: tuple[Tensor, Tensor], filters: FilterTransform, taps: Tensor, stride: int, size: tuple[int, int]
) -> Tensor:
    """The transposed convolution: ``out(g, stride * y + taps[t, g]) += O_t(g; y)`` with ``O^_t(y) = f^(y) psi^_t``.

    Shapes: as of :func:`gather`.
    """
    if transform.backend(f.device.type, f.dtype) == "triton":
        return triton_kernels.scatter(f, weight, taps, stride, size)
    f = f.contiguous()
    order = f.shape[2]
    out = f.new_zeros(len(f), weight[0].shape[1] // len(taps), order, *size)
    blocks, memory = _blocks(f, order * max(weight[0].shape[1:]), f)
    for block in blocks:
        v = analyse(f, filters.matrix, _in_place(order), 1, block, memory)
        synthesise(products(weight, v), filters.matrix, taps, stride, block, out)
    return out


def gather_backward(
    e: Tensor,
    f: Tensor,
    psi: Tensor,
    filters: FilterTransform,
    taps: Tensor,
    stride: int,
    wants_f: bool,
    wants_psi: bool,
) -> tuple[Tensor, Tensor]:
    """Both gradients, from one transform of e: ``v_s(h; y) = e(h, stride * y + taps[s, h])``.

    Shapes: e, the gradient of the output, ``(B, O, |G|, H', W')``; f ``(B, K, |G|, H, W)``; psi ``(O, K, |G|, k, k)``;
    taps ``(T, |G|, 2)``.

    Returns:
        Those of f and of psi, empty where they are not wanted.
    """
    weight = filters.weight(psi)
    if transform.backend(f.device.type, f.dtype) == "triton":
        grad_f = triton_kernels.gather(e, weight, taps, stride, f.shape[3:]) if wants_f else f.new_empty(0)
        if not wants_psi:
            return grad_f, psi.new_empty(0)
        return grad_f, filters.filter_gradient(*triton_kernels.filter_gradient(e, f, taps, stride, filters.lines), psi)
    e, f = e.contiguous(), f.contiguous()
    order, fields = f.shape[2], f.shape[1]
    gradients = [torch.zeros_like(w) for w in weight] if wants_psi else []
    grad_f = f.new_empty(f.shape) if wants_f else f.new_empty(0)
    blocks, memory = _blocks(f, order * weight[0].shape[2], f)
    spectrum = f.new_empty(order * fields * max((block.size for block in blocks), default=0) if wants_psi else 0)
    for block in blocks:
        v = analyse(e, filters.matrix, taps, stride, block, memory)
        if wants_f:
            synthesise(products(weight, v), filters.matrix, _in_place(order), 1, block, grad_f)
        if wants_psi:
            f_hat = analyse(f, filters.matrix, _in_place(order), 1, block, spectrum)
            add_outer_products(gradients, f_hat, v)
    return grad_f, filters.filter_gradient(*gradients, psi) if wants_psi else psi.new_empty(0)


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
    """Memory that the next call overwrites. On a CPU it is kept, since the system takes long to give fresh pages."""
    if f.device.type != "cpu":
        return f.new_empty(size)
    kept = _KEPT.__dict__.get(f.dtype)
    if kept is None or len(kept) < size:
        with torch.inference_mode(False):  # it may be used in a training later
            kept = _KEPT.__dict__[f.dtype] = torch.empty(size, dtype=f.dtype, device="cpu")
    return kept[:size]


def release_workspace() -> None:
    """Give back the memory that this thread keeps."""
    _KEPT.__dict__.clear()


_KEPT = threading.local()


@cache
def _in_place(order: int) -> Tensor:
    """A single tap, at the position itself."""
    return torch.zeros(1, order, 2, dtype=torch.int64, device="cpu")
