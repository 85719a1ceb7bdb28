"""Back to a slide: maps, contours and picture against brute force, and what is said when something is wrong."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import shapely
import tifffile
import torch
from data_helpers import assert_refused, contents
from matplotlib.figure import Figure
from PIL import Image
from scipy import ndimage
from shapely.geometry import Point, Polygon, box, shape
from slide_helpers import TISSUE, make_slide
from test_tiling import random_unet

from study.cli.prediction import predict
from study.data.patches.loading import to_input
from study.data.slides.pyramid import write_pyramid
from study.data.slides.slide import Slide
from study.data.slides.tissue import CELL, RULE, SATURATION, VALUE, tissue_map
from study.networks.checkpoint import load_model, save_checkpoint
from study.networks.unet import UNetArchitecture
from study.prediction import slide as prediction
from study.prediction.contours import SPECK, Region, regions, trace, write_geojson
from study.prediction.disk_map import DiskMap
from study.prediction.overlay import (
    CAPTION,
    LONGEST,
    OPACITY,
    blend,
    picture_step,
    scale_bar,
    shrink,
    thumbnail,
    write_overlay,
)
from study.prediction.tiling import plan_tiles
from study.tasks.registry import TASKS
from study.tasks.stability import stability

SLIDE = Path(__file__).parents[2] / "shared" / "data" / "slides" / "CMU-1-Small-Region.svs"
FILES = {"s-probability.tif", "s-overlay.png", "s-contours.geojson"}


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return make_checkpoint(tmp_path / "best.pt", "p4m")


def make_checkpoint(path: Path, group: str, *, grid: str = "even") -> Path:
    colours = 255 - 130 * torch.rand(4, 3, 8, 8) * (torch.rand(4, 1, 8, 8) > 0.5)  # half of it white
    images = torch.nn.functional.interpolate(colours, size=2 * [64 + (grid == "odd")], mode="bilinear")
    network = random_unet(group, grid=grid, depth=1, images=to_input(images))
    save_checkpoint(path, UNetArchitecture(group, 4, 1, grid), network.state_dict())
    return path


def smooth_map(height: int, width: int, *, scale: float = 6, seed: int = 0) -> np.ndarray:
    """A random probability map, float32, with regions and holes of about ``scale`` pixels, some at the border."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((height, width)), scale)
    return (1 / (1 + np.exp(-3 * noise / noise.std()))).astype(np.float32)


def in_strips(image: np.ndarray, rows: int):
    return [image[top : top + rows] for top in range(0, len(image), rows)]


# the whole command


@pytest.mark.parametrize(("group", "grid"), [("p4m", "even"), ("p4", "odd"), ("z2", "even")])
def test_the_map_is_what_the_network_gives_on_the_whole_view(tmp_path, monkeypatch, group, grid):
    monkeypatch.setattr(prediction, "tissue_map", lambda view, cell: np.ones((48, 48), bool))  # everywhere
    slide, checkpoint = make_slide(tmp_path / "s.tif"), make_checkpoint(tmp_path / "best.pt", group, grid=grid)
    predict(slide, checkpoint, tmp_path / "out", tile=150, batch_size=3, stability=True)
    network = load_model(checkpoint)
    with Slide(slide) as opened:
        view = opened.at(magnification=10)
        height, width = network.sizes.at_least(view.height), network.sizes.at_least(view.width)
        image = torch.from_numpy(view.read(0, 0, width, height).copy()).permute(2, 0, 1)  # (3, H, W)
    assert len(plan_tiles(network, view.height, view.width, 150)) == 9
    untiled = stability(network, to_input(image[None]))
    assert untiled.probability.std() > 0.05
    for kind in ("probability", "mean", "deviation"):
        with tifffile.TiffFile(tmp_path / "out" / f"s-{kind}.tif") as file:
            page = file.pages[0]
            found = page.asarray()
            assert page.is_tiled
            assert page.dtype == np.float32
            assert page.tags["XResolution"].value[0] / page.tags["XResolution"].value[1] == pytest.approx(1e4)  # 1 µm
        expected = getattr(untiled, kind)[0, 0, : view.height, : view.width].numpy()
        assert np.abs(found - expected).max() <= 1e-5


def make_certain(path: Path) -> Path:
    """The checkpoint of a network that finds something everywhere, on glass too."""
    architecture = UNetArchitecture("z2", 4, 1, "even")
    network = architecture.build()
    torch.nn.init.constant_(network.project.bias, 50)
    save_checkpoint(path, architecture, network.state_dict(), mpp=1.0, task=TASKS["cancer"].about())
    return path


def test_areas_are_counted_and_painted_within_the_tissue_and_all_outputs_say_by_which_rule(
    tmp_path, capsys, monkeypatch
):
    slide, captions = make_slide(tmp_path / "s.tif"), []
    monkeypatch.setattr(Figure, "text", lambda figure, x, y, text, **_: captions.append(text))
    predict(slide, make_certain(tmp_path / "n.pt"), tmp_path / "out")
    with Slide(slide) as opened:
        view = opened.at(mpp=1)
        tissue = np.kron(tissue_map(view, CELL), np.ones((CELL, CELL), bool))[: view.height, : view.width]
        picture, plain = np.asarray(Image.open(tmp_path / "out/s-overlay.png")), thumbnail(view)
    assert 0.2 < tissue.mean() < 0.6
    found = tifffile.imread(tmp_path / "out/s-probability.tif", key=0)
    np.testing.assert_array_equal(found > 0.5, tissue)
    np.testing.assert_array_equal(found > 0, tissue)

    output, area = capsys.readouterr().out, tissue.sum() / 1e6
    assert f"{area:.2f} mm² of tissue, {area:.2f} mm² above 0.5 in 1 regions of cancer" in output
    assert RULE in output
    collection = json.loads((tmp_path / "out/s-contours.geojson").read_text())
    assert collection["prediction"]["tissue"] == {"rule": RULE, "area mm^2": pytest.approx(area)}
    measured = [f["properties"]["measurements"]["Cancer area mm^2"] for f in collection["features"]]
    assert measured == [pytest.approx(area)]

    left = (picture.shape[1] - view.width) // 2
    painted = (picture[: view.height, left : left + view.width] != plain).any(axis=2)
    near = ndimage.binary_dilation(tissue, iterations=3)  # the outline's own width
    assert not painted[~near].any()
    assert painted[tissue].all()
    assert captions == [CAPTION]
    assert all(str(number) in CAPTION and str(number) in RULE for number in (SATURATION, VALUE))


def test_contours_end_where_the_slide_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "tissue_map", lambda view, cell: np.ones((48, 48), bool))  # everywhere
    predict(make_slide(tmp_path / "s.tif", side=767), make_certain(tmp_path / "n.pt"), tmp_path / "out", mpp=1.1)
    with Slide(tmp_path / "s.tif") as slide:
        view = slide.at(mpp=1.1)
        assert view.width * view.downsample > slide.width == 767  # the map's last pixel reaches beyond
    (feature,) = json.loads((tmp_path / "out/s-contours.geojson").read_text())["features"]
    assert feature["geometry"]["type"] == "Polygon"
    assert shape(feature["geometry"]).equals(box(0, 0, 767, 767))


def test_an_outline_that_the_border_cuts_in_two_has_two_parts(tmp_path):
    arch = Polygon([(0, 0), (10, 0), (10, 10), (0, 10), (0, 6), (9.5, 6), (9.5, 4), (0, 4)])
    about = {"task": TASKS["tumour"], "downsample": 2, "mpp": 1, "about": {}}
    write_geojson(tmp_path / "c.geojson", [Region(arch, arch.area)], size=(18, 20), **about)
    (feature,) = json.loads((tmp_path / "c.geojson").read_text())["features"]
    assert feature["geometry"]["type"] == "MultiPolygon"
    assert shape(feature["geometry"]).equals(shapely.union_all([box(0, 0, 18, 8), box(0, 12, 18, 20)]))


def test_a_stated_scale_wins_over_that_of_the_file_and_it_says_so(tmp_path, capsys):
    slide = make_slide(tmp_path / "s.tif", mpp=352.78)  # 72 dots per inch
    with assert_refused("s.tif", "352.8 µm per pixel", "--slide-mpp"):
        predict(slide, make_certain(tmp_path / "n.pt"), tmp_path / "out")
    predict(slide, tmp_path / "n.pt", tmp_path / "out", slide_mpp=0.5)
    said = capsys.readouterr()
    assert "says 352.8 µm per pixel; it is taken for 0.5, as --slide-mpp states" in said.err
    assert "s at 1 µm per pixel, 384 x 384" in said.out


def test_tiles_without_tissue_are_zero_and_it_says_so(tmp_path, checkpoint, capsys):
    predict(make_slide(tmp_path / "s.tif", side=2048), checkpoint, tmp_path / "out", tile=200)
    output = capsys.readouterr().out
    found = tifffile.imread(tmp_path / "out" / "s-probability.tif", key=0)
    tissue = slice(TISSUE[0] // 2, TISSUE[1] // 2)
    assert (found[tissue, tissue] > 0).all()
    tiles = plan_tiles(load_model(checkpoint), 1024, 1024, 200)
    assert (found[400:] == 0).all()
    assert f"tissue in 4 of {len(tiles)} tiles, probability 0 in the others" in output
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    area = float(output.split("\n")[1].split(" mm² of tissue")[0])
    assert area == pytest.approx(0.256**2, abs=0.02)  # found in cells of 16 µm


def test_a_slide_without_tissue_gives_empty_outputs(tmp_path, checkpoint, capsys):
    blank = np.full((500, 700, 3), 255, np.uint8)
    write_pyramid(tmp_path / "s.tif", [blank], blank.shape, blank.dtype, mpp=1, compression="jpeg")
    predict(tmp_path / "s.tif", checkpoint, tmp_path / "out", slide_mpp=0.5)  # not what the file says
    assert "0.00 mm² of tissue, 0.00 mm² above 0.5 in 0 regions" in capsys.readouterr().out
    assert not tifffile.imread(tmp_path / "out" / "s-probability.tif", key=0).any()
    assert json.loads((tmp_path / "out" / "s-contours.geojson").read_text())["features"] == []


@pytest.mark.skipif(not SLIDE.is_file(), reason="the slide is not here")
def test_the_geojson_of_a_real_slide_is_as_qupath_wants_it(tmp_path, checkpoint, capsys):
    predict(SLIDE, checkpoint, tmp_path, mpp=2)
    collection = json.loads((tmp_path / f"{SLIDE.stem}-contours.geojson").read_text())
    assert collection["type"] == "FeatureCollection"
    assert collection["prediction"]["checkpoint"] == str(checkpoint)
    polygons = [shape(feature["geometry"]) for feature in collection["features"]]
    assert len(polygons) > 10
    for feature, polygon in zip(collection["features"], polygons, strict=True):
        assert feature["type"] == "Feature"
        assert feature["geometry"]["type"] == "Polygon"
        assert all(ring[0] == ring[-1] and len(ring) >= 4 for ring in feature["geometry"]["coordinates"])
        properties = feature["properties"]
        assert properties["objectType"] == "annotation"
        assert properties["classification"] == {"name": "Tumor", "color": [200, 0, 0]}
        assert polygon.is_valid
        assert polygon.exterior.is_ccw
    with Slide(SLIDE) as slide:
        inside = box(0, 0, slide.width, slide.height)
        assert all(inside.covers(polygon) for polygon in polygons)
    above = tifffile.imread(tmp_path / f"{SLIDE.stem}-probability.tif", key=0) > 0.5
    assert f"{above.sum() * 0.002**2:.2f} mm² above 0.5 in {len(polygons)} regions" in capsys.readouterr().out


def test_outputs_are_never_replaced(tmp_path, checkpoint):
    slide = make_slide(tmp_path / "s.tif")
    predict(slide, checkpoint, tmp_path / "out")
    before = contents(tmp_path / "out")
    with assert_refused("s-probability.tif", "exists"):
        predict(slide, checkpoint, tmp_path / "out")
    assert contents(tmp_path / "out") == before


# what goes wrong


def test_bad_input_is_named_and_leaves_nothing_behind(tmp_path, checkpoint):
    slide, out = make_slide(tmp_path / "s.tif"), tmp_path / "out"
    (tmp_path / "no.pt").write_bytes(b"not a checkpoint")
    Image.fromarray(np.full((300, 300, 3), 200, np.uint8)).save(tmp_path / "plain.tif", tile=True)
    with assert_refused("no.pt", "not a checkpoint"):
        predict(slide, tmp_path / "no.pt", out)
    with assert_refused("missing.tif"):
        predict(tmp_path / "missing.tif", checkpoint, out)
    with assert_refused("s.tif", "coarser than 40x"):
        predict(slide, checkpoint, out, magnification=40)
    with assert_refused("--magnification", "positive number"):
        predict(slide, checkpoint, out, magnification=0)
    with assert_refused("--magnification", "--mpp"):
        predict(slide, checkpoint, out, magnification=10, mpp=1)
    with assert_refused("--tile"):
        predict(slide, checkpoint, out, tile=16)
    assert not out.exists() or not contents(out)


def test_a_slide_damaged_in_the_middle_leaves_nothing_half_written(tmp_path, checkpoint):
    slide = make_slide(tmp_path / "s.tif", side=4096)
    with tifffile.TiffFile(slide) as file:
        level = file.pages[1]  # 10x; tissue is looked for in a smaller one
        start, count = level.dataoffsets[0], level.databytecounts[0]
    damaged = bytearray(slide.read_bytes())
    damaged[start : start + count] = bytes(count)
    slide.write_bytes(damaged)
    with assert_refused(slide, "damaged"):
        predict(slide, checkpoint, tmp_path / "out", tile=200)
    assert contents(tmp_path / "out") == {}


def test_a_full_disk_is_said_before_and_during_the_run(tmp_path, checkpoint, monkeypatch):
    slide = make_slide(tmp_path / "s.tif")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2**20}))
        patch.setattr(prediction, "run_tiles", lambda *_, **__: pytest.fail("it was not said before"))
        with assert_refused("disk is full"):
            predict(slide, checkpoint, tmp_path / "out")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(DiskMap, "write", full)
    with assert_refused("disk is full"):
        predict(slide, checkpoint, tmp_path / "out")
    assert contents(tmp_path / "out") == {}


def test_an_interrupted_run_leaves_nothing_behind(tmp_path, checkpoint, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(DiskMap, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict(make_slide(tmp_path / "s.tif"), checkpoint, tmp_path / "out")
    assert contents(tmp_path / "out") == {}


# its parts


def test_a_map_on_disk_is_zero_but_for_what_was_written(tmp_path):
    rng = np.random.default_rng(0)
    expected = np.zeros((2, 70, 90), np.float32)
    with DiskMap(tmp_path, expected.shape) as maps:
        for top, left, height, width in [(0, 0, 20, 30), (50, 60, 40, 40), (20, 30, 7, 5), (10, 10, 30, 1)]:
            values = rng.random((2, height, width), np.float32)
            maps.write(top, left, values)
            window = expected[:, top : top + height, left : left + width]
            window[:] = values[:, : window.shape[1], : window.shape[2]]
        for number in range(2):
            assert (np.concatenate(list(maps.strips(number))) == expected[number]).all()
            strips = list(maps.strips(number, rows=16))
            assert [len(strip) for strip in strips] == [16, 16, 16, 16, 6]
            assert (np.concatenate(strips) == expected[number]).all()
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("scale", [0.6, 3])
@pytest.mark.parametrize("rows", [1, 17, 200])
def test_outlines_are_those_of_the_connected_regions_whatever_the_strips(scale, rows):
    image = smooth_map(120, 150, scale=scale)
    found, _ = trace(in_strips(image > 0.5, rows))
    labels, count = ndimage.label(image > 0.5)  # 4-connected
    assert len(found) == count
    assert all(polygon.is_valid for polygon in found)
    areas = np.bincount(labels.ravel())[1:]
    assert sorted(polygon.area for polygon in found) == sorted(areas)
    for polygon in found:
        point = polygon.representative_point()
        assert polygon.area == areas[labels[int(point.y), int(point.x)] - 1]
    inside = shapely.contains_xy(shapely.union_all(found), *np.meshgrid(np.arange(150) + 0.5, np.arange(120) + 0.5))
    assert (inside == (image > 0.5)).all()


@pytest.mark.parametrize("rows", [7, 64, 256])
def test_specks_are_counted_and_dropped_as_they_are_met(rows):
    image = np.random.default_rng(0).random((256, 300))
    every, none = trace(in_strips(image > 0.8, rows))
    assert none == 0
    kept, specks = trace(in_strips(image > 0.8, rows), speck=5)
    assert specks == sum(outline.area < 5 for outline in every) > 1000
    assert [outline.area for outline in kept] == [outline.area for outline in every if outline.area >= 5]


def test_specks_are_dropped_small_holes_filled_and_outlines_at_most_a_pixel_off():
    image = smooth_map(300, 300, scale=5)
    image[100:110, 100:110] = 1
    exact, _ = trace([image > 0.5])
    for mpp in (0.5, 1, 2):
        found = regions(exact, mpp=mpp)
        filled = [Polygon(p.exterior, [h for h in p.interiors if Polygon(h).area * mpp**2 >= SPECK]) for p in exact]
        expected = [polygon for polygon in filled if polygon.area * mpp**2 >= SPECK]
        assert 0 < len(expected) <= len(exact)
        for region, polygon in zip(found, expected, strict=True):
            assert region.outline.is_valid
            assert region.area == polygon.area
            assert len(region.outline.interiors) == len(polygon.interiors)
            assert region.outline.hausdorff_distance(polygon) <= 1 + 1e-9
        drawn, traced = sum(region.outline.area for region in found), sum(polygon.area for polygon in expected)
        assert drawn == pytest.approx(traced, rel=0.02)


def test_contours_cover_the_pixels_above_the_threshold_in_pixels_of_level_0(tmp_path):
    image, downsample, mpp = smooth_map(400, 300), 2.5, 1.25
    found = regions(trace(in_strips(image > 0.5, 64))[0], mpp=mpp)
    options = {"task": TASKS["tumour"], "size": (750, 1000), "about": {}}
    write_geojson(tmp_path / "c.geojson", found, downsample=downsample, mpp=mpp, **options)
    features = json.loads((tmp_path / "c.geojson").read_text())["features"]
    drawn = shapely.union_all([shape(feature["geometry"]) for feature in features])
    centres = np.meshgrid((np.arange(300) + 0.5) * downsample, (np.arange(400) + 0.5) * downsample)
    assert (shapely.contains_xy(drawn, *centres) == (image > 0.5)).mean() > 0.98
    assert drawn.area / downsample**2 == pytest.approx((image > 0.5).sum(), rel=0.01)
    measured = sum(feature["properties"]["measurements"]["Tumor area mm^2"] for feature in features)
    assert measured == pytest.approx((image > 0.5).sum() * mpp**2 / 1e6, rel=0.01)


def test_a_region_that_touches_itself_at_a_corner_keeps_its_hole_and_is_valid():
    image = np.zeros((7, 7))
    image[1:6, 1:6] = 1
    image[2:5, 2:5] = 0
    image[1, 1] = 0  # meets the hole at a corner
    (ring,), _ = trace([image > 0.5])
    assert ring.is_valid
    assert ring.area == 15
    assert not ring.contains(Point(3.5, 3.5))


def test_the_thumbnail_lies_on_the_map(tmp_path):
    with Slide(make_slide(tmp_path / "s.tif", side=2500)) as slide:
        view = slide.at(magnification=20)
        assert picture_step(view) == 2
        picture = thumbnail(view).astype(int)
        exact = view.read(0, 0, 2500, 2500).reshape(1250, 2, 1250, 2, 3).mean(axis=(1, 3))
        assert picture.shape == (1250, 1250, 3)
        assert np.abs(picture - exact).mean() < 3
        assert max(picture.shape) <= LONGEST


def test_a_thumbnail_from_a_level_that_is_a_little_off_is_stretched_to_fit(tmp_path):
    slide = make_slide(tmp_path / "s.tif", side=2049)  # its levels have 1025 and 513 pixels
    with Slide(slide) as opened:
        view = opened.at(magnification=10)
        assert thumbnail(view).shape == (1025, 1025, 3)


def test_shrinking_averages_what_there_is():
    image = np.random.default_rng(0).random((23, 31)).astype(np.float32)
    small = shrink(in_strips(image, 4), 4)
    assert small.shape == (6, 8)
    for y, x in np.ndindex(small.shape):
        assert small[y, x] == pytest.approx(image[4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean(), rel=1e-5)


def test_the_picture_leaves_tissue_without_tumour_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (5, 5, 3), np.uint8)
    assert (blend(image, np.full((5, 5), 0.1)) == image).all()
    yellow = (253, 231, 37)  # the end of viridis
    white = np.full((1, 1, 3), 255, np.uint8)
    assert np.abs(blend(white, np.ones((1, 1))) - ((1 - OPACITY) * 255 + OPACITY * np.array(yellow))).max() <= 1


def test_the_picture_has_the_image_pixel_by_pixel_outlines_and_a_scale_bar_of_its_length(tmp_path):
    image, probability = np.full((600, 900, 3), 200, np.uint8), np.zeros((600, 900), np.float32)
    probability[200:300, 400:600] = 1
    twice = np.kron(probability, np.ones((2, 2))) > 0.5  # two pixels of the view for one
    found = regions(trace([twice])[0], mpp=0.25)
    write_overlay(tmp_path / "o.png", image, probability[None], found, task=TASKS["tumour"], step=2, mpp=0.25)
    picture = np.asarray(Image.open(tmp_path / "o.png")).astype(int)
    assert picture.shape[1:] == (900, 3)
    changed = (picture[:600] != 200).any(axis=2)
    assert not changed[:197].any()
    assert not changed[303:].any()
    assert (picture[210:290, 410:590] == blend(image, probability)[250, 500]).all()  # inside the outline
    assert picture[250, 399:402].sum(axis=1).min() < 3 * 60  # a dark line along the border
    assert (picture[600:, :300].sum(axis=2) == 0).sum(axis=1).max() == pytest.approx(
        200, abs=2
    )  # 100 µm at 0.5 µm each


def test_scale_bars_have_round_lengths():
    assert [scale_bar(n) for n in (277, 100, 99.9, 2100, 54_000)] == [
        (200, "200 µm"),
        (100, "100 µm"),
        (50, "50 µm"),
        (2000, "2 mm"),
        (50_000, "50 mm"),
    ]


# large slides

_PEAK = """
import sys
from pathlib import Path
import torch
from study.bench.memory import peak_mb
from study.cli.prediction import predict
predict(*map(Path, sys.argv[1:]), tile=512)
print(peak_mb(torch.device("cpu")))
"""


def _make_large_slide(path: Path, side: int) -> Path:
    """White at 20x, but for four tiles of noise in its middle, and a level at 1/16; only two tiles are ever encoded."""
    tile, middle, count = 512, side // 1024, -(-side // 512)
    noise = np.random.default_rng(0).integers(100, 220, (32, 32, 3)) // (1, 2, 1)
    tissue = np.asarray(Image.fromarray(noise.astype(np.uint8)).resize((tile, tile)))
    white = np.full_like(tissue, 245)
    codes = [_encoded(white), _encoded(tissue)]
    afar = np.full((side // 16, side // 16, 3), 245, np.uint8)
    at = slice(middle * tile // 16, (middle + 2) * tile // 16)
    afar[at, at] = np.tile(tissue[::16, ::16], (2, 2, 1))
    options = {"tile": (tile, tile), "compression": "jpeg", "resolutionunit": "CENTIMETER", "metadata": None}
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        tiles = (codes[{y, x} <= {middle, middle + 1}] for y in range(count) for x in range(count))
        shape = (side, side, 3)
        file.write(tiles, shape=shape, dtype=np.uint8, photometric="ycbcr", resolution=(2e4, 2e4), **options)
        file.write(afar, photometric="rgb", resolution=(2e4 / 16, 2e4 / 16), subfiletype=1, **options)
    return path


def _encoded(image: np.ndarray) -> bytes:
    return imagecodecs.jpeg_encode(image, level=85, subsampling="444", outcolorspace="YCBCR")


@pytest.mark.slow
def test_memory_is_bounded_on_a_slide_of_40000_pixels(tmp_path, checkpoint):
    peaks = {}
    for side in (10_000, 40_000):
        slide = _make_large_slide(tmp_path / f"{side}.tif", side)
        arguments = [slide, checkpoint, tmp_path / "out"]
        done = subprocess.run([sys.executable, "-c", _PEAK, *arguments], capture_output=True, text=True, check=True)
        peaks[side] = float(done.stdout.split()[-1])
        assert tifffile.imread(tmp_path / "out" / f"{side}-probability.tif", key=-1).max() > 0
    assert peaks[40_000] < peaks[10_000] + 200  # MB; the map alone has 1,526
