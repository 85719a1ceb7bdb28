"""QuPath's GeoJSON files: a collection of features, a bare list of them, or one.

QuPath (qupath.github.io) counts coordinates in pixels of level 0, x to the right and y down, as ASAP does. The class of
an object is its group here; a class that is derived from another is named as in the viewer, "Tumor: Positive".
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import shapely
from shapely import MultiPolygon, Polygon

from study.data.slides.annotations.annotation import LARGEST, Annotation, Groups, Outlines, one_line
from study.errors import StudyError

_WITH_AREA = ("Polygon", "MultiPolygon")
_WITHOUT_AREA = ("Point", "MultiPoint", "LineString", "MultiLineString")


def read_qupath(path: Path, groups: Groups, size: tuple[int, int] | None) -> Annotation:
    """Read a GeoJSON file; what is no annotation, as detections and cells, is left out.

    Raises:
        StudyError: see :func:`~study.data.slides.annotations.read_annotation`.
    """
    outlines = Outlines(path, groups, size)
    try:
        for number, feature in enumerate(_features(json.loads(path.read_bytes()), path)):
            _add(outlines, feature, number)
        return outlines.annotation()
    except StudyError:
        raise
    except json.JSONDecodeError as error:
        raise StudyError(f"{path} is broken in line {error.lineno} ({error.msg}); export it again") from error
    except shapely.errors.GEOSException as error:
        raise StudyError(f"{path} has outlines that cannot be combined ({one_line(error)}); correct them") from error
    except (OSError, ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError too
        raise StudyError(f"{path} cannot be read ({one_line(error)}); export it again") from error


def _features(content: object, path: Path) -> Iterator[dict]:
    if isinstance(content, dict):
        content = content.get("features") if content.get("type") == "FeatureCollection" else [content]
    if not isinstance(content, list):
        content = [None]
    for feature in content:
        if not isinstance(feature, dict) or feature.get("type") != "Feature":
            raise StudyError(f"{path} is no GeoJSON of features, as QuPath writes it; export the annotations again")
        yield feature


def _add(outlines: Outlines, feature: dict, number: int) -> None:
    properties, geometry = (feature.get(key) or {} for key in ("properties", "geometry"))
    name, group = f"number {number}", "None"
    if isinstance(properties, dict):
        name, group = str(properties.get("name") or name), _group(properties.get("classification"))
        if properties.get("objectType", "annotation") != "annotation":
            outlines.leave_out(name)
            return
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in _WITH_AREA + _WITHOUT_AREA:
        raise outlines.error(name, f"is of the unknown type {kind!r}; known are {', '.join(_WITH_AREA)}")
    outlines.kind(name, group)  # refuses an unknown one, of a point too
    if kind in _WITHOUT_AREA:
        outlines.leave_out(name)
        return
    coordinates = geometry.get("coordinates")
    parts = [coordinates] if kind == "Polygon" else coordinates
    try:
        rings = [[_ring(ring) for ring in part] for part in parts]
    except (TypeError, ValueError, OverflowError) as error:
        raise outlines.error(
            name, "has a coordinate that is no finite number on a slide, or none; correct it"
        ) from error
    polygons = [
        Polygon(outer, [hole for hole in holes if _encloses(hole)])
        for outer, *holes in filter(None, rings)
        if _encloses(outer)
    ]
    area = polygons[0] if len(polygons) == 1 else MultiPolygon(polygons)
    outlines.add(name, group, area, points=sum(len(ring) - 1 for part in rings for ring in part))


def _group(classification: object) -> str:
    """The name of a class; "None", as in ASAP, if an object has no class."""
    if isinstance(classification, dict):
        classification = classification.get("name") or ": ".join(map(str, classification.get("names") or ["None"]))
    return str(classification or "None")


def _ring(ring: list) -> np.ndarray:
    """The points of a ring, float64 ``(N, 2)``; a third coordinate, of the plane, is left out."""
    points = np.array([(float(x), float(y)) for x, y, *_ in ring]).reshape(-1, 2)
    if not (np.abs(points) < LARGEST).all():
        raise ValueError("beyond any slide")
    return points


def _encloses(ring: np.ndarray) -> bool:
    """Whether a ring has three points or more, all different."""
    return len(np.unique(ring, axis=0)) > 2
