"""What was annotated on a slide, from the files of the viewers ASAP (XML) and QuPath (GeoJSON) to geometry."""

from pathlib import Path

from study.data.slides.annotations.annotation import GROUPS, KINDS, Annotation, Groups, Kind
from study.data.slides.annotations.asap import read_asap
from study.data.slides.annotations.qupath import read_qupath
from study.errors import StudyError

__all__ = [
    "EMPTY_ANNOTATION",
    "FORMATS",
    "GROUPS",
    "KINDS",
    "Annotation",
    "Groups",
    "Kind",
    "read_annotation",
]

FORMATS = {".xml": read_asap, ".geojson": read_qupath}
"""The reader of each kind of file, by the ending of its name."""

EMPTY_ANNOTATION = "<ASAP_Annotations><Annotations/></ASAP_Annotations>"
"""Says of a slide that it was looked at and holds no tumour."""


def read_annotation(path: Path | str, *, groups: Groups = GROUPS, size: tuple[int, int] | None = None) -> Annotation:
    """Read the outlines of a slide.

    Args:
        path: the file; its ending, one of :data:`FORMATS`, says of which viewer it is.
        groups: what the names of groups (ASAP) or classes (QuPath) mean.
        size: width and height of level 0 of its slide, in pixels, to which the outlines are cut.

    Raises:
        StudyError: if the file is missing, empty, broken, not safe or not the viewer's; if a coordinate is no finite
            number, a group or a type unknown; or if an outline lies outside the slide.
    """
    path = Path(path)
    if not path.is_file():
        raise StudyError(f"no annotation at {path}; check the path")
    if path.suffix.lower() not in FORMATS:
        raise StudyError(f"{path} is no annotation: its name must end in one of {', '.join(FORMATS)}")
    if path.stat().st_size == 0:
        raise StudyError(f"{path} is empty; get it again")
    return FORMATS[path.suffix.lower()](path, groups, size)
