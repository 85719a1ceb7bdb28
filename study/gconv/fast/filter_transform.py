"""The Fourier transform of filters on the group; see :mod:`study.gconv.fast.fourier` for the mathematics."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from study.gconv.fast.products import times_transposed
from study.groups import GROUPS, PlaneGroup


def products_per_tap(group: PlaneGroup) -> int:
    """Multiplications for each position, tap and pair of fields, sum_rho d_rho^3: 12 on P4M, 6 on P4."""
    lines = sum(irrep.shape[-1] == 1 for irrep in group.irreps)
    rows = (group.order - lines) // 2
    return lines + 4 * rows


@dataclass(frozen=True)
class FilterTransform:
    """The map from filters on the group to the matrices ``phi^`` of each irrep, and back for their gradient.

    ``phi^`` multiplies each row of the irrep of dimension 2 from the right. P4M has two rows; P4 has one, as the other
    would be the same up to sign and order; P2, PM and PMM have none.

    Attributes:
        group: the group of the irreps.
        matrix: ``(|G|, |G|)``, from a function on the group to its components: first one for each irrep of dimension 1,
            then the rows of the one of dimension 2.
        lines: how many irreps of dimension 1 there are.
        taps: ``(T, |G|, 2)``, where ``r_h s`` lies, counted from the corner of the filter.
        places: ``(|G|, T)``, where phi_s(u) is in psi: its element times T plus its tap; on the CPU.
        entries: ``(n * T, |G| * T)``, from the taps of psi to the n entries of ``d_rho / |G| phi^_s``: one for each
            irrep of dimension 1, four for that of dimension 2.
        swaps: whether output and input fields change places, as in an adjoint.
        spreads: whether the taps are of the output, as in a transposed convolution.
    """

    group: PlaneGroup
    matrix: Tensor
    lines: int
    taps: Tensor
    places: Tensor
    entries: Tensor
    swaps: bool
    spreads: bool

    @staticmethod
    def get(group: str, kind: str, kernel_size: int, like: Tensor) -> "FilterTransform":
        """The cached transform for "convolution", "transposed convolution", or the "adjoint" of either."""
        return _make(GROUPS[group], kind, kernel_size, like.dtype, like.device)

    def weight(self, psi: Tensor) -> tuple[Tensor, Tensor]:
        """The matrices by which :func:`study.gconv.fast.products.products` multiplies: ``(lines, M, N)`` and ``(2 M, 2
        N)``.

        Shapes: psi ``(O, K, |G|, k, k)``. M counts output fields and N taps and input fields, or, if it ``spreads``, M
        taps and output fields and N input fields. Without an irrep of dimension 2 the second is ``(0, 0)``.
        """
        spectrum = times_transposed(self.entries, psi.flatten(2).flatten(0, 1))  # (entries * T, O * K)
        spectrum = spectrum.view(-1, len(self.taps), *psi.shape[:2])  # (entry, T, O, K)
        if self.swaps:
            spectrum = spectrum.transpose(2, 3)  # (entry, T, out, in)
        one = spectrum[: self.lines]
        if len(spectrum) == self.lines:
            one = one.flatten(1, 2) if self.spreads else one.transpose(1, 2).flatten(2, 3)  # (line, M, N)
            return one.contiguous(), psi.new_empty(0, 0)
        two = spectrum[self.lines :].unflatten(0, (2, 2))
        if self.spreads:
            one, two = one.flatten(1, 2), two.permute(0, 2, 3, 1, 4).flatten(3, 4).flatten(0, 2)  # (j, T, out, l, in)
            return one.contiguous(), two.contiguous()
        one, two = one.transpose(1, 2), two.permute(0, 3, 1, 2, 4)  # (line, out, T, in), (j, out, l, T, in)
        return one.flatten(2, 3).contiguous(), two.flatten(2, 4).flatten(0, 1).contiguous()

    def filter_gradient(self, one: Tensor, two: Tensor, psi: Tensor) -> Tensor:
        """The gradient of psi, given those of the matrices that :meth:`weight` returns (without ``spreads``)."""
        n_taps = len(self.taps)
        spectrum = psi.new_empty(len(self.entries) // n_taps, n_taps, *psi.shape[:2])  # (entry, T, O, K)
        entries = spectrum.transpose(2, 3) if self.swaps else spectrum  # (entry, T, out, in)
        outputs, inputs = entries.shape[2:]
        entries[: self.lines] = one.view(self.lines, outputs, -1, inputs).transpose(1, 2)
        if len(two):
            entries[self.lines :].unflatten(0, (2, 2)).copy_(two.view(2, outputs, 2, -1, inputs).permute(0, 2, 3, 1, 4))
        return (spectrum.flatten(2).flatten(0, 1).T @ self.entries).view(psi.shape)


@cache
def _make(group: PlaneGroup, kind: str, kernel_size: int, dtype: torch.dtype, device: torch.device) -> FilterTransform:
    order, n_taps = group.order, kernel_size**2
    lines = [irrep for irrep in group.irreps if irrep.shape[-1] == 1]
    planes = group.irreps[len(lines) :]  # one, or none
    rows = (order - len(lines)) // 2
    characters = np.stack([line[:, 0, 0] for line in lines])  # (line, u)
    components = [characters, *(plane[:, i].T for plane in planes for i in range(rows))]  # rho(h)[i, l] at (l, h)

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
    of_planes = [2 * plane.transpose(1, 2, 0).reshape(4, order) for plane in planes]  # (j, l, u)
    coefficients = np.concatenate([characters, *of_planes]) / order  # (entry, u)
    places = element * n_taps + tap  # (T, u)
    entries = np.zeros((len(coefficients), n_taps, order * n_taps))
    for s, u in np.ndindex(n_taps, order):
        entries[:, s, places[s, u]] += coefficients[:, u]

    return FilterTransform(
        group=group,
        matrix=torch.tensor(np.concatenate(components), dtype=dtype, device=device),
        lines=len(lines),
        taps=torch.tensor(moved, device="cpu"),  # not the default device
        places=torch.tensor(places.T, dtype=torch.int32, device="cpu").contiguous(),
        entries=torch.tensor(entries.reshape(-1, order * n_taps), dtype=dtype, device=device),
        swaps=kind.startswith("adjoint"),
        spreads=kind == "transposed convolution",
    )
