"""Which slides of Camelyon16 there are in a folder, with their annotations and masks, and which of them to use.

``camelyon16.csv`` beside this file says what is known to be wrong with the public data, with a source per row. Its
columns ``all`` and ``clean`` say what is done about it in either selection: "kept", "ignore unlabelled" (kept, but a
pixel that nobody labelled counts in neither loss nor Dice) or "left out". Slides that it does not name are kept.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path, PurePosixPath

import pandas as pd

from study.data.extraction.sampling import SlideKind
from study.data.slides.annotations import EMPTY_ANNOTATION, Groups
from study.data.slides.files import (
    SlideFiles,
    by_slide,
    files_below,
    has_tumour,
    labels_in_use,
    matching,
    patterns_of,
)
from study.errors import StudyError

TISSUE = "_tissue"
"""End of the names of the masks of tissue that Camelyon16 has too."""

TABLE_VERSION = 1
"""Of ``camelyon16.csv``; raised with every change of it."""

INDEX = "checksums.md5"
"""The list of all published files with their MD5 sums, as it is named in the bucket and kept in the folder."""

GROUPS: Groups = {
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

_LEFT_OUT, _IGNORE_UNLABELLED = "left out", "ignore unlabelled"


@cache
def exclusions() -> pd.DataFrame:
    """The table of exclusions and corrections: ``finding``, ``all``, ``clean`` and ``source`` by the slide's name."""
    return pd.read_csv(Path(__file__).with_name("camelyon16.csv"), index_col="slide", keep_default_na=False)


def find_slides(
    folder: Path | str, selection: str = "all", *, groups: Groups = GROUPS, tiff_masks: bool = False
) -> tuple[list[SlideFiles], dict[str, str]]:
    """The slides in a folder and in those below it, with what belongs to them; hidden files are left out.

    A slide of Camelyon16 is told by its name. ``tumor_*`` must have an annotation, ``normal_*`` must not have one with
    tumour. ``test_*`` without one is a normal slide, unless the folder's ``checksums.md5`` lists one; where that list
    is missing, a test slide whose annotation was not downloaded is taken for normal. Any other slide needs an
    annotation, an empty one (:data:`EMPTY_ANNOTATION`) if it holds no tumour. Where masks are in use, a mask counts
    instead of an annotation.

    Args:
        folder: with slides ``*.tif`` (or another of :data:`~study.data.slides.slide.SUFFIXES`), annotations ``*.xml``
            and masks ``*_mask.tif``, in any folders or in one.
        selection: see :func:`select`.
        groups: what the names of groups in annotations mean.
        tiff_masks: whether masks are in use, not annotations.

    Returns:
        the slides, sorted by name; and for every slide of the selection that cannot be used, its name and the reason
        in one line.

    Raises:
        StudyError: if there are no slides, two of one name or a name that is not there, or if the list is damaged.
    """
    folder = Path(folder)
    slides, annotations, masks = by_slide(files_below(folder), unused=TISSUE)
    if not slides:
        raise StudyError(f"no slides in {folder}; expected images/*.tif and annotations/*.xml as in Camelyon16")
    index = folder / INDEX
    published = by_slide(read_index(index), unused=TISSUE)[2 if tiff_masks else 1] if index.is_file() else {}
    names = slides.keys() | annotations.keys() | (masks.keys() if tiff_masks else set())
    found, problems = [], {}
    for key in select(names, selection, where=folder):
        slide, annotation, mask = slides.get(key), annotations.get(key), masks.get(key)
        labels = labels_in_use(annotation, mask, tiff_masks=tiff_masks)
        tumour = slide is not None and labels is not None and has_tumour(labels, groups)
        wanted = f"mask {key}_mask.tif" if tiff_masks else f"annotation {slide.stem if slide else key}.xml"
        if problem := _problem(key, slide, labels, tumour=tumour, wanted=wanted, published=key in published):
            problems[key] = problem
        else:
            found.append(SlideFiles(key, slide, annotation, mask, is_partial(key), tumour))
    return found, problems


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
    for name in patterns_of(selection):
        if name in left_out:
            row = exclusions().loc[name]
            raise StudyError(f"{name} cannot be used: {row['finding']} ({row['source']}); choose other slides")
    return sorted(matching(names, selection, where=where, words="all, clean") - left_out)


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


def _problem(
    key: str, slide: Path | None, labels: Path | None, *, tumour: bool, wanted: str, published: bool
) -> str | None:
    """Why a slide cannot be used, in one line with the remedy; None if it can.

    Args:
        key: the slide's name.
        slide, labels: the slide, and its annotation or mask.
        tumour: whether the labels say that there is some.
        wanted: what a slide without labels lacks.
        published: whether the list of sums names such labels.
    """
    if slide is None:
        return f"{labels} has no slide; get the slide or remove this file"
    normal = key.startswith("normal_")
    if normal and tumour:
        return f"{slide} is a normal slide by its name, yet has tumour in {labels}; remove one of them"
    if normal or labels is not None or (key.startswith("test_") and not published):
        return None
    missing = f"{slide} has no {wanted}"
    if published:
        return f"{missing}, which {INDEX} lists; download it"
    if key.startswith("tumor_"):
        return f"{missing}; get it, or leave the slide out"
    return f"{missing}; make one, of a slide without tumour an empty annotation: {EMPTY_ANNOTATION}"


def is_partial(key: str) -> bool:
    """Whether a slide is annotated in part only."""
    rule = exclusions()["all"]
    return key in rule.index and rule[key] == _IGNORE_UNLABELLED


def kind_of(name: str) -> SlideKind:
    """What the name of a slide says of it."""
    return SlideKind(name, tumour=not name.startswith("normal"), partial=is_partial(name))


def recognises(folder: Path, slides: Sequence[SlideFiles]) -> bool:
    """Whether all slides have names of Camelyon16."""
    return all(re.fullmatch(r"(normal|tumor|test)_\d{3}", slide.name) for slide in slides)
