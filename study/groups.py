"""The plane groups that a pixel grid has: those of the paper, Z2, P4 and P4M, and the smaller P2, PM and PMM.

An element has the index ``j * rotations + k``: mirror ``j`` times (flip the last axis), then rotate ``k`` times by
``360 / rotations`` degrees counter-clockwise. This is escnn's order; GrouPy exchanges the indices 4 and 6 of P4M. An
index means an element of its own group: 1 is a quarter turn in P4, a half turn in P2 and the mirror in PM.

A group is registered here alone: by its name, its constant, and a place in :data:`GROUPS`. Layers, Fourier transforms,
networks and escnn's layers follow from its matrices; a model on it is a line in :mod:`study.networks.models`.
"""

from dataclasses import dataclass
from functools import cached_property
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from study.errors import StudyError

_QUARTER_TURN = np.array([[0, -1], [1, 0]])  # (row, column) offsets, counter-clockwise on the screen: right goes to up

FLIP = ((1, 0), (0, -1))
"""The mirror that flips the columns, on (row, column) offsets; of all groups here that have one."""

_NAMES = {
    (1, False, FLIP): "z2",
    (1, True, FLIP): "pm",
    (2, False, FLIP): "p2",
    (2, True, FLIP): "pmm",
    (4, False, FLIP): "p4",
    (4, True, FLIP): "p4m",
    (8, False, FLIP): "p8",
    (8, True, FLIP): "p8m",
}
"""The name of each group by its rotations, reflections and mirror."""


@dataclass(frozen=True)
class PlaneGroup:
    """Translations together with the point group of ``rotations`` turns, with or without reflections.

    Functions on the group are stored as ``(B, K, |G|, H, W)``: K fields with one plane for each of the |G| = ``order``
    point-group elements. The group acts on them by ``[L_g f](h, y) = f(g^-1 h, g^-1 y)`` (Cohen and Welling 2016,
    Eq. 2).

    Args:
        name: the group's own, by which tables of groups are looked up: "z2", "p2", "pm", "pmm", "p4" or "p4m".
        rotations: the turns of a full circle, the identity counted: 1, 2, 4 or, on escnn only, 8.
        reflections: whether the mirror belongs to the group, and with it its product with every turn.
        mirror: which mirror that is, as an integer matrix of (row, column) offsets.

    Raises:
        StudyError: if the name is not that of the group, or there is no such group.
    """

    name: str
    rotations: int
    reflections: bool
    mirror: tuple[tuple[int, int], tuple[int, int]] = FLIP

    def __post_init__(self) -> None:
        if not isinstance(self.rotations, Integral) or self.rotations not in (1, 2, 4, 8):
            raise StudyError(f"rotations is {self.rotations!r}; give 1, 2, 4 or 8")
        name = _NAMES.get((self.rotations, bool(self.reflections), self.mirror))
        turns = f"rotations={self.rotations} and reflections={bool(self.reflections)}"
        if name is None:
            raise StudyError(f"there is no group with {turns} and mirror={self.mirror!r}; name it in study/groups.py")
        if self.name != name:
            raise StudyError(f"the group with {turns} is {name!r}, not {self.name!r}; give it that name")

    @property
    def order(self) -> int:
        """Number of elements of the point group: 1, 2, 4 or 8 (16 for P8M)."""
        return self.rotations * (2 if self.reflections else 1)

    @cached_property
    def matrices(self) -> np.ndarray:
        """Integer matrices ``(order, 2, 2)``, acting on (row, column) offsets from the centre.

        Raises:
            StudyError: for P8 and P8M; no turn by 45 degrees maps a pixel grid to itself.
        """
        if self.rotations == 8:
            raise StudyError(
                f"{self.name} turns by 45 degrees, which no pixel grid does exactly; only escnn has its layers"
            )
        mirrors = range(2) if self.reflections else range(1)
        quarters = range(0, 4, 4 // self.rotations)
        power = np.linalg.matrix_power
        mirror = np.array(self.mirror)
        return np.stack([power(_QUARTER_TURN, k) @ power(mirror, j) for j in mirrors for k in quarters])

    @cached_property
    def product(self) -> np.ndarray:
        """The index of ``g h`` at ``[g, h]``, an integer table ``(order, order)``.

        Raises:
            StudyError: if a product is no element, or is one twice: then the matrices are not of a group.
        """
        products = self.matrices[:, None] @ self.matrices[None, :]  # (g, h, 2, 2)
        places = (products[:, :, None] == self.matrices).all(axis=(-2, -1))  # (g, h, gh)
        if (places.sum(axis=-1) != 1).any():  # argmax would call a product that is missing the identity
            raise StudyError(
                f"the matrices of {self.name} are not closed under the product; take one of {', '.join(GROUPS)}"
            )
        return places.argmax(axis=-1)

    @cached_property
    def inverse(self) -> np.ndarray:
        """The index of the inverse of each element, ``(order,)``."""
        return (self.product == 0).argmax(axis=1)

    @cached_property
    def irreps(self) -> tuple[np.ndarray, ...]:
        """The real irreducible representations of the point group, each as orthogonal matrices ``(order, d, d)``.

        First those of dimension 1, the trivial one leading; last, for P4 and P4M, one of dimension 2: the matrices. P4M
        has four and one, P4 two and one; the latter is irreducible over the real numbers only (Serre 1977, Chapter 13).
        Z2 has one, P2 and PM have two and PMM has four, all of dimension 1.

        Raises:
            StudyError: for P8 and P8M, as :attr:`matrices`.
        """
        turns = np.arange(self.order) % self.rotations
        characters = [np.ones(self.order)]
        if self.rotations % 2 == 0:
            characters.append((-1.0) ** turns)
        if self.reflections:
            determinants = np.linalg.det(self.matrices).round()
            characters += [character * determinants for character in characters]
        one_dimensional = [character.reshape(-1, 1, 1) for character in characters]
        return (*one_dimensional, self.matrices.astype(float)) if self.rotations > 2 else tuple(one_dimensional)

    def transform_image(self, x: Tensor, g: int) -> Tensor:
        """Roto-reflect an image: ``[L_g x](y) = x(g^-1 y)`` for ``x`` of shape ``(..., H, W)``.

        Raises:
            IndexError: if ``g`` is not an element of the group.
        """
        self._check_element(g)
        matrix = self.matrices[g]  # a transposition, or none, and then a sign for each axis
        if matrix[0, 0] == 0:
            x = x.transpose(-2, -1)
        return x.flip([axis for axis, sign in zip((-2, -1), matrix.sum(axis=1), strict=True) if sign < 0])

    def transform_feature(self, f: Tensor, g: int) -> Tensor:
        """Roto-reflect a feature map: ``[L_g f](h, y) = f(g^-1 h, g^-1 y)`` for ``f`` of shape ``(B, K, |G|, H, W)``.

        Raises:
            IndexError: if ``g`` is not an element of the group.
            ValueError: if the third axis of ``f`` does not hold the group's elements.
        """
        self._check_element(g)
        if f.ndim != 5 or f.shape[2] != self.order:
            raise ValueError(f"a feature map on {self.name} is (B, K, {self.order}, H, W), not {tuple(f.shape)}")
        source = torch.as_tensor(self.product[self.inverse[g]], device=f.device)  # h -> g^-1 h
        return self.transform_image(f.index_select(2, source), g)

    def _check_element(self, g: int) -> None:
        _ = self.matrices  # a group that has none acts on no grid
        if not 0 <= g < self.order:
            raise IndexError(f"{self.name} has the elements 0 to {self.order - 1}, not {g}")


Z2 = PlaneGroup("z2", rotations=1, reflections=False)
P2 = PlaneGroup("p2", rotations=2, reflections=False)
PM = PlaneGroup("pm", rotations=1, reflections=True)
PMM = PlaneGroup("pmm", rotations=2, reflections=True)
P4 = PlaneGroup("p4", rotations=4, reflections=False)
P4M = PlaneGroup("p4m", rotations=4, reflections=True)
GROUPS = {group.name: group for group in (Z2, P2, PM, PMM, P4, P4M)}
"""The groups that act on a pixel grid exactly."""

P8 = PlaneGroup("p8", rotations=8, reflections=False)
P8M = PlaneGroup("p8m", rotations=8, reflections=True)
APPROXIMATE_GROUPS = {group.name: group for group in (P8, P8M)}
"""Beyond the paper, with rotations by 45 degrees: known to :mod:`study.escnn.layers` alone."""


def roto_reflections(group: PlaneGroup) -> np.ndarray:
    """Which of the eight roto-reflections of P4M are elements of the group: booleans ``(8,)``, by their matrices.

    Of P8 and P8M, their quarter turns and reflections, which are all that a pixel grid has.
    """
    on_grid = {P8: P4, P8M: P4M}.get(group, group)
    return (P4M.matrices[:, None] == on_grid.matrices).all(axis=(-2, -1)).any(axis=1)
