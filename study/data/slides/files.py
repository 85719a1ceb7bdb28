"""The files of slides in a folder: slides, and the annotations and masks that belong to them by their names."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TypeVar

from study.data.slides.annotations import EMPTY_ANNOTATION, FORMATS, says_no_tumour
from study.data.slides.slide import SUFFIXES
from study.errors import StudyError

AnyPath = TypeVar("AnyPath", Path, PurePosixPath)


@dataclass(frozen=True)
class SlideFiles:
    """A slide and what belongs to it.

    Attributes:
        name: of the slide's file, without the ending and in lower case: releases differ in case.
        path: of the slide.
        annotation: its outlines, ``<name>.xml`` or ``<name>.geojson``; None if there are none because the slide is
            normal.
        mask: ``<name>_mask.tif``, if there is one.
        partial: whether tumour may be unlabelled, so that pixels that nobody labelled must be ignored.
        tumour: whether anything is outlined on it.
    """

    name: str
    path: Path
    annotation: Path | None
    mask: Path | None
    partial: bool
    tumour: bool


def find_slides(folder: Path, selection: str) -> tuple[list[SlideFiles], dict[str, str]]:
    """The slides in a folder and in those below it, each with its annotation; hidden files are left out.

    Args:
        folder: with slides, annotations ``<slide>.xml`` or ``<slide>.geojson``, and masks ``<slide>_mask.tif``, in any
            folders or in one. The annotation of a slide without tumour has no outlines.
        selection: "all", or names and patterns of slides, see :func:`matching`.

    Returns:
        the slides, sorted by name; and for every slide of the selection that cannot be used, its name and the reason
        in one line.

    Raises:
        StudyError: if there are no slides, two of one name, or a name that is not there.
    """
    slides, annotations, masks = by_slide(files_below(folder))
    if not slides:
        raise StudyError(f"no slides in {folder}; expected slides, each with <slide>.xml or <slide>.geojson")
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


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder that are not hidden, through links to folders too, each folder once.

    Raises:
        StudyError: if there is no such folder.
    """
    if not folder.is_dir():
        raise StudyError(f"no folder of slides at {folder}; check the path")
    seen = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        place = os.path.realpath(root)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(root, name) for name in files if not name.startswith("."))


def by_slide(paths: Iterable[AnyPath]) -> tuple[dict[str, AnyPath], dict[str, AnyPath], dict[str, AnyPath]]:
    """Sort files into slides, annotations and masks, each by the slide's name in lower case (releases differ in case).

    Raises:
        StudyError: if a slide has two files of a kind.
    """
    slides, annotations, masks = {}, {}, {}
    for path in sorted(paths):
        name, suffix = path.stem.lower(), path.suffix.lower()
        if suffix in FORMATS:
            kind = annotations
        elif suffix not in SUFFIXES or name.endswith("_tissue"):  # Camelyon16 has masks of the tissue too
            continue
        else:
            kind = masks if name.endswith("_mask") else slides
        name = name.removesuffix("_mask")
        if name in kind:
            raise StudyError(f"{path} and {kind[name]} are both for slide {path.stem}; remove one of them")
        kind[name] = path
    return slides, annotations, masks


def matching(names: Iterable[str], selection: str, *, where: Path | str) -> set[str]:
    """Those of the (lower-case) names of slides that are chosen.

    Args:
        names: of the slides that there are.
        selection: names separated by commas, which may be shell-style patterns: "tumor_001,normal_00*"; case does not
            matter.
        where: they are, for the message.

    Raises:
        StudyError: naming the patterns that no name matches.
    """
    patterns = patterns_of(selection)
    if not patterns:
        raise StudyError("no slides chosen; give all, clean, or names such as tumor_001,normal_00*")
    chosen = {pattern: {name for name in names if fnmatchcase(name, pattern)} for pattern in patterns}
    if unknown := [pattern for pattern, matches in chosen.items() if not matches]:
        raise StudyError(f"no slide named {', '.join(unknown)} in {where}; check the names, and what is there")
    return set().union(*chosen.values())


def patterns_of(selection: str) -> list[str]:
    """The names and patterns of a selection, in lower case."""
    return [part.strip().lower() for part in selection.split(",") if part.strip()]
