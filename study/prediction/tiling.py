"""Exact tiling: overlapping tiles whose kept parts together are the network's output on the whole map.

Three conditions make it exact. The sizes of the map and of the tiles are sizes that the network takes, and tiles start
on multiples of its period (``2 ** depth`` of a U-Net), so that pooling has the same pixels in a tile as in the map.
Where a tile ends inside the map, a margin of the network's receptive radius is discarded. At the map's own borders
tiles end where the map ends, so that the padding with zeros is the same.

These conditions also hold for a tile that is turned or mirrored: it is a tile of the turned map, since its other end is
on a multiple of the period too. Tiles need not be square.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from study.errors import StudyError
from study.networks.network import Network


@dataclass(frozen=True)
class Span:
    """A tile along one axis of the map, ``start`` to ``stop``, and the part of it that is kept; pixels of the map."""

    start: int
    stop: int
    kept_start: int
    kept_stop: int

    @property
    def kept(self) -> slice:
        """The kept part, counted from the start of the tile."""
        return slice(self.kept_start - self.start, self.kept_stop - self.start)


@dataclass(frozen=True)
class Tile:
    rows: Span
    columns: Span

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


def plan_tiles(network: Network, height: int, width: int, side: int) -> list[Tile]:
    """Tiles of equal shape whose kept parts cover a map of ``height`` x ``width`` pixels, once, row by row.

    The map is taken to be padded at its bottom and right to the next size that the network takes
    (:meth:`~study.networks.grid.Sizes.at_least`); the tiles lie in the padded map, and the kept parts cover it. Where
    fewer pixels do, tiles are smaller than asked for.

    Args:
        side: the largest side of a tile; a map that is smaller along an axis has one tile there.

    Raises:
        StudyError: if tiles of that side would have nothing left without their margins, or the network may see the
            whole image.
    """
    period, remainder = network.sizes.period, network.sizes.remainder
    margin = -(-network.receptive_radius // period) * period
    spent = 2 * margin + remainder  # a tile's side, but for the pixels it gains over the one before
    longest = (side - remainder) // period * period + remainder
    if longest < spent + period:
        raise StudyError(
            f"tiles of {side} pixels are too small for this network, which sees {margin}; "
            f"give --tile {spent + period} or more"
        )

    def spans(length: int) -> list[Span]:
        if length <= longest:
            return [Span(0, length, 0, length)]
        count = -(-(length - spent) // (longest - spent))
        step = -(-(length - spent) // (count * period)) * period
        count = -(-(length - spent) // step)  # rounding the step up may have saved tiles
        cuts = [0, *(margin + n * step for n in range(1, count)), length]
        starts = [min(n * step, length - step - spent) for n in range(count)]
        return [Span(start, start + step + spent, *cuts[n : n + 2]) for n, start in enumerate(starts)]

    columns = spans(network.sizes.at_least(width))
    return [Tile(rows, across) for rows in spans(network.sizes.at_least(height)) for across in columns]


def run_tiles(
    function: Callable[[Tensor], Tensor],
    read: Callable[[Tile], Tensor],
    tiles: list[Tile],
    *,
    batch_size: int = 1,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Tile, np.ndarray]]:
    """Run a network over tiles, one batch at a time, while another thread reads the next batch.

    Args:
        function: from a batch of images ``(B, C, h, w)`` to maps ``(B, M, h, w)``.
        read: the image ``(C, h, w)`` of a tile, of its whole shape.

    Yields:
        Every tile with the kept part of its maps, ``(M, kept h, kept w)``.
    """
    batches = [tiles[n : n + batch_size] for n in range(0, len(tiles), batch_size)]

    def load(batch: list[Tile]) -> Tensor:
        return torch.stack([read(tile) for tile in batch])  # (B, C, h, w)

    with ThreadPoolExecutor(max_workers=1) as reader:
        ahead = [reader.submit(load, batch) for batch in batches[:1]]
        for n, batch in enumerate(batches):
            images = ahead.pop().result().to(device)
            ahead += [reader.submit(load, later) for later in batches[n + 1 : n + 2]]
            with torch.inference_mode():
                maps = function(images).cpu().numpy()
            for tile, values in zip(batch, maps, strict=True):
                yield tile, values[:, tile.rows.kept, tile.columns.kept]
