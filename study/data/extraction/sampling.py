"""The paper's sampling: which slide is in which split, how many patches it gives, and where they lie.

Slides are drawn uniformly, patches with and without tumour with equal probability, 8:1:1 by patient. Everything is
seeded by the slide's name, so that it does not depend on who extracts which slide, or when.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from study.data.patches.manifest import case_of
from study.data.patches.schema import TEST, TRAIN, VALIDATION
from study.data.slides.tissue import CELL

_TRIES = 50  # positions drawn for each patch that is wanted, before the slide is held to have no more


@dataclass(frozen=True)
class SlideKind:
    """A slide as the sampling sees it.

    Attributes:
        name: of the slide.
        tumour: whether it has an annotation of tumour.
        partial: whether tumour may be left that nobody annotated; then it gives no patches without tumour.
    """

    name: str
    tumour: bool
    partial: bool = False


def split_slides(slides: Sequence[SlideKind], *, seed: int) -> dict[str, str]:
    """8:1:1 by patient, for those with and without tumour apart, so that every split has both.

    Where there are fewer than three patients of a kind, both kinds are split together; fewer than three in all are for
    training.
    """
    ill = {case_of(s.name) for s in slides if s.tumour}
    kinds = [sorted(ill), sorted({case_of(s.name) for s in slides} - ill)]
    if any(0 < len(names) < 3 for names in kinds):
        kinds = [sorted(kinds[0] + kinds[1])]
    rng = np.random.default_rng([seed, 0])
    split = {}
    for names in kinds:
        held_out = max(1, round(len(names) / 10)) if len(names) >= 3 else 0  # for validation, and as many for test
        for n, name in enumerate(rng.permutation(names)):
            split[str(name)] = VALIDATION if n < held_out else TEST if n < 2 * held_out else TRAIN
    return {s.name: split[case_of(s.name)] for s in slides}


def draws(slides: Sequence[SlideKind], *, patches: int, seed: int) -> dict[str, tuple[int, int]]:
    """How many patches with and without tumour every slide gives: ``patches`` in all.

    Each of them has tumour or not with equal probability, and comes from any of the slides that have such patches with
    equal probability; where no slide has one kind, all are of the other.
    """
    with_tumour = sorted(s.name for s in slides if s.tumour)
    without = sorted(s.name for s in slides if not s.partial)
    rng = np.random.default_rng([seed, 1])
    share = 0.0 if not with_tumour else 1.0 if not without else 0.5
    positive = int(rng.binomial(patches, share))
    counts = {s.name: [0, 0] for s in slides}
    for kind, (names, count) in enumerate([(with_tumour, positive), (without, patches - positive)]):
        if names:
            drawn = rng.multinomial(count, np.full(len(names), 1 / len(names)))
            for name, n in zip(names, drawn, strict=True):
                counts[name][kind] = int(n)
    return {name: (positive, negative) for name, (positive, negative) in counts.items()}


def draw_positions(
    *,
    name: str,
    seed: int,
    wanted: tuple[int, int],
    size: int,
    shape: tuple[int, int],
    tissue: np.ndarray,
    tumour: np.ndarray,
    has_tumour: Callable[[int, int], bool],
) -> list[tuple[int, int]]:
    """Upper left corners (x, y) of a slide's patches, in pixels of the view, in the order in which to read them.

    A cell and a place in it are drawn uniformly among the cells that can be the patch's corner: with tissue in the
    patch, and with tumour or without. Patches may overlap, as independent draws do.

    Args:
        name, seed: of the slide, and of the study; nothing else seeds the draws.
        wanted: number of patches with and without tumour.
        size: side of a patch in pixels.
        shape: (height, width) of the view in pixels.
        tissue, tumour: bool ``(rows, columns)``: which cells of :data:`CELL` pixels have any.
        has_tumour: whether the patch at (x, y) has any tumour pixel, exactly.

    Returns:
        Fewer than wanted, if the slide has no such patches.
    """
    reach = -(-size // CELL)  # cells that a patch covers if its corner is a cell's
    some_tissue = _any_in_window(tissue, reach)
    some_tumour = _any_in_window(tumour, reach + 1)  # wherever in its cell the corner is
    fits = np.zeros(tissue.shape, bool)
    fits[: max(0, (shape[0] - size) // CELL + 1), : max(0, (shape[1] - size) // CELL + 1)] = True
    rng = np.random.default_rng([seed, 2, zlib.crc32(name.encode())])
    positions = []
    for positive, count in zip((True, False), wanted, strict=True):
        cells = np.flatnonzero(fits & some_tissue & (some_tumour == positive))
        found = 0
        for _ in range(_TRIES * count if len(cells) else 0):
            if found == count:
                break
            row, column = divmod(int(cells[rng.integers(len(cells))]), tissue.shape[1])
            x = min(column * CELL + int(rng.integers(CELL)), shape[1] - size)
            y = min(row * CELL + int(rng.integers(CELL)), shape[0] - size)
            if not positive or _in_whole_cells(tumour, x, y, size) or has_tumour(x, y):
                positions.append((x, y))
                found += 1
    return sorted(positions, key=_along_the_z_curve)  # neighbours come together, so that they can be read at once


def _in_whole_cells(cells: np.ndarray, x: int, y: int, size: int) -> bool:
    """Whether any cell is set of those that lie whole in a window."""
    rows, columns = (slice(-(-start // CELL), (start + size) // CELL) for start in (y, x))
    return bool(cells[rows, columns].any())


def _along_the_z_curve(position: tuple[int, int]) -> tuple[int, int, int]:
    """The bits of x and y (in cells) in turn: what is near in this order is near on the slide, most of the time."""
    x, y = position
    bits = (((x // CELL >> n) & 1) << (2 * n) | ((y // CELL >> n) & 1) << (2 * n + 1) for n in range(20))
    return sum(bits), x, y


def _any_in_window(cells: np.ndarray, reach: int) -> np.ndarray:
    """For each cell: whether any of the ``reach`` x ``reach`` cells from it to the right and downwards is set."""
    sums = np.pad(cells, ((0, reach), (0, reach))).astype(np.int32).cumsum(axis=0).cumsum(axis=1)
    sums = np.pad(sums, ((1, 0), (1, 0)))  # (rows + reach + 1, columns + reach + 1)
    return (sums[reach:, reach:] - sums[:-reach, reach:] - sums[reach:, :-reach] + sums[:-reach, :-reach])[
        : cells.shape[0], : cells.shape[1]
    ] > 0
