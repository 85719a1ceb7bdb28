"""Shifted reads and writes of feature maps, with the Fourier transform of the point group on the way.

These are the parts of :mod:`study.gconv.fast.fourier` that are not matrix products, in plain PyTorch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Block:
    """A part of the grid on which the products are done: images ``images``, rows ``rows``, and all ``columns``."""

    images: slice
    rows: slice
    columns: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(images, rows, columns)."""
        return self.images.stop - self.images.start, self.rows.stop - self.rows.start, self.columns

    @property
    def size(self) -> int:
        """Number of positions."""
        images, rows, columns = self.shape
        return images * rows * columns


def analyse(f: Tensor, matrix: Tensor, taps: Tensor, stride: int, block: Block, out: Tensor) -> Tensor:
    """``v_t(c; y) = sum_h matrix[c, h] f(h, stride * y + taps[t, h])`` at the positions y of the block.

    Shapes: f ``(B, K, |G|, H, W)``, contiguous, and 0 beyond its border; matrix ``(|G|, |G|)``; taps
    ``(T, |G|, 2)``, offsets in pixels.

    Returns:
        ``(|G|, T * K, positions)``, in the memory of ``out``.
    """
    order, n_taps, fields = len(matrix), len(taps), f.shape[1]
    v = out[: order * n_taps * fields * block.size].view(order, n_taps * fields, block.size)
    images, rows, columns = block.shape
    top, left = (max(0, -int(taps[..., axis].min())) for axis in (0, 1))
    bottom = max(0, stride * (block.rows.stop - 1) + int(taps[..., 0].max()) + 1 - f.shape[-2])
    right = max(0, stride * (columns - 1) + int(taps[..., 1].max()) + 1 - f.shape[-1])
    padded = F.pad(f[block.images].flatten(1, 2), (left, right, top, bottom)).unflatten(1, f.shape[1:3])
    shifted = f.new_empty(order, fields, images, rows, columns)  # one tap at a time
    for t, offsets in enumerate(taps.tolist()):
        for h, (dy, dx) in enumerate(offsets):
            y, x = top + stride * block.rows.start + dy, left + dx
            part = padded[:, :, h, y : y + stride * rows : stride, x : x + stride * columns : stride]
            shifted[h].copy_(part.transpose(0, 1))
        v.view(order, n_taps, -1)[:, t] = matrix @ shifted.view(order, -1)
    return v


def synthesise(v: Sequence[Tensor], matrix: Tensor, taps: Tensor, stride: int, block: Block, out: Tensor) -> None:
    """``out(g, stride * y + taps[t, g]) += sum_c matrix[c, g] v_t(c; y)`` for the positions y of the block.

    Shapes: v, one contiguous tensor ``(T * K, positions)`` for each component c; out ``(B, K, |G|, H, W)``. Values
    beyond the border of ``out`` are dropped. With a single tap the result is written, not added.
    """
    order, n_taps, fields = len(matrix), len(taps), out.shape[1]
    images, rows, columns = block.shape
    target = out[block.images]
    height, width = out.shape[-2:]
    spectrum = torch.stack(list(v)).view(order, n_taps, -1)
    for t, offsets in enumerate(taps.tolist()):
        planes = (matrix.T @ spectrum[:, t]).view(order, fields, images, rows, columns)
        for g, (dy, dx) in enumerate(offsets):
            y0, y1 = _inside(stride * block.rows.start + dy, stride, height, rows)
            x0, x1 = _inside(dx, stride, width, columns)
            y, x = stride * (block.rows.start + y0) + dy, stride * x0 + dx
            there = target[:, :, g, y : y + stride * (y1 - y0) : stride, x : x + stride * (x1 - x0) : stride]
            part = planes[g, :, :, y0:y1, x0:x1].transpose(0, 1)
            there.copy_(part) if n_taps == 1 else there.add_(part)


def _inside(offset: int, stride: int, size: int, count: int) -> tuple[int, int]:
    """The range of y in [0, count) with ``0 <= stride * y + offset < size``."""
    first = min(count, max(0, -(offset // stride)))
    return first, max(first, min(count, (size - 1 - offset) // stride + 1))
