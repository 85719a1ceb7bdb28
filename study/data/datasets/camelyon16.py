"""Which slides of Camelyon16 there are in a folder, with their annotations and masks, and which of them to use.

``camelyon16.csv`` beside this file says what is known to be wrong with the public data, with a source per row. Its
columns ``all`` and ``clean`` say what is done about it in either selection: "kept", "ignore unlabelled" (kept, but a
pixel that nobody labelled counts in neither loss nor Dice) or "left out". Slides that it does not name are kept.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TypeVar

import pandas as pd

from study.data.slides.slide import SUFFIXES
from study.errors import StudyError

TABLE_VERSION = 1
"""Of ``camelyon16.csv``; raised with every change of it."""

INDEX = "checksums.md5"
"""The list of all published files with their MD5 sums, as it is named in the bucket and kept in the folder."""

EMPTY_ANNOTATION = "<ASAP_Annotations><Annotations/></ASAP_Annotations>"
"""Says of a slide that it was looked at and holds no tumour."""

_LEFT_OUT, _IGNORE_UNLABELLED = "left out", "ignore unlabelled"

AnyPath = TypeVar("AnyPath", Path, PurePosixPath)


@dataclass(frozen=True)
class SlideFiles:
    """A slide and what belongs to it.

    Attributes:
        name: of the slide's file, without the ending and in lower case: releases differ in case.
        path: of the slide.
        annotation: its outlines, ``<name>.xml``; None if there are none because the slide is normal.
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


@cache
def exclusions() -> pd.DataFrame:
    """The table of exclusions and corrections: ``finding``, ``all``, ``clean`` and ``source`` by the slide's name."""
    return pd.read_csv(Path(__file__).with_name("camelyon16.csv"), index_col="slide", keep_default_na=False)


def find_slides(folder: Path | str, selection: str = "all") -> tuple[list[SlideFiles], dict[str, str]]:
    """The slides in a folder and in those below it, with what belongs to them; hidden files are left out.

    A slide of Camelyon16 is told by its name. ``tumor_*`` must have an annotation, ``normal_*`` must not. ``test_*``
    without one is a normal slide, unless the folder's ``checksums.md5`` lists one; where that list is missing, a test
    slide whose annotation was not downloaded is taken for normal. Any other slide needs an annotation, an empty one
    (:data:`EMPTY_ANNOTATION`) if it holds no tumour.

    Args:
        folder: with slides ``*.tif`` (or another of :data:`~study.data.slides.slide.SUFFIXES`), annotations ``*.xml``
            and masks ``*_mask.tif``, in any folders or in one.
        selection: see :func:`select`.

    Returns:
        the slides, sorted by name; and for every slide of the selection that cannot be used, its name and the reason
        in one line.

    Raises:
        StudyError: if there are no slides, two of one name or a name that is not there, or if the list is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise StudyError(f"no folder of slides at {folder}; check the path")
    slides, annotations, masks = by_slide(_files(folder))
    if not slides:
        raise StudyError(f"no slides in {folder}; expected images/*.tif and annotations/*.xml as in Camelyon16")
    index = folder / INDEX
    published = by_slide(read_index(index))[1] if index.is_file() else {}
    found, problems = [], {}
    for key in select(slides.keys() | annotations.keys(), selection, where=folder):
        slide, annotation = slides.get(key), annotations.get(key)
        if problem := _problem(key, slide, annotation, published=key in published):
            problems[key] = problem
        else:
            tumour = annotation is not None and not _says_no_tumour(annotation)
            found.append(SlideFiles(key, slide, annotation, masks.get(key), is_partial(key), tumour))
    return found, problems


def _says_no_tumour(annotation: Path) -> bool:
    """Whether an annotation has no outlines; one that cannot be read has its say when it is used."""
    try:
        content = annotation.read_bytes()
    except OSError:
        return False
    return b"<ASAP_Annotations" in content and not re.search(rb"<Annotation\s", content)


def select(names: Iterable[str], selection: str, *, where: Path | str) -> list[str]:
    """Choose from the (lower-case) names of slides, and apply the table of exclusions.

    Args:
        names: of the slides that there are.
        selection: "all", "clean", or names separated by commas, which may be shell-style patterns:
            "tumor_001,normal_00*". Names are taken as in "all", and case does not matter.
        where: they are, for the message.

    Returns:
        the chosen names, sorted.

    Raises:
        StudyError: naming the names that are not there or left out.
    """
    names = set(names)
    rule = exclusions()["clean" if selection == "clean" else "all"]
    left_out = set(rule.index[rule == _LEFT_OUT])
    if selection in ("all", "clean"):
        return sorted(names - left_out)
    patterns = [part.strip().lower() for part in selection.split(",") if part.strip()]
    if not patterns:
        raise StudyError("no slides chosen; give all, clean, or names such as tumor_001,normal_00*")
    for name in patterns:
        if name in left_out:
            row = exclusions().loc[name]
            raise StudyError(f"{name} cannot be used: {row['finding']} ({row['source']}); choose other slides")
    chosen = {pattern: {name for name in names if fnmatchcase(name, pattern)} for pattern in patterns}
    if unknown := [pattern for pattern, matches in chosen.items() if not matches]:
        raise StudyError(f"no slide named {', '.join(unknown)} in {where}; check the names, and what is there")
    return sorted(set().union(*chosen.values()) - left_out)


def by_slide(paths: Iterable[AnyPath]) -> tuple[dict[str, AnyPath], dict[str, AnyPath], dict[str, AnyPath]]:
    """Sort files into slides, annotations and masks, each by the slide's name in lower case (releases differ in case).

    Raises:
        StudyError: if a slide has two files of a kind.
    """
    slides, annotations, masks = {}, {}, {}
    for path in sorted(paths):
        name, suffix = path.stem.lower(), path.suffix.lower()
        if suffix == ".xml":
            kind = annotations
        elif suffix not in SUFFIXES or name.endswith("_tissue"):  # the bucket has masks of the tissue too
            continue
        else:
            kind = masks if name.endswith("_mask") else slides
        name = name.removesuffix("_mask")
        if name in kind:
            raise StudyError(f"{path} and {kind[name]} are both for slide {path.stem}; remove one of them")
        kind[name] = path
    return slides, annotations, masks


def read_index(path: Path) -> dict[PurePosixPath, str]:
    """Read a list of MD5 sums; see :func:`parse_index`."""
    try:
        return parse_index(path.read_text(encoding="utf-8-sig"), where=path)
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path} cannot be read or is no list of MD5 sums; download it again") from error


def parse_index(text: str, *, where: Path | str) -> dict[PurePosixPath, str]:
    """The files that a list of MD5 sums names, as ``md5sum`` writes it, with their sums in lower case.

    Raises:
        StudyError: if a line is not a sum and a path, or the path leads out of the folder.
    """
    sums = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        match = re.fullmatch(r"([0-9a-fA-F]{32})\s+\*?(\S.*)", line.strip())
        if not match:
            raise StudyError(f"{where} is no list of MD5 sums (line {number}: {line.strip()[:40]!r}); get it again")
        path = PurePosixPath(match[2])
        if path.is_absolute() or ".." in path.parts or set(match[2]) & set("\\:\0"):
            raise StudyError(f"{where} names {match[2]!r}, which is outside of its folder; get the files elsewhere")
        sums[path] = match[1].lower()
    return sums


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder that are not hidden, through links to folders too, each folder once."""
    seen = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        place = os.path.realpath(root)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(root, name) for name in files if not name.startswith("."))


def _problem(key: str, slide: Path | None, annotation: Path | None, *, published: bool) -> str | None:
    """Why a slide cannot be used, in one line with the remedy; None if it can."""
    if slide is None:
        return f"{annotation} has no slide; get the slide or remove the annotation"
    normal = key.startswith("normal_")
    if normal and annotation is not None:
        return f"{slide} is a normal slide by its name, yet has the annotation {annotation}; remove one of them"
    if normal or annotation is not None or (key.startswith("test_") and not published):
        return None
    missing = f"{slide} has no annotation {slide.stem}.xml"
    if published:
        return f"{missing}, which {INDEX} lists; download it"
    if key.startswith("tumor_"):
        return f"{missing}; get it, or leave the slide out"
    return f"{missing}; make one, of a slide without tumour an empty one: {EMPTY_ANNOTATION}"


def is_partial(key: str) -> bool:
    rule = exclusions()["all"]
    return key in rule.index and rule[key] == _IGNORE_UNLABELLED
