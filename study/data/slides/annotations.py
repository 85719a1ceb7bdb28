"""The outlines of Camelyon16, from the XML files of the ASAP viewer to geometry.

What becomes of an outline follows ASAP (github.com/computationalpathologygroup/ASAP): a spline is the curve that its
viewer draws (``PolyQtAnnotation.cpp``), and an outline that crosses itself encloses every point that it winds round at
least once, the rule by which the masks of the public bucket were made (``AnnotationToMask.cpp``).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self
from xml.etree.ElementTree import ParseError

import numpy as np
import shapely
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import XMLParser
from shapely import MultiPolygon, Polygon

from study.errors import StudyError

GROUPS: dict[str, Literal["tumour", "excluded"]] = {
    # Camelyon16's own README.md
    "_0": "tumour",
    "_1": "tumour",
    "_2": "excluded",  # "non-tumor areas which have been cut-out from the original annotations"
    # the script in NCRF's issue 40 (github.com/baidu-research/NCRF), for the files that do not keep to the README
    "Tumor": "tumour",
    "Exclusion": "excluded",
    # ASAP's word for an outline in no group; the script paints it over the tumour as not tumour, and so does wsipipe
    # (github.com/StAndrewsMedTech/wsipipe), but ASAP itself skips it, so these are reported by name
    "None": "excluded",
    # the files as they are in the bucket today, such as tumor_039.xml
    "metastasis": "tumour",
    "negative": "excluded",
    # Camelyon17's script (camelyon17.grand-challenge.org/Data)
    "metastases": "tumour",
    "normal": "excluded",
}
"""What the groups of annotations mean: ``excluded`` areas are cut out of the tumour."""

_WITH_AREA = ("Polygon", "Rectangle", "Spline")
_WITHOUT_AREA = ("Dot", "PointSet", "Measurement")

_CURVE_ERROR = 0.25
"""Splines are drawn with straight pieces that leave the curve by at most this, in level-0 pixels."""

_LARGEST = 1e7  # pixels; no slide is so large

_CHUNK = 2**16  # bytes that are parsed at a time


@dataclass(frozen=True)
class Annotation:
    """What was annotated on a slide; geometry in level-0 pixels, x to the right and y down.

    Attributes:
        tumour: the tumour outlines without what the exclusion outlines cover.
        excluded: what the exclusion outlines cover: somebody looked, and it is not tumour.
        outlines, exclusions: how many tumour and exclusion outlines were used.
        points: how many points the used outlines have in the file.
        ungrouped: names of outlines in no group, which are taken for exclusions.
        splines: names of smooth outlines.
        two_point: names of outlines with fewer than three points, or all on one line: without area, so left out.
        other: names of dots, point sets and measurements, which are left out.
        repaired: names of outlines that touch or cross themselves.
        clipped: names of outlines that reached beyond the slide and were cut at its border.
    """

    tumour: MultiPolygon = field(default_factory=MultiPolygon)
    excluded: MultiPolygon = field(default_factory=MultiPolygon)
    outlines: int = 0
    exclusions: int = 0
    points: int = 0
    ungrouped: tuple[str, ...] = ()
    splines: tuple[str, ...] = ()
    two_point: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    repaired: tuple[str, ...] = ()
    clipped: tuple[str, ...] = ()

    @classmethod
    def empty(cls) -> Self:
        """Of a slide without tumour."""
        return cls()

    @property
    def holes(self) -> int:
        """How many holes the tumour has; exclusions at its border or outside of it make none."""
        return int(shapely.get_num_interior_rings(shapely.get_parts(self.tumour)).sum())

    @property
    def notes(self) -> str:
        """What was met that is not a plain polygon, and what became of it; empty if there was nothing."""
        notes = {
            "smooth": self.splines,
            "touching or crossing themselves, repaired": self.repaired,
            "in no group, taken for exclusions": self.ungrouped,
            "without area, left out": self.two_point,
            "dots or measurements, left out": self.other,
            "cut at the slide's border": self.clipped,
        }
        return "; ".join(f"{len(names)} {note}" for note, names in notes.items() if names)

    @property
    def summary(self) -> str:
        """One line for people."""
        text = (
            f"{self.outlines} tumour and {self.exclusions} exclusion outlines with {self.points:,} points; "
            f"{self.tumour.area:,.0f} px² of tumour with {self.holes} holes"
        )
        return f"{text}; {self.notes}" if self.notes else text


def read_annotation(path: Path | str, *, size: tuple[int, int] | None = None) -> Annotation:
    """Read an ASAP file; no tree of it is built, so memory grows with the points alone.

    Args:
        path: the XML file.
        size: width and height of level 0 of its slide, in pixels, to which the outlines are cut.

    Raises:
        StudyError: if the file is missing, empty, broken, not safe or not ASAP's; if a coordinate is no finite number,
            a group or a type unknown; or if an outline lies outside the slide.
    """
    path = Path(path)
    if not path.is_file():
        raise StudyError(f"no annotation at {path}; check the path")
    reader = _Reader(path, size)
    parser = XMLParser(target=reader, forbid_dtd=True, forbid_entities=True, forbid_external=True)
    try:
        with path.open("rb") as file:
            if not (chunk := file.read(_CHUNK)):
                raise StudyError(f"{path} is empty; get it again")
            while chunk:
                parser.feed(chunk)
                chunk = file.read(_CHUNK)
        return parser.close()
    except StudyError:
        raise
    except DefusedXmlException as error:
        raise StudyError(f"{path} is not safe: it has a DTD or entities, which ASAP never writes") from error
    except ParseError as error:
        raise StudyError(f"{path} is broken in line {error.position[0]} ({error}); get it again") from error
    except shapely.errors.GEOSException as error:
        raise StudyError(f"{path} has outlines that cannot be combined ({_line(error)}); correct them") from error
    except (OSError, LookupError, ValueError) as error:
        raise StudyError(f"{path} cannot be read ({_line(error)}); get it again") from error


class _Reader:
    """Takes the parser's events and keeps the points of one outline at a time."""

    def __init__(self, path: Path, size: tuple[int, int] | None) -> None:
        self.path, self.size = path, size
        self.root = False
        self.name = self.type = ""
        self.orders: list[float] = []
        self.points: list[tuple[float, float]] = []
        self.count = 0
        self.areas: dict[str, list[Polygon | MultiPolygon]] = {"tumour": [], "excluded": []}
        self.notes: dict[str, list[str]] = {
            note: [] for note in ("ungrouped", "splines", "two_point", "other", "repaired", "clipped")
        }

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self.root:
            self.root = True
            if tag != "ASAP_Annotations":
                raise StudyError(f"{self.path} is no ASAP file: it begins with <{tag}>, not <ASAP_Annotations>")
        if tag == "Annotation":
            self.name, self.type = attributes.get("Name", "without name"), attributes.get("Type", "")
            self.group = attributes.get("PartOfGroup", "")
            self.orders, self.points = [], []
            if self.group not in GROUPS:
                raise self._error(f"is of the unknown group {self.group!r}; known are {', '.join(GROUPS)}")
            if self.type not in _WITH_AREA + _WITHOUT_AREA:
                raise self._error(f"is of the unknown type {self.type!r}; known are {', '.join(_WITH_AREA)}")
        elif tag == "Coordinate":
            self.points.append((self._number(attributes, "X"), self._number(attributes, "Y")))
            self.orders.append(self._number(attributes, "Order") if "Order" in attributes else len(self.orders))

    def end(self, tag: str) -> None:
        if tag == "Annotation":
            self._add(self.group, np.asarray(self.points)[np.argsort(self.orders, kind="stable")].reshape(-1, 2))

    def close(self) -> Annotation:
        excluded = shapely.union_all(self.areas["excluded"])
        tumour = shapely.difference(shapely.union_all(self.areas["tumour"]), excluded)
        return Annotation(
            tumour=_polygons(tumour),
            excluded=_polygons(excluded),
            outlines=len(self.areas["tumour"]),
            exclusions=len(self.areas["excluded"]),
            points=self.count,
            **{note: tuple(names) for note, names in self.notes.items()},
        )

    def _add(self, group: str, points: np.ndarray) -> None:
        if self.type in _WITHOUT_AREA:
            self.notes["other"].append(self.name)
            return
        corners = points[np.any(points != np.roll(points, 1, axis=0), axis=1)]
        smooth = self.type == "Spline" and len(corners) > 2
        outline = Polygon(_smooth(corners) if smooth else corners) if len(corners) > 2 else Polygon()
        area, valid = outline, outline.is_valid
        if not valid:
            area = shapely.make_valid(outline, method="structure", keep_collapsed=False)  # winding number not 0
        if area.area == 0:
            self.notes["two_point"].append(self.name)
            return
        if self.size is not None:
            area = self._clip(area)
        self.areas[GROUPS[group]].append(area)
        self.count += len(points)
        for note, applies in (("ungrouped", group == "None"), ("splines", smooth), ("repaired", not valid)):
            if applies:
                self.notes[note].append(self.name)

    def _clip(self, area: Polygon | MultiPolygon) -> Polygon | MultiPolygon:
        width, height = self.size
        slide = shapely.box(0, 0, width, height)
        if slide.covers(area):
            return area
        self.notes["clipped"].append(self.name)
        inside = _polygons(shapely.intersection(area, slide))
        if inside.is_empty:
            x, y = area.bounds[:2]
            raise self._error(
                f"begins at x={x:.0f}, y={y:.0f}, outside the slide of {width} x {height} pixels; most probably the "
                "annotation is another slide's"
            )
        return inside

    def _number(self, attributes: dict[str, str], key: str) -> float:
        text = attributes.get(key, "")
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not abs(number) < _LARGEST:
            raise self._error(f"has a coordinate with {key}={text!r}, which is no finite number on a slide; correct it")
        return number

    def _error(self, what: str) -> StudyError:
        return StudyError(f"{self.path}: outline {self.name!r} {what}")


def _smooth(corners: np.ndarray) -> np.ndarray:
    """The closed centripetal Catmull-Rom curve through ``(N, 2)`` corners, each unlike its neighbours, as a polygon."""
    before, start, end, after = (np.roll(corners, shift, axis=0) for shift in (1, 0, -1, -2))
    d1, d2, d3 = (np.linalg.norm(b - a, axis=1)[:, None] for a, b in ((before, start), (start, end), (end, after)))
    # the two inner control points of the cubic Bézier curve from each corner to the next, as in ASAP
    r1, r3 = np.sqrt(d1 * d2), np.sqrt(d3 * d2)
    control1 = (d1 * end - d2 * before + (2 * d1 + 3 * r1 + d2) * start) / (3 * (d1 + r1))
    control2 = (d3 * start - d2 * after + (2 * d3 + 3 * r3 + d2) * end) / (3 * (d3 + r3))
    # n chords leave a cubic by at most (6 bend / 8) / n^2
    bend = np.maximum(
        *(np.linalg.norm(b, axis=1) for b in (start - 2 * control1 + control2, control1 - 2 * control2 + end))
    )
    pieces = np.maximum(1, np.ceil(np.sqrt(0.75 * bend / _CURVE_ERROR))).astype(int)
    which = np.repeat(np.arange(len(corners)), pieces)  # (M,) the corner before each point of the polygon
    step = np.arange(len(which)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    t = (step / pieces[which])[:, None]
    start, control1, control2, end = (p[which] for p in (start, control1, control2, end))
    return (1 - t) ** 3 * start + 3 * (1 - t) ** 2 * t * control1 + 3 * (1 - t) * t**2 * control2 + t**3 * end


def _polygons(geometry: shapely.Geometry) -> MultiPolygon:
    """The parts of a geometry that have an area."""
    parts: Iterable[shapely.Geometry] = shapely.get_parts(geometry)
    return MultiPolygon([part for part in parts if isinstance(part, Polygon) and not part.is_empty])


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
