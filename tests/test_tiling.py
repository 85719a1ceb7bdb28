"""Exact tiling: stitched tiles are the network's output on the whole map, on every group, grid and depth."""

from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import assert_refused
from hypothesis import example, given
from hypothesis import strategies as st
from properties import examples
from torch import Tensor, nn

from study.data.patches.loading import to_input
from study.data.slides.slide import Slide
from study.networks.unet import UNet, build_unet
from study.prediction.tiling import Tile, plan_tiles, run_tiles
from study.tasks.stability import stability

SLIDE = Path(__file__).parents[2] / "shared" / "data" / "slides" / "CMU-1-Small-Region.svs"


def random_unet(
    group: str, *, grid: str = "even", depth: int = 2, width: int = 4, images: Tensor | None = None
) -> UNet:
    """Random weights, scales and shifts; batch norm has the moments of ``images`` (by default noise), as if trained.

    The logits have a mean of about 0 and a standard deviation of about 1. In eval mode.
    """
    network = build_unet(group, width=width, depth=depth, grid=grid)
    if images is None:
        images = torch.randn(2, 3, *2 * [network.sizes.at_least(64)])
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias, 0, 0.3)
            norm.momentum = None  # the moments of what it has seen
    with torch.no_grad():
        logits = network.train()(images)
        network.project.weight /= logits.std()
        network.project.bias.copy_((network.project.bias - logits.mean()) / logits.std())
    return network.eval()


def stitched(function, image: Tensor, tiles: list[Tile], **options) -> np.ndarray:
    """The maps ``(M, H, W)`` of tiles of an image ``(C, H, W)`` that has a lawful size already."""

    def read(tile: Tile) -> Tensor:
        return image[:, tile.rows.start : tile.rows.stop, tile.columns.start : tile.columns.stop]

    parts = list(run_tiles(function, read, tiles, **options))
    maps = np.full((len(parts[0][1]), *image.shape[1:]), np.nan)
    for tile, values in parts:
        maps[:, tile.rows.kept_start : tile.rows.kept_stop, tile.columns.kept_start : tile.columns.kept_stop] = values
    return maps


@pytest.mark.parametrize("depth", [1, 2, 3, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("grid", ["even", "odd"])
@pytest.mark.parametrize("group", ["z2", "p4", "p4m"])
def test_an_output_pixel_sees_as_far_as_the_receptive_radius_and_no_farther(group, grid, depth):
    network = build_unet(group, width=1, depth=depth, grid=grid, in_channels=1).double().eval()
    radius, period = network.receptive_radius, 2**depth
    assert radius == 8 * period - 5
    size = network.sizes.at_least(2 * radius + 3 * period)
    centre = size // 2 // period * period
    seen = 0
    for place in range(centre, centre + period):  # every place modulo the period
        image = torch.randn(1, 1, size, size, dtype=torch.float64)
        image[0, 0, place, place] = torch.nan  # taints everything that depends on it, whatever the weights
        with torch.no_grad():
            tainted = network(image)[0, 0].isnan().nonzero()
        seen = max(seen, int((tainted - place).abs().max()))
    assert seen == radius


@pytest.mark.parametrize("grid", ["even", "odd"])
@pytest.mark.parametrize("depth", [1, 3])
def test_tiles_keep_every_pixel_once_and_lie_as_exactness_needs(grid, depth):
    network = build_unet("z2", width=1, depth=depth, grid=grid)
    period, remainder, radius = 2**depth, network.sizes.remainder, network.receptive_radius

    @examples(100)
    @given(st.integers(1, 1000), st.integers(1, 1000), st.integers(20 * period + 2, 40 * period))
    def check(height, width, side):
        tiles = plan_tiles(network, height, width, side)
        full = network.sizes.at_least(height), network.sizes.at_least(width)
        assert all(0 <= n - size < period + (size == 1) for n, size in zip(full, (height, width), strict=True))
        kept = np.zeros(full, int)
        for tile in tiles:
            kept[tile.rows.kept_start : tile.rows.kept_stop, tile.columns.kept_start : tile.columns.kept_stop] += 1
            for span, end in zip((tile.rows, tile.columns), full, strict=True):
                size = span.stop - span.start
                assert size <= side
                assert 0 <= span.start <= span.kept_start < span.kept_stop <= span.stop <= end
                assert span.start % period == 0
                assert size % period == remainder
                assert span.start == span.kept_start == 0 or span.kept_start - span.start >= radius
                assert span.stop == span.kept_stop == end or span.stop - span.kept_stop >= radius
        assert (kept == 1).all()
        assert len({tile.shape for tile in tiles}) == 1

    check()


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("grid", ["even", "odd"])
@pytest.mark.parametrize("group", ["z2", "p4", "p4m"])
def test_stitched_tiles_are_the_untiled_output_in_float64(group, grid, depth):
    network = random_unet(group, grid=grid, depth=depth).double()
    counts = []

    @examples(4)
    @example(23, 41, 22, 4, 0)
    @given(st.integers(10, 40), st.integers(20, 45), st.integers(20, 26), st.integers(1, 5), st.integers(0, 2**32))
    def check(rows, columns, side, batch_size, seed):
        height, width = (network.sizes.at_least(n * 2**depth) for n in (rows, columns))
        generator = torch.Generator().manual_seed(seed)
        image = torch.randn(3, height, width, dtype=torch.float64, generator=generator)
        tiles = plan_tiles(network, height, width, network.sizes.at_least(side * 2**depth))
        counts.append(len(tiles))
        with torch.no_grad():
            whole = network(image[None])[0].numpy()
        assert whole.std() > 0.01
        difference = np.abs(stitched(network, image, tiles, batch_size=batch_size) - whole).max()
        assert difference <= 1e-12 * np.abs(whole).max()

    check()
    assert max(counts) >= 6


def test_a_margin_that_is_too_small_or_a_start_off_the_period_would_show(monkeypatch):
    network = random_unet("p4m").double()
    image = torch.randn(3, 128, 192, dtype=torch.float64)
    with torch.no_grad():
        whole = network(image[None])[0].numpy()
    monkeypatch.setattr(UNet, "receptive_radius", 8)
    assert np.abs(stitched(network, image, plan_tiles(network, 128, 192, 96)) - whole).max() > 1e-6
    with torch.no_grad():
        shifted = network(image[None, :, 2:, 2:][..., :124, :188])[0].numpy()
    assert np.abs(shifted[:, 40:-40, 40:-40] - whole[:, 42:-42, 42:-42]).max() > 1e-6


@pytest.mark.parametrize("grid", ["even", "odd"])
@pytest.mark.parametrize("group", ["z2", "p4m"])
def test_turned_tiles_too_at_the_borders_and_where_they_are_not_square(group, grid):
    network = random_unet(group, grid=grid, depth=1).double()
    height, width = network.sizes.at_least(60), network.sizes.at_least(100)
    image = torch.randn(3, height, width, dtype=torch.float64)

    def maps(images: Tensor) -> Tensor:
        views = stability(network, images)
        return torch.cat([views.probability, views.mean, views.deviation], dim=1)

    whole = maps(image[None])[0].numpy()
    tiles = plan_tiles(network, height, width, 44)
    assert len(tiles) > 3
    assert tiles[0].shape[0] != tiles[0].shape[1]
    assert np.abs(stitched(maps, image, tiles) - whole).max() <= 1e-12
    assert (whole[2].max() > 1e-3) == (group == "z2")


def test_tiles_without_room_for_margins_are_refused_with_the_least_side():
    network = build_unet("z2", width=1, depth=4)
    with assert_refused("--tile 272", "256"):
        plan_tiles(network, 1000, 1000, 256)
    assert len(plan_tiles(network, 300, 300, 272)) == 9


def test_an_error_while_reading_ends_the_run():
    network = random_unet("z2", depth=1)

    def read(tile: Tile) -> Tensor:
        if tile.rows.start > 0:
            raise OSError("damaged")
        return torch.zeros(3, *tile.shape)

    with pytest.raises(OSError, match="damaged"):
        list(run_tiles(network, read, plan_tiles(network, 100, 100, 40)))


@pytest.mark.skipif(not SLIDE.is_file(), reason="the slide is not here")
@pytest.mark.parametrize("grid", ["even", "odd"])
def test_a_real_slide_in_float32_has_no_seams(grid):
    network = build_unet("z2", width=1, depth=3, grid=grid)
    with Slide(SLIDE) as slide:
        view = slide.at(magnification=10)
        height, width = network.sizes.at_least(view.height), network.sizes.at_least(view.width)
        image = torch.from_numpy(view.read(0, 0, width, height).copy()).permute(2, 0, 1)  # (3, H, W)
    side = network.sizes.at_least(256)
    network = random_unet("p4m", grid=grid, depth=3, width=8, images=to_input(image[None, :, -side:, 400 : 400 + side]))
    with torch.inference_mode():
        whole = torch.sigmoid(network(to_input(image[None])))[0].numpy()
    assert whole.std() > 0.05
    tiles = plan_tiles(network, height, width, 512)
    assert len(tiles) > 6
    parts = stitched(lambda images: torch.sigmoid(network(to_input(images))), image, tiles)
    assert np.abs(parts - whole).max() <= 1e-5
