"""The data sets by name, and from each a patch store, made once and reused while it fits.

To add one: a module with a ``DATA_SET``, and its line in :data:`DATA_SETS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from study.data.datasets import camelyon16, ebhi, folder, miniature, nuinsseg, own_slides, store
from study.data.datasets.data_set import DataSet, Labels, Wanted
from study.errors import StudyError

if TYPE_CHECKING:
    from study.data.patches.store import PatchStore
    from study.data.slides.files import SlideFiles

DATA_SETS: dict[str, DataSet] = {
    data_set.name: data_set
    for data_set in (
        miniature.DATA_SET,  # before Camelyon16, whose slides it resembles
        ebhi.DATA_SET,
        nuinsseg.DATA_SET,
        camelyon16.DATA_SET,
        own_slides.DATA_SET,
        folder.DATA_SET,
        store.DATA_SET,
    )
}


def find_data_set(name: str) -> DataSet:
    """A data set by its name.

    Raises:
        StudyError: if there is none of that name.
    """
    if name not in DATA_SETS:
        raise StudyError(f"unknown data set {name!r}; choose from {', '.join(DATA_SETS)}")
    return DATA_SETS[name]


def labels_of(name: str, task: str) -> Labels | None:
    """What the masks of a study's patches mean; None where its patches may be any.

    Raises:
        StudyError: see :func:`find_data_set` and :meth:`~study.data.datasets.data_set.DataSet.task`.
    """
    data_set = find_data_set(name)
    return data_set.labels[data_set.task(task)] if data_set.labels else None


def data_set_of(source: str) -> DataSet | None:
    """The data set whose patches stores and records call that; None if they are of somebody's own."""
    return _find(source)[0]


def source_today(source: str) -> str:
    """What stores call the patches today that older records call ``source``."""
    labels = _find(source)[1]
    return source if labels is None else labels.source


def caption_of(source: str) -> str:
    """What tables and figures call the patches that stores and records call ``source``."""
    labels = _find(source)[1]
    return source if labels is None else labels.caption


def cases_of(source: str) -> str:
    """What tables and figures call the cases of the patches that stores and records call ``source``."""
    data_set = data_set_of(source)
    return "cases" if data_set is None else data_set.cases


def source_of_slides(folder: Path, slides: Sequence[SlideFiles]) -> str:
    """What stores call the patches of slides: by the first data set that recognises the slides as its own."""
    for data_set in DATA_SETS.values():
        if data_set.slides is not None and data_set.slides().recognises(folder, slides):
            return next(iter(data_set.labels.values())).source
    return own_slides.DATA_SET.title


def prepare(
    name: str, *, data: Path | None, folder: Path, size: int, count: int, task: str = "", make: bool = True
) -> PatchStore | None:
    """The patch store of a study: made from ``data`` or from what comes with the package, or found from an earlier run.

    Args:
        name: of the data set.
        data: its folder, None being what needs no folder; or, for any data set, a patch store of your own.
        folder: where stores that are made are kept.
        size: side of the patches in pixels.
        count: how many patches, where that is a choice.
        task: one of the data set's; where it has one only, it is ignored.
        make: what is not there yet; else the result is None where something would have to be made.

    Raises:
        StudyError: if there is no such data set or task, it needs a folder and has none, the folder cannot be read, or
            the patches of a store are of another size.
    """
    data_set = find_data_set(name)
    if data is None and data_set.prepare is not None:
        return data_set.prepare(Wanted(folder, size, count, make))
    found = open_data(name, data, folder=folder, size=size, task=task, make=make)
    if found is not None and found.size != (size, size):
        height, width = found.size
        remedy = f"give --set size={height}" if height == width else "make square ones"
        raise StudyError(f"{data} holds patches of {height} x {width}, this preset wants {size} x {size}; {remedy}")
    return found


def open_data(
    name: str, data: Path | None, *, folder: Path, size: int, task: str = "", make: bool = True
) -> PatchStore | None:
    """The patches at ``--data``: of a patch store, of whatever size, or made from the folder of the data set.

    Args:
        name, data, folder, size, task, make: see :func:`prepare`; ``size`` is of patches that are made.

    Raises:
        StudyError: see :func:`prepare`.
    """
    from study.data.patches.manifest import is_extraction
    from study.data.patches.store import PatchStore

    data_set = find_data_set(name)
    own = data is not None and (data.is_file() or is_extraction(data))
    if data_set.read is not None and not own and (data is not None or data_set.packaged):
        origin = ("-box" if data is None else "-folder") if data_set.packaged else ""
        path = folder / f"{name}-{data_set.task(task)}-{size}px{origin}.h5"
        return data_set.store(path, data, size=size, task=task, make=make)
    if data is None:
        needs = f"{data_set.needs}, or " * bool(data_set.needs)
        raise StudyError(
            f"this preset needs data: give --data PATH, {needs}a patch store of {size} x {size} patches "
            "(`python -m study data` makes one)"
        )
    return PatchStore(data)


def _find(source: str) -> tuple[DataSet | None, Labels | None]:
    for data_set in DATA_SETS.values():
        for labels in data_set.labels.values():
            if source in (labels.source, *labels.former):
                return data_set, labels
    return None, None
