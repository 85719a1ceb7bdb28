"""ASAP's XML files.

What becomes of an outline follows ASAP (github.com/computationalpathologygroup/ASAP): a spline is the curve that its
viewer draws (``PolyQtAnnotation.cpp``), and an outline that crosses itself encloses every point that it winds round at
least once, the rule by which the masks of Camelyon16's public bucket were made (``AnnotationToMask.cpp``).
"""

import math
from pathlib import Path
from xml.etree.ElementTree import ParseError

import numpy as np
import shapely
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import XMLParser
from shapely import Polygon

from study.data.slides.annotations.annotation import LARGEST, Annotation, Groups, Outlines, one_line
from study.errors import StudyError

_WITH_AREA = ("Polygon", "Rectangle", "Spline")
_WITHOUT_AREA = ("Dot", "PointSet", "Measurement")

_CURVE_ERROR = 0.25
"""Splines are drawn with straight pieces that leave the curve by at most this, in level-0 pixels."""

_CHUNK = 2**16  # bytes that are parsed at a time


def read_asap(path: Path, groups: Groups, size: tuple[int, int] | None) -> Annotation:
    """Read an ASAP file; no tree of it is built, so memory grows with the points alone.

    Raises:
        StudyError: see :func:`~study.data.slides.annotations.read_annotation`.
    """
    parser = XMLParser(
        target=_Reader(Outlines(path, groups, size)), forbid_dtd=True, forbid_entities=True, forbid_external=True
    )
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                parser.feed(chunk)
        return parser.close()
    except StudyError:
        raise
    except DefusedXmlException as error:
        raise StudyError(f"{path} is not safe: it has a DTD or entities, which ASAP never writes") from error
    except ParseError as error:
        raise StudyError(f"{path} is broken in line {error.position[0]} ({error}); get it again") from error
    except shapely.errors.GEOSException as error:
        raise StudyError(f"{path} has outlines that cannot be combined ({one_line(error)}); correct them") from error
    except (OSError, LookupError, ValueError) as error:
        raise StudyError(f"{path} cannot be read ({one_line(error)}); get it again") from error


class _Reader:
    """Takes the parser's events and keeps the points of one outline at a time."""

    def __init__(self, outlines: Outlines) -> None:
        self.outlines = outlines
        self.root = False
        self.name = self.type = self.group = ""
        self.orders: list[float] = []
        self.points: list[tuple[float, float]] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self.root:
            self.root = True
            if tag != "ASAP_Annotations":
                raise StudyError(
                    f"{self.outlines.path} is no ASAP file: it begins with <{tag}>, not <ASAP_Annotations>"
                )
        if tag == "Annotation":
            self.name, self.type = attributes.get("Name", "without name"), attributes.get("Type", "")
            self.group = attributes.get("PartOfGroup", "")
            self.orders, self.points = [], []
            self.outlines.kind(self.name, self.group)  # refuses an unknown one
            if self.type not in _WITH_AREA + _WITHOUT_AREA:
                known = ", ".join(_WITH_AREA)
                raise self.outlines.error(self.name, f"is of the unknown type {self.type!r}; known are {known}")
        elif tag == "Coordinate":
            self.points.append((self._number(attributes, "X"), self._number(attributes, "Y")))
            self.orders.append(self._number(attributes, "Order") if "Order" in attributes else len(self.orders))

    def end(self, tag: str) -> None:
        if tag == "Annotation":
            self._add(np.asarray(self.points)[np.argsort(self.orders, kind="stable")].reshape(-1, 2))

    def close(self) -> Annotation:
        return self.outlines.annotation()

    def _add(self, points: np.ndarray) -> None:
        if self.type in _WITHOUT_AREA:
            self.outlines.leave_out(self.name)
            return
        corners = points[np.any(points != np.roll(points, 1, axis=0), axis=1)]
        smooth = self.type == "Spline" and len(corners) > 2
        outline = Polygon(_smooth(corners) if smooth else corners) if len(corners) > 2 else Polygon()
        self.outlines.add(self.name, self.group, outline, points=len(points), smooth=smooth)

    def _number(self, attributes: dict[str, str], key: str) -> float:
        text = attributes.get(key, "")
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not abs(number) < LARGEST:
            raise self.outlines.error(
                self.name, f"has a coordinate with {key}={text!r}, which is no finite number on a slide; correct it"
            )
        return number


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
