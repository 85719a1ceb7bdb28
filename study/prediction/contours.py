"""Outlines of the predicted classes as GeoJSON for QuPath: polygons in pixels of the slide's level 0."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from rasterio.features import shapes
from rasterio.transform import Affine
from shapely.geometry import MultiPolygon, Polygon, mapping

from study.files import replacing
from study.prediction.colours import colour_of
from study.tasks.task import Task

SPECK = 100.0
"""Square micrometres: smaller regions, of less than one tumour cell, are dropped, and smaller holes are filled."""

TOLERANCE = 1.0
"""Largest error of a simplified outline, in pixels of the map."""

QUPATH_NAMES = {"tumour": "Tumor", "immune cell": "Immune cells"}
"""QuPath's own names of classes; other classes keep their names, with a capital."""


@dataclass(frozen=True)
class Region:
    """An outline in pixels of the map, with its exact area in those pixels before simplification.

    ``label`` is the value of its class.
    """

    outline: Polygon
    area: float
    label: int = 1


def trace(strips: Iterable[np.ndarray], *, speck: float = 0) -> tuple[list[Polygon], int]:
    """The exact outlines of the true pixels, along the borders of pixels, with holes.

    Pixels that meet only at a corner are separate. The areas add up to the number of pixels.

    Args:
        strips: of a map of booleans from top to bottom, (rows, W).
        speck: area in pixels; smaller outlines are dropped at once, since a noisy map has millions of them.

    Returns:
        the outlines from top to bottom, and the number of specks.
    """
    specks = 0
    whole, cut = [], []  # cut: outlines that touch the border of a strip and may continue in the next
    top = 0
    for strip in strips:
        bottom = top + len(strip)
        if strip.any():
            for outline, _ in shapes(strip.view(np.uint8), strip, connectivity=4, transform=Affine.translation(0, top)):
                polygon = shapely.make_valid(shapely.geometry.shape(outline))  # a ring may touch itself at a corner
                _, upper, _, lower = polygon.bounds
                if upper == top or lower == bottom:
                    cut.append(polygon)
                elif polygon.area >= speck:
                    whole.append(polygon)
                else:
                    specks += 1
        top = bottom
    merged = shapely.union_all(cut)
    parts = shapely.get_parts([*whole, merged]).tolist()  # a multipolygon is several
    parts = [part for part in parts if part.area > 0]
    kept = [part for part in parts if part.area >= speck]
    return sorted(kept, key=lambda p: (p.bounds[1], p.bounds[0])), specks + len(parts) - len(kept)


def regions(outlines: Iterable[Polygon], *, mpp: float, label: int = 1) -> list[Region]:
    """Outlines without specks (:data:`SPECK`), simplified by at most :data:`TOLERANCE` pixels.

    Args:
        outlines: of :func:`trace`.
        mpp: micrometres per pixel of the map.
        label: the value of their class.
    """
    speck = SPECK / mpp**2  # in pixels
    found = []
    for outline in outlines:
        exact = Polygon(outline.exterior, [hole for hole in outline.interiors if Polygon(hole).area >= speck])
        if exact.area < speck:
            continue
        simple = exact.simplify(TOLERANCE, preserve_topology=True)
        found.append(Region(simple if simple.is_valid else exact, exact.area, label))
    return found


def write_geojson(
    path: Path | str,
    found: Iterable[Region],
    *,
    task: Task,
    size: tuple[int, int],
    downsample: float,
    mpp: float,
    about: dict,
) -> None:
    """Write a FeatureCollection of Polygons with QuPath's properties, and the area of each region in mm².

    The map's last pixels may reach beyond the slide, by half of one; the outlines are cut at its border.

    Args:
        path: of the file, which is written completely or not at all.
        task: names the classes.
        size: width and height of the slide in pixels of level 0.
        downsample: level-0 pixels per pixel of the map.
        mpp: micrometres per pixel of the map.
        about: the provenance, which becomes the member "prediction".

    Raises:
        StudyError: if the folder cannot be written or the disk is full.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(f'{{"type": "FeatureCollection", "prediction": {json.dumps(about)}, "features": [')
        for n, region in enumerate(found):
            outline = _cut(shapely.transform(region.outline, lambda points: (points * downsample).round(2)), size)
            name = task.foreground[region.label]
            name = QUPATH_NAMES.get(name, name[:1].upper() + name[1:])
            feature = {
                "type": "Feature",
                "geometry": mapping(shapely.orient_polygons(outline)),
                "properties": {
                    "objectType": "annotation",
                    "classification": {"name": name, "color": list(colour_of(region.label))},
                    "measurements": {f"{name} area mm^2": region.area * mpp**2 / 1e6},
                },
            }
            file.write(("," if n else "") + "\n" + json.dumps(feature))
        file.write("\n]}\n")


def _cut(outline: Polygon, size: tuple[int, int]) -> Polygon | MultiPolygon:
    """The part of an outline that lies on the slide."""
    slide = shapely.box(0, 0, *size)
    if slide.covers(outline):
        return outline
    parts = shapely.get_parts(shapely.intersection(outline, slide))
    polygons = [part for part in parts if isinstance(part, Polygon)]  # the others have no area
    return polygons[0] if len(polygons) == 1 else MultiPolygon(polygons)
