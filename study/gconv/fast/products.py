"""The matrix products of the Fourier form: those of every irrep with its components."""

import torch
from torch import Tensor


def products(weight: tuple[Tensor, Tensor], v: Tensor) -> list[Tensor]:
    """The matrices of every irrep times its components: ``(|G|, N, positions)`` -> |G| times ``(M, positions)``."""
    one, two = weight
    products = [times_transposed(w, component.T) for w, component in zip(one, v, strict=False)]
    if not len(two):
        return products
    for row in v[len(one) :].view(-1, two.shape[1], v.shape[-1]):  # the two components of a row together
        products += times_transposed(two, row.T).chunk(2)
    return products


def add_outer_products(gradients: list[Tensor], a: Tensor, b: Tensor) -> None:
    """Add to the gradient of every matrix the products of ``a (|G|, M, positions)`` and ``b (|G|, N, positions)``."""
    one, two = gradients
    for gradient, x, y in zip(one, a, b, strict=False):
        gradient += times_transposed(x, y)
    if not len(two):
        return
    rows = (x[len(one) :].view(-1, size, x.shape[-1]) for x, size in [(a, two.shape[0]), (b, two.shape[1])])
    for x, y in zip(*rows, strict=True):
        two += times_transposed(x, y)


def times_transposed(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b.T``, on a CPU by oneDNN, as convolutions are: on AMD twice as fast as MKL, which is behind ``@``."""
    if a.device.type == "cpu" and a.dtype == torch.float32 and _ONEDNN:
        return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return a @ b.T


_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
