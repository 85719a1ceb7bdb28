"""How networks halve and double their grid, and the sizes that they take, which follow from the law of each layer."""

from dataclasses import dataclass

from study.errors import StudyError
from study.gconv.sizes import is_exact, size_after, size_after_transposed


@dataclass(frozen=True)
class Sizes:
    """The sides, in pixels, that a network takes: multiples of ``period``, plus ``remainder``, from ``period`` up.

    Attributes:
        period, remainder: in pixels. Parts of an image that are cut at multiples of the period are pooled alike.
        exact: whether the network is equivariant on such sizes, not only defined.
    """

    period: int
    remainder: int
    exact: bool

    def check(self, height: int, width: int) -> None:
        """Make sure that the network takes an image of that size.

        Raises:
            StudyError: naming the nearest sizes that it takes.
        """
        for size in (height, width):
            smaller = (size - self.remainder) // self.period * self.period + self.remainder
            if smaller != size or size < self.period:
                fitting = [n for n in (smaller, smaller + self.period) if n >= self.period] or [self.at_least(size)]
                fault = "would break the equivariance" if self.exact else "does not fit the network"
                raise StudyError(
                    f"an image of {height} x {width} {fault}: {size} is not a multiple of {self}; "
                    f"crop or pad it symmetrically to {' or '.join(map(str, fitting))}"
                )

    def at_least(self, size: int) -> int:
        """The next size that the network takes, from ``size`` up."""
        return max(1, -(-(size - self.remainder) // self.period)) * self.period + self.remainder

    def __str__(self) -> str:
        """The period, and what is added to its multiples, for people."""
        return f"{self.period} plus {self.remainder}" if self.remainder else f"{self.period}"


@dataclass(frozen=True)
class Grid:
    """How a network halves and doubles its grid.

    Attributes:
        pool: (kernel size, stride, padding) of the pooling.
        up: those of the transposed convolution.
    """

    pool: tuple[int, int, int]
    up: tuple[int, int, int]

    def sizes(self, depth: int) -> Sizes:
        """The sizes that come back to themselves level by level, so that skip connections meet their own size.

        They are exact where every pooling is (:func:`~study.gconv.sizes.is_exact`); transposed convolutions always are.

        Args:
            depth: number of poolings.

        Raises:
            StudyError: if the two strides differ, no size comes back, or several modulo their product do.
        """
        period = self.pool[1] ** depth
        fitting = [size for size in range(period, 2 * period) if self._levels(size, depth) is not None]
        if self.pool[1] != self.up[1] or len(fitting) != 1:
            raise StudyError(f"pooling by {self.pool} and up-sampling by {self.up} do not undo each other's sizes")
        exact = all(is_exact(size, **_window(self.pool)) for size in self._levels(fitting[0], depth)[:-1])
        return Sizes(period, fitting[0] % period, exact)

    def _levels(self, size: int, depth: int) -> list[int] | None:
        """The sizes from full resolution down; None if up-sampling does not lead back the same way."""
        sizes = [size]
        for _ in range(depth):
            sizes.append(size_after(sizes[-1], **_window(self.pool)))
            if sizes[-1] < 1 or size_after_transposed(sizes[-1], **_window(self.up)) != sizes[-2]:
                return None
        return sizes


def _window(settings: tuple[int, int, int]) -> dict[str, int]:
    return dict(zip(("kernel_size", "stride", "padding"), settings, strict=True))


GRIDS = {
    "even": Grid(pool=(2, 2, 0), up=(4, 2, 1)),
    "odd": Grid(pool=(3, 2, 1), up=(3, 2, 1)),
}
"""The two exact families, for multiples of ``2 ** depth`` and for these plus 1; "odd" has the paper's 3x3 kernels."""

PAPER_LITERAL = Grid(pool=(3, 2, 1), up=(4, 2, 1))
"""The counter-example, by the name "literal": the paper as it describes itself, 3x3 pooling on 320 x 320. It is not
equivariant there, although every layer is a group convolution; on 321 x 321 the same pooling is (the "odd" grid)."""
