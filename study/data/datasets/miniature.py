"""The entry of the miniature Camelyon, which :mod:`~study.data.datasets.miniature_slides` draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from study.data.datasets import camelyon16
from study.data.datasets.data_set import SPLIT_SEED, DataSet, Labels, SlideSet, Wanted
from study.errors import StudyError

if TYPE_CHECKING:
    from study.data.patches.store import PatchStore

SOURCE = "miniature Camelyon"
"""What stores and results call these slides."""

MARKER = "DRAWN_NOT_SCANNED.txt"
"""A file in the folder by which they are told from real slides."""


def prepare(wanted: Wanted) -> PatchStore | None:
    """A store of patches at 10x, and its slides, which are drawn if need be.

    It goes the way of the real data: slides, annotations, extraction.

    Raises:
        StudyError: if the folder cannot be written, the disk is full, another process draws the slides or extracts the
            patches, or the store there is of other settings.
    """
    from study.data.datasets.camelyon16_slides import GROUPS, find_slides, kind_of
    from study.data.datasets.miniature_slides import VERSION, make_miniature
    from study.data.extraction.one_slide import Scale
    from study.data.extraction.plan import extract_store, plan
    from study.data.patches.manifest import is_extraction
    from study.data.patches.store import PatchStore
    from study.files import remove_half_written
    from study.locks import only_one

    slides = wanted.folder / f"miniature-{VERSION}"
    store = wanted.folder / f"{slides.name}-{wanted.count}-patches-{wanted.size}px"
    if not wanted.make:
        return PatchStore(store) if is_extraction(store) else None
    if not slides.exists():
        with only_one(wanted.folder, "draws slides in"):
            remove_half_written(wanted.folder, slides.name)
            make_miniature(slides, progress=True)
    found, problems = find_slides(slides)
    options = {"source": SOURCE, "groups": GROUPS, "missing": [kind_of(name) for name in problems]}
    planned = plan(found, scale=Scale(wanted.size), patches=wanted.count, seed=SPLIT_SEED, **options)
    extraction = extract_store(store, planned, workers=0)
    if damaged := problems | extraction.failed:
        reason = next(iter(damaged.values()))
        raise StudyError(f"{reason}; or delete {slides}, it is drawn again" if str(slides) in reason else reason)
    return PatchStore(store)


def slides() -> SlideSet:
    return replace(camelyon16.slides(), recognises=lambda folder, slides: (folder / MARKER).is_file())


def draw(folder: Path, seed: int) -> str:
    from study.data.datasets.miniature_slides import make_miniature

    make_miniature(folder, seed=seed, progress=True)
    return f"python -m study data camelyon16 {folder} OUTPUT --patches 2000 --patch-size 64"


DATA_SET = DataSet(
    name="miniature",
    title="the miniature Camelyon",
    about="A miniature Camelyon: drawn slides, to try everything on; it says nothing about tissue.",
    licence="MIT, as the program that draws it",
    labels={
        "": Labels(
            source=SOURCE,
            caption="SYNTHETIC slides (miniature Camelyon)",
            foreground="drawn metastases",
        )
    },
    prepare=prepare,
    slides=slides,
    draw=draw,
)
