"""The annotation of a slide as geometry, whichever viewer it was drawn in."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self, get_args

import shapely
from shapely import MultiPolygon, Polygon

from study.errors import StudyError

Kind = Literal["tumour", "excluded", "unused"]
"""What an outline is: tumour, cut out of the tumour, or of no meaning here."""

Groups = Mapping[str, Kind]
"""What the names of groups (ASAP) or classes (QuPath) mean."""

KINDS = get_args(Kind)

GROUPS: Groups = {
    "Tumor": "tumour",  # both viewers' own name
    "Exclusion": "excluded",
    "Ignore*": "excluded",  # QuPath's classes that are not of tissue, as are all that end in a star
    "Region*": "unused",
}
"""The names that need no explanation; a data set says what its own mean."""

LARGEST = 1e7
"""No coordinate on a slide is so large, in pixels."""


@dataclass(frozen=True)
class Annotation:
    """What was annotated on a slide; geometry in level-0 pixels, x to the right and y down.

    Attributes:
        tumour: the tumour outlines without what the exclusion outlines cover.
        excluded: what the exclusion outlines cover: somebody looked, and it is not tumour.
        outlines, exclusions: how many tumour and exclusion outlines were used.
        points: how many points the used outlines have in the file.
        ungrouped: names of outlines in no group, which are used as the groups say of "None".
        splines: names of smooth outlines.
        two_point: names of outlines with fewer than three points, or all on one line: without area, so left out.
        other: names of dots, point sets, lines and measurements, which are left out.
        unused: names of outlines in groups of no meaning, which are left out.
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
    unused: tuple[str, ...] = ()
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
            "of groups without meaning here, left out": self.unused,
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


class Outlines:
    """Takes the outlines of one file, one at a time, and makes an annotation of them.

    Args:
        path: the file, for messages.
        groups: what the names of groups mean.
        size: width and height of level 0 of the slide, in pixels, to which the outlines are cut.
    """

    def __init__(self, path: Path, groups: Groups, size: tuple[int, int] | None) -> None:
        self.path, self.groups, self.size = path, groups, size
        self.points = 0
        self.areas: dict[Kind, list[Polygon | MultiPolygon]] = {"tumour": [], "excluded": []}
        self.notes: dict[str, list[str]] = {
            note: [] for note in ("ungrouped", "splines", "two_point", "other", "unused", "repaired", "clipped")
        }

    def kind(self, name: str, group: str) -> Kind:
        """What an outline of that group is.

        Raises:
            StudyError: if nobody said.
        """
        if group not in self.groups:
            known = ", ".join(self.groups)
            remedy = f"say what it means with --group NAME=KIND, KIND being {', '.join(KINDS)}"
            raise self.error(name, f"is of the unknown group {group!r}; known are {known}; {remedy}")
        return self.groups[group]

    def add(self, name: str, group: str, outline: Polygon | MultiPolygon, *, points: int, smooth: bool = False) -> None:
        """Take an outline.

        Args:
            name: of the outline.
            group: a known one.
            outline: what it encloses, in level-0 pixels; it may be invalid or empty.
            points: how many it has in the file.
            smooth: whether it is a curve in the file.

        Raises:
            StudyError: if it lies outside the slide.
        """
        area, valid = outline, outline.is_valid
        if not valid:
            area = shapely.make_valid(outline, method="structure", keep_collapsed=False)  # winding number not 0
        kind = self.kind(name, group)
        if kind == "unused":
            self.notes["unused"].append(name)
            return
        if area.area == 0:
            self.notes["two_point"].append(name)
            return
        if self.size is not None:
            area = self._clip(name, area)
        self.areas[kind].append(area)
        self.points += points
        for note, applies in (("ungrouped", group == "None"), ("splines", smooth), ("repaired", not valid)):
            if applies:
                self.notes[note].append(name)

    def leave_out(self, name: str) -> None:
        """Take note of what has no area by its type."""
        self.notes["other"].append(name)

    def annotation(self) -> Annotation:
        """All of them together."""
        excluded = shapely.union_all(self.areas["excluded"])
        tumour = shapely.difference(shapely.union_all(self.areas["tumour"]), excluded)
        return Annotation(
            tumour=_polygons(tumour),
            excluded=_polygons(excluded),
            outlines=len(self.areas["tumour"]),
            exclusions=len(self.areas["excluded"]),
            points=self.points,
            **{note: tuple(names) for note, names in self.notes.items()},
        )

    def error(self, name: str, what: str) -> StudyError:
        return StudyError(f"{self.path}: outline {name!r} {what}")

    def _clip(self, name: str, area: Polygon | MultiPolygon) -> Polygon | MultiPolygon:
        width, height = self.size
        slide = shapely.box(0, 0, width, height)
        if slide.covers(area):
            return area
        self.notes["clipped"].append(name)
        inside = _polygons(shapely.intersection(area, slide))
        if inside.is_empty:
            x, y = area.bounds[:2]
            raise self.error(
                name,
                f"begins at x={x:.0f}, y={y:.0f}, outside the slide of {width} x {height} pixels; most probably the "
                "annotation is another slide's",
            )
        return inside


def _polygons(geometry: shapely.Geometry) -> MultiPolygon:
    """The parts of a geometry that have an area."""
    parts: Iterable[shapely.Geometry] = shapely.get_parts(geometry)
    return MultiPolygon([part for part in parts if isinstance(part, Polygon) and not part.is_empty])


def one_line(error: Exception) -> str:
    """What an error says, as one line."""
    return " ".join(str(error).split())
