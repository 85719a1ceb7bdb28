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

import math
import threading
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from study.gconv import filters, transform, triton_kernels
from study.gconv.transform import Block, analyse, synthesise
from study.groups import GROUPS, PlaneGroup

BLOCK_BYTES = {"cpu": 2**24, "cuda": 2**28}
"""Memory of the ``v^`` of one block: more leaves the CPU's caches, less makes the products small and slow."""


@torch.library.custom_op("study::group_conv", mutates_args=())
def group_conv(f: Tensor, psi: Tensor, group: str, padding: int) -> Tensor:
    """Eq. 2, with stride 1 and zero padding.

    Shapes: f ``(B, K, |G|, H, W)``, psi ``(O, K, |G|, k, k)`` -> ``(B, O, |G|, H', W')``.
    """
    filters = FilterTransform.get(group, "convolution", psi)
    size = _output_size(f, psi.shape[-1], padding)
    return _gather(f, filters.weight(psi), filters, filters.taps - padding, 1, size)


@torch.library.custom_op("study::group_conv_backward", mutates_args=())
def group_conv_backward(
    e: Tensor, f: Tensor, psi: Tensor, group: str, padding: int, wants_f: bool, wants_psi: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of f and psi, given that of the output; empty where they are not wanted."""
    filters = FilterTransform.get(group, "adjoint convolution", psi)
    return _gather_backward(e, f, psi, filters, filters.taps - (psi.shape[-1] - 1 - padding), 1, wants_f, wants_psi)


@torch.library.custom_op("study::group_conv_transpose", mutates_args=())
def group_conv_transpose(f: Tensor, psi: Tensor, group: str, stride: int, padding: int) -> Tensor:
    """Eq. 2, transposed.

    Shapes: f ``(B, K, |G|, H, W)``, psi ``(O, K, |G|, k, k)`` -> ``(B, O, |G|, H', W')``.
    """
    filters = FilterTransform.get(group, "transposed convolution", psi)
    size = _transposed_output_size(f, psi.shape[-1], stride, padding)
    return _scatter(f, filters.weight(psi), filters, filters.taps - padding, stride, size)


@torch.library.custom_op("study::group_conv_transpose_backward", mutates_args=())
def group_conv_transpose_backward(
    e: Tensor, f: Tensor, psi: Tensor, group: str, stride: int, padding: int, wants_f: bool, wants_psi: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of f and psi, given that of the output; empty where they are not wanted."""
    filters = FilterTransform.get(group, "adjoint transposed convolution", psi)
    return _gather_backward(e, f, psi, filters, filters.taps - padding, stride, wants_f, wants_psi)


@torch.library.custom_op("study::group_conv_ready", mutates_args=())
def group_conv_ready(
    f: Tensor, one: Tensor, two: Tensor, bias: Tensor, group: str, kernel_size: int, stride: int, padding: int
) -> Tensor:
    """:func:`group_conv` for inference, with a filter that :func:`ready_filter` has transformed and a bias ``(O,)``."""
    filters = _filter_transform(GROUPS[group], "convolution", kernel_size, f.dtype, f.device)
    size = _output_size(f, kernel_size, padding)
    return _gather(f, (one, two), filters, filters.taps - padding, 1, size).add_(bias.view(-1, 1, 1, 1))


@torch.library.custom_op("study::group_conv_transpose_ready", mutates_args=())
def group_conv_transpose_ready(
    f: Tensor, one: Tensor, two: Tensor, bias: Tensor, group: str, kernel_size: int, stride: int, padding: int
) -> Tensor:
    """:func:`group_conv_transpose` for inference, likewise."""
    filters = _filter_transform(GROUPS[group], "transposed convolution", kernel_size, f.dtype, f.device)
    size = _transposed_output_size(f, kernel_size, stride, padding)
    return _scatter(f, (one, two), filters, filters.taps - padding, stride, size).add_(bias.view(-1, 1, 1, 1))


def ready_filter(psi: Tensor, group: str, *, transposed: bool) -> tuple[Tensor, Tensor]:
    """The filter ``(O, K, |G|, k, k)`` as the two above want it."""
    kind = "transposed convolution" if transposed else "convolution"
    return FilterTransform.get(group, kind, psi).weight(psi)


@dataclass(frozen=True)
class FilterTransform:
    """From filters on the group to the matrices ``phi^`` of each irrep, and back again for their gradient.

    A row of the irrep of dimension 2 is a vector that ``phi^`` multiplies from the right, whichever row it is: P4M has
    two. P4 has one, as the other would be the same up to sign and order.

    Attributes:
        matrix: ``(|G|, |G|)``, from a function on the group to its components: first one for each irrep of dimension 1,
            then the rows of the one of dimension 2.
        lines: how many irreps of dimension 1 there are.
        rows: how many rows of the other.
        taps: ``(T, |G|, 2)``, where ``r_h s`` lies, counted from the corner of the filter.
        entries: ``((lines + 4) * T, |G| * T)``, from the taps of psi to the entries of ``d_rho / |G| phi^_s``.
        swaps: whether output and input fields change places, as in an adjoint.
        spreads: whether the taps are of the output, as in a transposed convolution.
    """

    matrix: Tensor
    lines: int
    rows: int
    taps: Tensor
    entries: Tensor
    swaps: bool
    spreads: bool

    @staticmethod
    def get(group: str, kind: str, psi: Tensor) -> "FilterTransform":
        """That of a kind of convolution, for filters like psi."""
        return _filter_transform(GROUPS[group], kind, psi.shape[-1], psi.dtype, psi.device)

    def weight(self, psi: Tensor) -> tuple[Tensor, Tensor]:
        """The matrices by which :func:`_products` multiplies: ``(lines, M, N)`` and ``(2 M, 2 N)``.

        Shapes: psi ``(O, K, |G|, k, k)``. M counts output fields and N taps and input fields, or, if it ``spreads``, M
        taps and output fields and N input fields.
        """
        spectrum = _times_transposed(self.entries, psi.flatten(2).flatten(0, 1))  # (entries * T, O * K)
        spectrum = spectrum.view(self.lines + 4, -1, *psi.shape[:2])  # (entry, T, O, K)
        if self.swaps:
            spectrum = spectrum.transpose(2, 3)  # (entry, T, out, in)
        one, two = spectrum[: self.lines], spectrum[self.lines :].unflatten(0, (2, 2))
        if self.spreads:
            one, two = one.flatten(1, 2), two.permute(0, 2, 3, 1, 4).flatten(3, 4).flatten(0, 2)  # (j, T, out, l, in)
            return one.contiguous(), two.contiguous()
        one, two = one.transpose(1, 2), two.permute(0, 3, 1, 2, 4)  # (line, out, T, in), (j, out, l, T, in)
        return one.flatten(2, 3).contiguous(), two.flatten(2, 4).flatten(0, 1).contiguous()

    def filter_gradient(self, one: Tensor, two: Tensor, psi: Tensor) -> Tensor:
        """The gradient of psi, given those of the matrices that :meth:`weight` returns (without ``spreads``)."""
        spectrum = psi.new_empty(self.lines + 4, len(self.taps), *psi.shape[:2])  # (entry, T, O, K)
        entries = spectrum.transpose(2, 3) if self.swaps else spectrum  # (entry, T, out, in)
        outputs, inputs = entries.shape[2:]
        entries[: self.lines] = one.view(self.lines, outputs, -1, inputs).transpose(1, 2)
        entries[self.lines :].unflatten(0, (2, 2)).copy_(two.view(2, outputs, 2, -1, inputs).permute(0, 2, 3, 1, 4))
        return (spectrum.flatten(2).flatten(0, 1).T @ self.entries).view(psi.shape)


@cache
def _filter_transform(
    group: PlaneGroup, kind: str, kernel_size: int, dtype: torch.dtype, device: torch.device
) -> FilterTransform:
    order, n_taps = group.order, kernel_size**2
    *lines, plane = group.irreps
    rows = len(plane) // 4  # |G| = lines + rows * 2
    characters = np.stack([line[:, 0, 0] for line in lines])  # (line, u)
    components = [characters, *(plane[:, i].T for i in range(rows))]  # rho(h)[i, l] at (l, h), for each row i

    # r_h s for every tap s, about the centre of the filter, which may lie between pixels
    grid = np.stack(np.meshgrid(*2 * [np.arange(kernel_size)], indexing="ij"), axis=-1).reshape(n_taps, 2)
    doubled = 2 * grid - (kernel_size - 1)
    moved = (np.einsum("hij,tj->thi", group.matrices, doubled) + kernel_size - 1) // 2  # (T, h, 2)

    # phi_s(u) = psi(element[s, u], tap[s, u])
    element = np.tile(np.arange(order), (n_taps, 1))
    tap = np.tile(np.arange(n_taps)[:, None], (1, order))
    if kind == "convolution":
        tap = moved @ [kernel_size, 1]  # psi(u, r_u s)
    elif kind == "adjoint convolution":
        element, tap = group.inverse[element], n_taps - 1 - tap  # psi(u^-1, -s)
    elif kind == "adjoint transposed convolution":
        element = group.inverse[element]  # psi(u^-1, s)
    # out^_ij = sum_l v^_il phi^_lj with phi^_lj = sum_u phi(u) rho(u)_jl
    coefficients = np.concatenate([characters, 2 * plane.transpose(1, 2, 0).reshape(4, order)]) / order  # (entry, u)
    entries = np.zeros((len(coefficients), n_taps, order * n_taps))
    for s, u in np.ndindex(n_taps, order):
        entries[:, s, element[s, u] * n_taps + tap[s, u]] += coefficients[:, u]

    return FilterTransform(
        matrix=torch.tensor(np.concatenate(components), dtype=dtype, device=device),
        lines=len(lines),
        rows=rows,
        taps=torch.tensor(moved),
        entries=torch.tensor(entries.reshape(-1, order * n_taps), dtype=dtype, device=device),
        swaps=kind.startswith("adjoint"),
        spreads=kind == "transposed convolution",
    )


def _gather(
    f: Tensor, weight: tuple[Tensor, Tensor], filters: FilterTransform, taps: Tensor, stride: int, size: tuple[int, int]
) -> Tensor:
    """``out^(y) = sum_s v^_s(y) phi^_s`` with ``v_s(h; y) = f(h, stride * y + taps[s, h])``."""
    if transform.form(f.device.type, f.dtype) == "triton":
        return triton_kernels.gather(f, weight, taps, stride, size)
    f = f.contiguous()
    order = f.shape[2]
    out = f.new_empty(len(f), weight[0].shape[1], order, *size)
    blocks, memory = _blocks(out, order * weight[0].shape[2], f)
    for block in blocks:
        v = analyse(f, filters.matrix, taps, stride, block, memory)
        synthesise(_products(weight, v), filters.matrix, _in_place(order), 1, block, out)
    return out


def _scatter(
    f: Tensor, weight: tuple[Tensor, Tensor], filters: FilterTransform, taps: Tensor, stride: int, size: tuple[int, int]
) -> Tensor:
    """``out(g, stride * y + taps[t, g]) += O_t(g; y)`` with ``O^_t(y) = f^(y) psi^_t``."""
    if transform.form(f.device.type, f.dtype) == "triton":
        return triton_kernels.scatter(f, weight, taps, stride, size)
    f = f.contiguous()
    order = f.shape[2]
    out = f.new_zeros(len(f), weight[0].shape[1] // len(taps), order, *size)
    blocks, memory = _blocks(f, order * weight[0].shape[1], f)
    for block in blocks:
        v = analyse(f, filters.matrix, _in_place(order), 1, block, memory)
        synthesise(_products(weight, v), filters.matrix, taps, stride, block, out)
    return out


def _gather_backward(
    e: Tensor,
    f: Tensor,
    psi: Tensor,
    filters: FilterTransform,
    taps: Tensor,
    stride: int,
    wants_f: bool,
    wants_psi: bool,
) -> tuple[Tensor, Tensor]:
    """Both gradients from one transform of e; see the head of this file."""
    weight = filters.weight(psi)
    if transform.form(f.device.type, f.dtype) == "triton":
        grad_f = triton_kernels.gather(e, weight, taps, stride, f.shape[3:]) if wants_f else f.new_empty(0)
        if not wants_psi:
            return grad_f, psi.new_empty(0)
        return grad_f, filters.filter_gradient(*triton_kernels.filter_gradient(e, f, taps, stride, filters.lines), psi)
    e, f = e.contiguous(), f.contiguous()
    order, fields = f.shape[2], f.shape[1]
    gradients = [torch.zeros_like(w) for w in weight] if wants_psi else []
    grad_f = torch.empty_like(f) if wants_f else f.new_empty(0)
    blocks, memory = _blocks(f, order * weight[0].shape[2], f)
    spectrum = f.new_empty(order * fields * max((block.size for block in blocks), default=0) if wants_psi else 0)
    for block in blocks:
        v = analyse(e, filters.matrix, taps, stride, block, memory)
        if wants_f:
            synthesise(_products(weight, v), filters.matrix, _in_place(order), 1, block, grad_f)
        if wants_psi:
            f_hat = analyse(f, filters.matrix, _in_place(order), 1, block, spectrum)
            _add_outer_products(gradients, f_hat, v)
    return grad_f, filters.filter_gradient(*gradients, psi) if wants_psi else psi.new_empty(0)


def _products(weight: tuple[Tensor, Tensor], v: Tensor) -> list[Tensor]:
    """The matrices of every irrep times its components: ``(|G|, N, positions)`` -> |G| times ``(M, positions)``."""
    one, two = weight
    products = [_times_transposed(w, component.T) for w, component in zip(one, v, strict=False)]
    for row in v[len(one) :].view(-1, two.shape[1], v.shape[-1]):  # a row's two components side by side
        products += _times_transposed(two, row.T).chunk(2)
    return products


def _add_outer_products(gradients: list[Tensor], a: Tensor, b: Tensor) -> None:
    """Add to the gradient of every matrix the products of ``a (|G|, M, positions)`` and ``b (|G|, N, positions)``."""
    one, two = gradients
    for gradient, x, y in zip(one, a, b, strict=False):
        gradient += _times_transposed(x, y)
    rows = (x[len(one) :].view(-1, size, x.shape[-1]) for x, size in [(a, two.shape[0]), (b, two.shape[1])])
    for x, y in zip(*rows, strict=True):
        two += _times_transposed(x, y)


def _times_transposed(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b.T``, on a CPU by oneDNN, as convolutions are: on AMD twice as fast as MKL, which is behind ``@``."""
    if a.device.type == "cpu" and a.dtype == torch.float32 and _ONEDNN:
        return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return a @ b.T


_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _blocks(grid: Tensor, components: int, f: Tensor) -> tuple[list[Block], Tensor]:
    """The grid ``(B, ..., H, W)`` in blocks, and memory for that many components at the positions of one of them."""
    images, height, width = len(grid), *grid.shape[-2:]
    positions = max(1, BLOCK_BYTES.get(f.device.type, 2**28) // (components * f.element_size()))
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
        kept = _KEPT.__dict__[f.dtype] = f.new_empty(size)
    return kept[:size]


_KEPT = threading.local()


@cache
def _in_place(order: int) -> Tensor:
    """A single tap, at the position itself."""
    return torch.zeros(1, order, 2, dtype=torch.int64)


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
    return torch.empty_like(f) if wants_f else f.new_empty(0), torch.empty_like(psi) if wants_psi else psi.new_empty(0)


@group_conv_transpose_backward.register_fake
def _(e, f, psi, group, stride, padding, wants_f, wants_psi):
    return torch.empty_like(f) if wants_f else f.new_empty(0), torch.empty_like(psi) if wants_psi else psi.new_empty(0)


@register_flop_formula([torch.ops.study.group_conv, torch.ops.study.group_conv_transpose])
def _forward_flops(f_shape, psi_shape, *settings, out_shape, **_) -> int:
    positions = out_shape if len(settings) == 2 else f_shape  # of a transposed convolution those of its input
    return _flops(psi_shape, positions)


@register_flop_formula([torch.ops.study.group_conv_backward, torch.ops.study.group_conv_transpose_backward])
def _backward_flops(e_shape, f_shape, psi_shape, group, *settings, **_) -> int:
    *settings, wants_f, wants_psi = settings
    return (wants_f + wants_psi) * _flops(psi_shape, e_shape if len(settings) == 1 else f_shape)


def _flops(psi_shape, positions) -> int:
    """Two per product: sum_rho d_rho^3 (in real arithmetic) for every position, tap and pair of fields."""
    outputs, inputs, order, *kernel = psi_shape
    images, _, _, *grid = positions
    return 2 * {4: 2 + 4, 8: 4 + 8}[order] * outputs * inputs * math.prod(kernel) * images * math.prod(grid)


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
    """Hardly anybody needs it, so it is that of the dense form."""

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
    return filters.group_weight(psi, filters.feature_filter_taps(GROUPS[group], psi.shape[-1]).to(psi.device))


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
