"""What a data set is: one entry that says how to read it, what its masks mean, and under which licence it is.

Two kinds: a data set of *images* is read from its folder and becomes a patch store of one file; one of *slides* goes
through an extraction. An entry is a :class:`DataSet`, in a module of its own, which
:mod:`study.data.datasets.registry` lists. Nothing else in the project knows a data set by name.

The command line lists all entries in its help, so a module with an entry, and this one, import what is slow to import
(pandas, HDF5, geometry) inside functions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from study.data.patches.schema import Patch
from study.errors import StudyError

if TYPE_CHECKING:
    from study.data.extraction.sampling import SlideKind
    from study.data.patches.store import PatchStore
    from study.data.slides.annotations import Groups
    from study.data.slides.files import SlideFiles

SPLIT_SEED = 0
"""Of the assignment of cases to train, validation and test; one for all seeds of a study."""


@dataclass(frozen=True)
class Labels:
    """What the masks of a data set mean for one task.

    Attributes:
        source: what stores and records call the patches.
        caption: what tables and figures call them.
        classes: names of the label values 0, 1, ... in masks, if they are not those of a task of
            :mod:`study.tasks.registry`.
        foreground: the foreground in words, for the card of a network.
        limits: what the foreground does not mean, for the card of a network.
        former: what older records call the patches.
    """

    source: str
    caption: str
    classes: tuple[str, ...] | None = None
    foreground: str = "the foreground"
    limits: str = ""
    former: tuple[str, ...] = ()


@dataclass(frozen=True)
class Images:
    """What a data set of images gives for one task at one size of patches.

    Attributes:
        patches: read one by one.
        cases: the patient of every image, or of every patch.
        files: a digest of what the patches are made from (:func:`digest_of`): with the same one, a store is not made
            again.
    """

    patches: Iterator[Patch]
    cases: Sequence[str]
    files: str


@dataclass(frozen=True)
class Wanted:
    """The patch store that a study asks for.

    Attributes:
        folder: where stores are kept.
        size: side of the patches in pixels.
        count: how many patches, where that is a choice.
        make: the store if it is not there yet; else there is none then.
    """

    folder: Path
    size: int
    count: int
    make: bool


@dataclass(frozen=True)
class SlideSet:
    """What is particular to a collection of slides.

    Attributes:
        find: the slides of a selection in a folder, and why others of it cannot be used, by their names; as
            :func:`study.data.slides.files.find_slides`, with its options.
        kind_of: what the name of a slide that cannot be used yet says of it.
        groups: what the names of groups and classes in its annotations mean.
        recognises: whether the slides found in a folder are this collection's.
    """

    find: Callable[..., tuple[list[SlideFiles], dict[str, str]]]
    kind_of: Callable[[str], SlideKind]
    groups: Groups
    recognises: Callable[[Path, Sequence[SlideFiles]], bool]


@dataclass(frozen=True)
class Card:
    """What the card of a network says of the data that it was trained on; texts in Markdown.

    Attributes:
        subject: what the patches show.
        original_size: side of the original patches in pixels.
        magnification: of the original patches.
        limits: what not to expect, beside what :class:`Labels` say.
        attribution: whose work the data are.
    """

    subject: str
    original_size: int
    magnification: int
    limits: tuple[str, ...]
    attribution: str


@dataclass(frozen=True)
class DataSet:
    """An entry of the registry.

    Attributes:
        name: what presets and the command line call it.
        title: what people call it.
        about: one line for people, which begins with the title.
        licence: under which the images are.
        labels: by the names of the tasks; if there is one task, its name does not matter.
        read: of a data set of images: the patches in a folder (None: those in the package), of a size, for a task.
        size: side of the images in pixels, if they are of one size.
        prepare: of a data set that needs no folder: its patch store.
        needs: what a folder of it is, for the message that there is none.
        packaged: whether patches of it come with the package.
        pack: reduces a folder to what comes with the package, in a file.
        download: gets it into a folder, from an address (None: the original one), and of slides a selection.
        slides: says what is particular to its slides.
        draw: draws its slides, if they are not real, into a new folder, by a seed; returns the command that comes next.
        card: for the cards of networks.
        cases: what its cases are, which splits keep together.
    """

    name: str
    title: str
    about: str
    licence: str
    labels: Mapping[str, Labels] = field(default_factory=dict)
    read: Callable[[Path | None, int, str], Images] | None = None
    size: int | None = None
    prepare: Callable[[Wanted], PatchStore | None] | None = None
    needs: str = ""
    packaged: bool = False
    pack: Callable[[Path, Path], None] | None = None
    download: Callable[[Path, str | None, str], list[Path]] | None = None
    slides: Callable[[], SlideSet] | None = None
    draw: Callable[[Path, int], str] | None = None
    card: Card | None = None
    cases: str = "cases"

    def task(self, name: str) -> str:
        """The task of that name, or the only one.

        Raises:
            StudyError: if there are several and none of that name.
        """
        if name not in self.labels and len(self.labels) != 1:
            raise StudyError(f"unknown task {name!r} of {self.title}; choose from {', '.join(self.labels)}")
        return name if name in self.labels else next(iter(self.labels))

    def store(self, path: Path, data: Path | None, *, size: int, task: str, make: bool = True) -> PatchStore | None:
        """The store of all images, at ``path``: the one that is there, if it is made from just these, or a new one.

        Args:
            path: of the store, one file.
            data: the folder; None: what comes with the package.
            size: side of the patches in pixels.
            task: see :meth:`task`.
            make: the store if it is not there yet; else the result is None then.

        Raises:
            StudyError: if the folder cannot be read, or see :meth:`task`; an older store is left as it was.
        """
        from study.data.patches.splits import split_by_case
        from study.data.patches.store import PatchStore, write_patches
        from study.tasks.registry import TASKS

        task = self.task(task)
        labels, images = self.labels[task], self.read(data, size, task)
        recipe = {"source": labels.source, "size": size, "files": images.files}
        try:
            store = PatchStore(path)
        except StudyError:  # missing or damaged: it can be made again
            store = None
        if store is None or store.recipe != recipe:
            if not make:
                return None
            split = split_by_case(images.cases, seed=SPLIT_SEED)
            classes = labels.classes
            if classes is None and task in TASKS and TASKS[task].outputs > 1:  # two go unnamed, as in older stores
                classes = TASKS[task].classes
            about = {"source": labels.source, "recipe": recipe, "classes": classes}
            write_patches(path, images.patches, split, **about)
            store = PatchStore(path)
        return store


def digest_of(folder: Path, files: Iterable[Path]) -> str:
    """A digest of the names and sizes of files below a folder."""
    lines = "".join(f"{file.relative_to(folder)} {file.stat().st_size}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()
