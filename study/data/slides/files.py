"""The files of slides in a folder: slides, and the annotations and masks that belong to them by their names."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TypeVar

from study.data.slides.annotations import EMPTY_ANNOTATION, FORMATS, GROUPS, Groups, read_annotation
from study.data.slides.convertible import PICTURES, advice
from study.data.slides.masks import MaskFile
from study.data.slides.slide import SUFFIXES
from study.errors import StudyError

AnyPath = TypeVar("AnyPath", Path, PurePosixPath)


@dataclass(frozen=True)
class SlideFiles:
    """A slide and what belongs to it.

    Attributes:
        name: of the slide's file, without the ending and in lower case: releases differ in case.
        path: of the slide.
        annotation: its outlines, ``<name>.xml`` or ``<name>.geojson``, if there are any.
        mask: ``<name>_mask.tif``, if there is one.
        partial: whether tumour may be unlabelled, so that pixels that nobody labelled must be ignored.
        tumour: whether it has any, by the masks in use, see :func:`has_tumour`.
    """

    name: str
    path: Path
    annotation: Path | None
    mask: Path | None
    partial: bool
    tumour: bool


def find_slides(
    folder: Path, selection: str, *, groups: Groups = GROUPS, tiff_masks: bool = False
) -> tuple[list[SlideFiles], dict[str, str]]:
    """The slides in a folder and in those below it, each with its annotation; hidden files are left out.

    Args:
        folder: with slides, annotations ``<slide>.xml`` or ``<slide>.geojson``, and masks ``<slide>_mask.tif``, in any
            folders or in one. The annotation of a slide without tumour has no outlines, its mask no pixel of 1.
        selection: "all", or names and patterns of slides, see :func:`matching`.
        groups: what the names of groups and classes in annotations mean.
        tiff_masks: whether masks are in use, not annotations. A slide then needs no annotation; an annotation without
            outlines does instead of a mask.

    Returns:
        the slides, sorted by name; and for every slide of the selection that cannot be used, its name and the reason
        in one line.

    Raises:
        StudyError: if there are no slides, two of one name, or a name that is not there.
    """
    files = list(files_below(folder))
    slides, annotations, masks = by_slide(files)
    pictures = {path.stem.lower(): path for path in files if path.suffix.lower() in PICTURES}
    names = slides.keys() | annotations.keys() | (masks.keys() if tiff_masks else set())
    if not slides and not names & pictures.keys():
        others = [f"; {path} {advice(path)}" for path in sorted(pictures.values())[:1]]
        raise StudyError(
            f"no slides in {folder}; expected slides, each with <slide>.xml or <slide>.geojson{''.join(others)}"
        )
    found, problems = [], {}
    for name in sorted(names if selection == "all" else matching(names, selection, where=folder)):
        slide, annotation, mask = slides.get(name), annotations.get(name), masks.get(name)
        labels = labels_in_use(annotation, mask, tiff_masks=tiff_masks)
        if slide is None:
            problems[name] = _without_slide(labels, pictures.get(name))
        elif labels is None:
            problems[name] = _without_labels(slide, mask, tiff_masks=tiff_masks)
        else:
            tumour = has_tumour(labels, groups)
            found.append(SlideFiles(name, slide, annotation, mask, partial=False, tumour=tumour))
    return found, problems


def labels_in_use(annotation: Path | None, mask: Path | None, *, tiff_masks: bool) -> Path | None:
    """The file that says where a slide has tumour: its annotation, or the mask if masks are in use and it has one."""
    return mask if tiff_masks and mask is not None else annotation


def has_tumour(labels: Path, groups: Groups) -> bool:
    """Whether an annotation or a mask says that its slide has tumour; one that cannot be read is refused when used."""
    try:
        if labels.suffix.lower() in FORMATS:
            return not read_annotation(labels, groups=groups).tumour.is_empty
        with MaskFile(labels) as mask:
            return mask.has_tumour()
    except StudyError:
        return True


def _without_slide(labels: Path, picture: Path | None) -> str:
    """Why labels are of no use, and the remedy; there may be a picture that could become their slide."""
    if picture is not None and (what := advice(picture)):
        return f"{picture} {what}"
    return f"{labels} has no slide; get the slide or remove this file"


def _without_labels(slide: Path, mask: Path | None, *, tiff_masks: bool) -> str:
    """Why a slide cannot be used that has no labels of the kind in use, and the remedies."""
    empty = f"of a slide without tumour an empty annotation: {EMPTY_ANNOTATION}"
    if tiff_masks:
        return f"{slide} has no mask {slide.stem}_mask.tif; make one, {empty}"
    files = " or ".join(slide.stem + ending for ending in FORMATS)
    remedy = f"take {mask} with --masks tiff, or make one" if mask else "make one"
    return f"{slide} has no annotation {files}; {remedy}, {empty}"


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


def by_slide(
    paths: Iterable[AnyPath], *, unused: str | None = None
) -> tuple[dict[str, AnyPath], dict[str, AnyPath], dict[str, AnyPath]]:
    """Sort files into slides, annotations and masks, each by the slide's name in lower case (releases differ in case).

    Args:
        paths: of the files.
        unused: what the names of files end with that are left out.

    Raises:
        StudyError: if a slide has two files of a kind.
    """
    slides, annotations, masks = {}, {}, {}
    for path in sorted(paths):
        name, suffix = path.stem.lower(), path.suffix.lower()
        if suffix in FORMATS:
            kind = annotations
        elif suffix not in SUFFIXES or (unused and name.endswith(unused)):
            continue
        else:
            kind = masks if name.endswith("_mask") else slides
        name = name.removesuffix("_mask")
        if name in kind:
            raise StudyError(f"{path} and {kind[name]} are both for slide {path.stem}; remove one of them")
        kind[name] = path
    return slides, annotations, masks


def matching(names: Iterable[str], selection: str, *, where: Path | str, words: str = "all") -> set[str]:
    """Those of the (lower-case) names of slides that are chosen.

    Args:
        names: of the slides that there are.
        selection: names separated by commas, which may be shell-style patterns: "tumor_001,normal_00*"; case does not
            matter.
        where: they are, for the message.
        words: that may be given in the place of names, for the message.

    Raises:
        StudyError: naming the patterns that no name matches.
    """
    patterns = patterns_of(selection)
    if not patterns:
        raise StudyError(f"no slides chosen; give {words}, or names such as tumor_001,normal_00*")
    chosen = {pattern: {name for name in names if fnmatchcase(name, pattern)} for pattern in patterns}
    if unknown := [pattern for pattern, matches in chosen.items() if not matches]:
        raise StudyError(f"no slide named {', '.join(unknown)} in {where}; check the names, and what is there")
    return set().union(*chosen.values())


def patterns_of(selection: str) -> list[str]:
    """The names and patterns of a selection, in lower case."""
    return [part.strip().lower() for part in selection.split(",") if part.strip()]
