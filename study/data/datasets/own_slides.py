"""Slides of your own, each with an annotation of ASAP or QuPath beside it."""

from pathlib import Path

from study.data.datasets.data_set import DataSet, SlideSet
from study.data.extraction.sampling import SlideKind
from study.data.slides.annotations import EMPTY_ANNOTATION, FORMATS, GROUPS, says_no_tumour
from study.data.slides.files import SlideFiles, by_slide, files_below, matching
from study.errors import StudyError


def find_slides(folder: Path, selection: str) -> tuple[list[SlideFiles], dict[str, str]]:
    """The slides in a folder and in those below it, with what belongs to them; hidden files are left out.

    Args:
        folder: with slides, annotations ``<slide>.xml`` or ``<slide>.geojson``, and masks ``<slide>_mask.tif``, in any
            folders or in one. The annotation of a slide without tumour has no outlines.
        selection: "all", or names and patterns of slides, see :func:`~study.data.slides.files.matching`.

    Returns:
        the slides, sorted by name; and for every slide of the selection that cannot be used, its name and the reason
        in one line.

    Raises:
        StudyError: if there are no slides, two of one name, or a name that is not there.
    """
    slides, annotations, masks = by_slide(files_below(folder))
    if not slides:
        raise StudyError(
            f"no slides in {folder}; expected slides, and <slide>.xml or <slide>.geojson with the outlines"
        )
    names = slides.keys() | annotations.keys()
    found, problems = [], {}
    for name in sorted(names if selection == "all" else matching(names, selection, where=folder)):
        slide, annotation = slides.get(name), annotations.get(name)
        if slide is None:
            problems[name] = f"{annotation} has no slide; get the slide or remove the annotation"
        elif annotation is None:
            files = " or ".join(slide.stem + ending for ending in FORMATS)
            problems[name] = (
                f"{slide} has no annotation {files}; make one, of a slide without tumour an empty one: "
                f"{EMPTY_ANNOTATION}"
            )
        else:
            tumour = not says_no_tumour(annotation)
            found.append(SlideFiles(name, slide, annotation, masks.get(name), partial=False, tumour=tumour))
    return found, problems


def kind_of(name: str) -> SlideKind:
    """A slide that cannot be used yet is held to have tumour."""
    return SlideKind(name, tumour=True)


DATA_SET = DataSet(
    name="slides",
    title="own slides",
    about="Your own slides, with annotations of ASAP (XML) or QuPath (GeoJSON).",
    licence="yours",
    slides=SlideSet(find_slides, kind_of, GROUPS, recognises=lambda folder, slides: False),
)
