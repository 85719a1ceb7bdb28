"""The equations of the group convolutions by the book, as loops, to hold every form of the layers against."""

from itertools import product

import numpy as np
import torch

from study.gconv import (
    GroupConv2d,
    GroupConvTranspose2d,
    LiftingConv2d,
    ProjectionConv2d,
    SymmetricConv2d,
    SymmetricConvTranspose2d,
)

OF_IMAGES = (LiftingConv2d, SymmetricConv2d, SymmetricConvTranspose2d)
TRANSPOSED = (GroupConvTranspose2d, SymmetricConvTranspose2d)


def random_input(layer, size=(5, 4), batch=2, dtype=torch.float64):
    planes = () if isinstance(layer, OF_IMAGES) else (layer.group.order,)
    return torch.randn(batch, layer.in_channels, *planes, *size, dtype=dtype)


def relative_error(actual, expected):
    assert actual.shape == expected.shape
    return ((actual - expected).abs().max() / expected.abs().max()).item()


# The equations, by the book. Positions are counted from the corner of the filter, whose centre is at (k - 1) / 2: the
# offsets t are half-integers where k is even, and centre + r_g t is a position of the filter again.


def taps(matrix, kernel_size):
    """Each tap t, and r_g t."""
    centre = (kernel_size - 1) / 2
    for tap in np.ndindex(kernel_size, kernel_size):
        row, column = centre + matrix @ (np.array(tap) - centre)
        yield tap, (int(row), int(column))


def index_of(matrix, group):
    return next(g for g in range(group.order) if (group.matrices[g] == matrix).all())


def read(f, place, layer):
    """``f(y + place)`` for every position y of the output."""
    padding, stride = layer.padding, layer.stride
    mode = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[layer.padding_mode]
    f = np.pad(f, [(0, 0), (0, 0), (padding, padding), (padding, padding)], mode)
    height, width = [(size - layer.kernel_size) // stride + 1 for size in f.shape[-2:]]
    rows, columns = place[0] + stride * np.arange(height), place[1] + stride * np.arange(width)
    return f[:, :, rows[:, None], columns]


def mix(f, psi):
    """Sum over the input channels k: ``(B, k, H, W)`` and ``(o, k)`` -> ``(B, o, H, W)``."""
    return np.einsum("bkyx,ok->boyx", f, psi)


def equation_1(layer, f, psi):
    group = layer.group
    return np.stack(
        [
            sum(mix(read(f, place, layer), psi[:, :, *t]) for t, place in taps(group.matrices[g], layer.kernel_size))
            for g in range(group.order)
        ],
        axis=2,
    )


def equation_2(layer, f, psi):
    group = layer.group
    planes = []
    for g in range(group.order):
        plane = 0
        for u in range(group.order):
            gu = index_of(group.matrices[g] @ group.matrices[u], group)
            for t, place in taps(group.matrices[g], layer.kernel_size):
                plane = plane + mix(read(f[:, :, gu], place, layer), psi[:, :, u, *t])
        planes.append(plane)
    return np.stack(planes, axis=2)


def equation_3(layer, f, psi):
    group = layer.group
    return sum(
        mix(read(f[:, :, h], place, layer), psi[:, :, *t])
        for h in range(group.order)
        for t, place in taps(group.matrices[h], layer.kernel_size)
    )


def equation_2_transposed(layer, f, psi):
    group, stride, k = layer.group, layer.stride, layer.kernel_size
    size = [(n - 1) * stride + k for n in f.shape[-2:]]
    out = np.zeros((f.shape[0], layer.out_channels, group.order, *size))
    for g, u in product(range(group.order), repeat=2):
        gu = index_of(group.matrices[g] @ group.matrices[u], group)
        for (t, place), y in product(taps(group.matrices[g], k), np.ndindex(f.shape[-2:])):
            z = stride * y[0] + place[0], stride * y[1] + place[1]
            out[:, :, g, *z] += f[:, :, gu, *y] @ psi[:, :, u, *t].T
    inside = [slice(layer.padding, n - layer.padding) for n in size]  # what padding means for a transposed convolution
    return out[:, :, :, *inside]


def symmetric_filter(layer, psi):
    """The filter ``(o, k, size, size)`` of a symmetric convolution, orbit after orbit as they are met."""
    full = np.full((*psi.shape[:2], layer.kernel_size, layer.kernel_size), np.nan)
    orbit = 0
    for tap in np.ndindex(full.shape[2:]):
        if np.isnan(full[0, 0, *tap]):
            for matrix in layer.group.matrices:
                full[:, :, *dict(taps(matrix, layer.kernel_size))[tap]] = psi[:, :, orbit]
            orbit += 1
    assert orbit == psi.shape[2]
    return full


def equation_symmetric(layer, f, psi):
    full = symmetric_filter(layer, psi)
    return sum(mix(read(f, tap, layer), full[:, :, *tap]) for tap in np.ndindex(full.shape[2:]))


def equation_symmetric_transposed(layer, f, psi):
    full, stride, k = symmetric_filter(layer, psi), layer.stride, layer.kernel_size
    size = [(n - 1) * stride + k for n in f.shape[-2:]]
    out = np.zeros((f.shape[0], layer.out_channels, *size))
    for tap, y in product(np.ndindex(full.shape[2:]), np.ndindex(f.shape[-2:])):
        out[:, :, stride * y[0] + tap[0], stride * y[1] + tap[1]] += f[:, :, *y] @ full[:, :, *tap].T
    inside = [slice(layer.padding, n - layer.padding) for n in size]
    return out[:, :, *inside]


EQUATION = {
    LiftingConv2d: equation_1,
    GroupConv2d: equation_2,
    ProjectionConv2d: equation_3,
    GroupConvTranspose2d: equation_2_transposed,
    SymmetricConv2d: equation_symmetric,
    SymmetricConvTranspose2d: equation_symmetric_transposed,
}


def assert_obeys_its_equation(layer, size):
    layer = layer.double()
    f = random_input(layer, size)
    expected = torch.from_numpy(EQUATION[type(layer)](layer, f.numpy(), layer.weight.detach().numpy()))
    if layer.bias is not None:
        expected += layer.bias.detach().view(-1, *[1] * (expected.ndim - 2))  # one per field
    assert relative_error(layer(f), expected) <= 1e-12
