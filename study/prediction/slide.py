"""A network on a whole slide, tile by tile where there is tissue, with maps on disk."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from study.data.patches.loading import to_input
from study.data.slides.slide import View
from study.data.slides.tissue import CELL, tissue_map
from study.files import require_space
from study.networks.network import Network
from study.prediction.disk_map import DiskMap
from study.prediction.tiling import Tile, plan_tiles, run_tiles
from study.tasks.stability import stability as over_roto_reflections
from study.tasks.task import Task

SIDE = 1024
"""Side of the tiles: three quarters of it are kept, at depth 4, and a P4M U-Net of width 32 takes 2 GB."""


@dataclass(frozen=True)
class Prediction:
    """The probabilities of a slide, and its area.

    Attributes:
        maps: ``(N, height, width)`` of the view: the probability of each channel of the task and, if requested, the
            mean and the standard deviation of each over the eight roto-reflections; zero outside of the tissue.
        tiles, tiles_with_tissue: the number of tiles, and of those on which the network was run.
        tissue_area: in mm².
    """

    maps: DiskMap
    tiles: int
    tiles_with_tissue: int
    tissue_area: float


def predict_view(
    network: Network,
    view: View,
    folder: Path,
    *,
    task: Task,
    side: int = SIDE,
    batch_size: int = 1,
    stability: bool = False,
) -> Prediction:
    """Run a network over a slide at one scale; in tissue, the result is that on the whole view at once, to rounding.

    The view is padded with white at its bottom and right to a size that the network's grid allows. Where the slide has
    no tissue, by the rule of extraction (:mod:`study.data.slides.tissue`), the maps are zero, whatever the network says
    of glass; tiles whose kept part has none are left out. The memory is that of one batch in the network and one that
    is being read, whatever the size of the slide.

    Args:
        network: in eval mode, on the device to run on.
        folder: folder of the maps until they are closed.
        task: what the network was trained for.
        side: the largest side of a tile, in pixels.

    Returns:
        The prediction, whose maps the caller closes.

    Raises:
        StudyError: if the slide is damaged, the tiles are too small, or the disk lacks space.
    """
    tiles = plan_tiles(network, view.height, view.width, side)
    tissue = tissue_map(view, CELL)
    chosen = [tile for tile in tiles if _has_tissue(tile, tissue)]
    count = task.outputs * (3 if stability else 1)
    _require_space(folder, view, chosen, count)
    device = next(network.parameters()).device
    function = _function(network, task, stability)

    def read(tile: Tile) -> Tensor:
        height, width = tile.shape
        image = view.read(tile.columns.start, tile.rows.start, width, height)  # (h, w, 3), white beyond the slide
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (3, h, w)

    maps = DiskMap(folder, (count, view.height, view.width))
    try:
        results = run_tiles(function, read, chosen, batch_size=batch_size, device=device)
        bar = tqdm(total=len(chosen), desc=view.slide.name, unit="tile", leave=False, disable=None)
        with closing(results), bar:  # so that reading has ended when the caller closes the slide
            for tile, values in results:
                maps.write(tile.rows.kept_start, tile.columns.kept_start, values * _pixels_of_tissue(tile, tissue))
                bar.update()
    except BaseException:
        maps.close()
        raise
    return Prediction(maps, len(tiles), len(chosen), _area(tissue, view))


def _function(network: Network, task: Task, stability: bool) -> Callable[[Tensor], Tensor]:
    """From uint8 images ``(B, 3, h, w)`` to maps ``(B, N, h, w)``.

    The network is not prepared: :func:`study.networks.deploy.deploy` would save a seventh of the time, but its rounding
    changes probabilities by up to 1e-5, the whole tolerance between the map and the network.
    """

    def maps(images: Tensor) -> Tensor:
        x = to_input(images)
        if stability:
            result = over_roto_reflections(network, x, task)
            return torch.cat([result.probability, result.mean, result.deviation], dim=1)  # (B, 3 * M, h, w)
        # TF32 would round differently in every shape of tile
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return task.probabilities(network(x))  # (B, M, h, w)

    return maps


def _has_tissue(tile: Tile, tissue: np.ndarray) -> bool:
    rows, columns = (slice(span.kept_start // CELL, -(-span.kept_stop // CELL)) for span in (tile.rows, tile.columns))
    return bool(tissue[rows, columns].any())


def _pixels_of_tissue(tile: Tile, tissue: np.ndarray) -> np.ndarray:
    """Which pixels of a tile's kept part lie in cells of tissue, bool ``(h, w)``; beyond the view they do not count."""
    rows, columns = (
        np.minimum(np.arange(span.kept_start, span.kept_stop) // CELL, cells - 1)
        for span, cells in zip((tile.rows, tile.columns), tissue.shape, strict=True)
    )
    return tissue[np.ix_(rows, columns)]


def _area(tissue: np.ndarray, view: View) -> float:
    """Area in mm²; the cells at the bottom and the right may extend beyond the slide."""
    heights, widths = (
        np.diff(np.minimum(np.arange(cells + 1) * CELL, size))
        for cells, size in zip(tissue.shape, (view.height, view.width), strict=True)
    )
    return float(heights @ tissue @ widths) * view.mpp**2 / 1e6


def _require_space(folder: Path, view: View, tiles: list[Tile], count: int) -> None:
    """Disk space for the maps, their pyramids (a third more), and the temporary files of writing a pyramid."""
    kept = sum((t.rows.kept.stop - t.rows.kept.start) * (t.columns.kept.stop - t.columns.kept.start) for t in tiles)
    meanwhile = view.height * view.width * 4 * 5 // 16  # two levels
    require_space(folder / view.slide.name, int(kept * 4 * count * (1 + 4 / 3)) + meanwhile)
