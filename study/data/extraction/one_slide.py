"""From slides and annotations to the paper's patches: what one worker does with one slide.

A slide's patches go to one HDF5 file, which has its final name only when it is complete. Everything a worker needs is
in its :class:`Task`, and everything that others need to know is in the file.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from study.data.extraction.sampling import draw_positions
from study.data.patches.integrity import FORMAT, UNREADABLE, fixed_length, sign, text, verify
from study.data.patches.manifest import slide_file
from study.data.patches.schema import (
    COLUMNS,
    IMAGE,
    MASK,
    array_shapes,
    patch_hash,
    patches_fingerprint,
)
from study.data.slides.annotations import Annotation, Groups, read_annotation
from study.data.slides.masks import Mask, OutlineMask, TiffMask
from study.data.slides.slide import Slide, View
from study.data.slides.tissue import CELL, tissue_map
from study.errors import StudyError
from study.files import replacing, require_space
from study.tasks.labels import IGNORE

_GROUP = 32
"""Windows that are read at once, at the most: more are nowhere near each other, and their box would fill the memory."""


@dataclass(frozen=True)
class Scale:
    """How patches are cut: side in pixels, at a magnification or at micrometres per pixel."""

    patch_size: int
    magnification: float | None = 10.0
    mpp: float | None = None


@dataclass(frozen=True)
class Task:
    """One slide, and the patches that are wanted of it.

    Attributes:
        name, split: of the slide.
        slide, annotation, mask: the files; the mask, a TIFF, is used instead of the annotation if it is given. A slide
            with neither has no tumour.
        partial: whether the slide is annotated in part only: what nobody labelled is then marked to be ignored.
        scale: how patches are cut.
        groups: what the names of groups and classes in the annotation mean.
        slide_mpp: micrometres per pixel of level 0, if the slide does not say them, or not rightly.
        seed: of the study.
        wanted: number of patches with and without tumour.
        positions: instead of drawing, cut the patches at these (x, y) of level 0, and expect these hashes.
    """

    name: str
    split: str
    slide: Path
    annotation: Path | None
    mask: Path | None
    partial: bool
    groups: Groups
    scale: Scale
    slide_mpp: float | None
    seed: int
    wanted: tuple[int, int] = (0, 0)
    positions: tuple[tuple[int, int, str], ...] | None = None

    @property
    def count(self) -> int:
        """How many patches are wanted."""
        return sum(self.wanted) if self.positions is None else len(self.positions)

    @property
    def recipe(self) -> dict:
        """What the file's content depends on, but for the slide and its annotation, and how these are understood."""
        fields = asdict(self)
        del fields["slide_mpp"], fields["groups"]  # mostly there are none: a file notes them for itself
        files = {key: fields[key].name if fields[key] else None for key in ("slide", "annotation", "mask")}
        return json.loads(json.dumps(fields | files))


def extract_slide(task: Task, folder: Path) -> pd.DataFrame:
    """Cut a slide's patches into its file below ``folder``.

    Returns:
        the slide's rows of the manifest; in their ``attrs``, "notes" says what is to be said of the slide's scale and
        of its annotation.

    Raises:
        StudyError: naming the slide, its annotation or its mask, if one of them is damaged or they do not belong
            together; if the disk is full; or if a patch is not the one that a manifest promises.
    """
    with Slide(task.slide, mpp=task.slide_mpp) as slide:
        view = slide.at(magnification=task.scale.magnification, mpp=task.scale.mpp)
        size = task.scale.patch_size
        if min(view.width, view.height) < size:
            has = f"{view.width} x {view.height} pixels at this scale"
            raise StudyError(f"{task.slide} has {has}, too few for patches of {size}; leave it out or cut smaller ones")
        mask, notes = _open_mask(task, slide, view)
        with mask, replacing(slide_file(folder, task.name)) as temporary:
            positions = _positions(task, view, mask)
            rows = _write(temporary, task, view, mask, positions)
            rows.attrs["notes"] = notes = "; ".join(filter(None, (slide.notice, notes)))
            with h5py.File(temporary, "a") as file:
                file.attrs["notes"] = fixed_length(notes)
                sign(file)
    return rows


def read_rows(folder: Path, task: Task) -> pd.DataFrame | None:
    """A slide's rows of the manifest from its file; None if it is missing, damaged, or of what has changed since."""
    try:
        with h5py.File(slide_file(folder, task.name), "r") as file:
            verify(file)
            if json.loads(file.attrs["recipe"]) != task.recipe or text(file.attrs["inputs"]) != _inputs(task):
                return None
            if file.attrs.get("stated_mpp") != task.slide_mpp:
                return None
            if text(file.attrs.get("groups", _text(task.groups))) != _text(task.groups):  # older files do not note them
                return None
            table = {column: file[f"rows/{column}"] for column in COLUMNS}
            rows = pd.DataFrame({c: d.asstr()[:] if COLUMNS[c] is str else d[:] for c, d in table.items()})
            rows.attrs["notes"] = text(file.attrs["notes"])
            whole = len(rows) == len(file[IMAGE]) and patches_fingerprint(rows.hash) == text(file.attrs["fingerprint"])
    except UNREADABLE:
        return None
    return rows if whole else None


def read_windows(view: View, corners: list[tuple[int, int]], size: int) -> Iterator[np.ndarray]:
    """The windows of ``size`` x ``size`` pixels with these upper left corners, uint8 ``(size, size, 3)``, in order.

    Neighbours in the list are read at once where that makes fewer pixels: around a metastasis, hundreds of patches show
    the same tissue.
    """
    for group in _read_together(corners, size):
        left, top = np.min(group, axis=0).tolist()
        right, bottom = (np.max(group, axis=0) + size).tolist()
        box = view.read(left, top, right - left, bottom - top)
        for x, y in group:
            yield np.ascontiguousarray(box[y - top :, x - left :][:size, :size])


def _read_together(corners: list[tuple[int, int]], size: int) -> list[list[tuple[int, int]]]:
    """Cut the list into groups so that the boxes around them have the fewest pixels in all."""
    least = [0]  # pixels that the first n windows take
    begins = [0]  # of the last group among the first n windows
    for end in range(1, len(corners) + 1):
        options = []
        left = top = math.inf
        right = bottom = -math.inf
        for begin in range(end - 1, max(end - 1 - _GROUP, -1), -1):
            x, y = corners[begin]
            left, top, right, bottom = min(left, x), min(top, y), max(right, x + size), max(bottom, y + size)
            options.append((least[begin] + (right - left) * (bottom - top), begin))
        pixels, begin = min(options)
        least.append(pixels)
        begins.append(begin)
    groups, end = [], len(corners)
    while end:
        groups.append(corners[begins[end] : end])
        end = begins[end]
    return groups[::-1]


def _inputs(task: Task) -> str:
    """The state of the slide and of its annotation, by which a change of either is noticed."""
    outlines = hashlib.sha256(task.annotation.read_bytes()).hexdigest()[:16] if task.annotation else None
    rasters = [path.stat().st_size for path in (task.slide, task.mask) if path]
    return json.dumps([outlines, *rasters])


def _text(groups: Groups) -> str:
    return json.dumps(groups, sort_keys=True)


def _open_mask(task: Task, slide: Slide, view: View) -> tuple[Mask, str]:
    """Where the tumour is, and what is to be said of the annotation."""
    if task.mask is not None:
        return TiffMask(task.mask, view, partial=task.partial), ""
    if task.annotation is None:
        return OutlineMask(Annotation.empty(), view, partial=False), ""
    annotation = read_annotation(task.annotation, groups=task.groups, size=(slide.width, slide.height))
    notes = f"outlines: {annotation.notes}" if annotation.notes else ""
    return OutlineMask(annotation, view, partial=task.partial), notes


def _positions(task: Task, view: View, mask: Mask) -> list[tuple[int, int]]:
    """Upper left corners of the patches in pixels of the view."""
    size = task.scale.patch_size
    if task.positions is not None:
        return [(round(x / view.downsample), round(y / view.downsample)) for x, y, _ in task.positions]
    return draw_positions(
        name=task.name,
        seed=task.seed,
        wanted=task.wanted,
        size=size,
        shape=(view.height, view.width),
        tissue=tissue_map(view, CELL),
        tumour=mask.cell_map(CELL),
        has_tumour=lambda x, y: bool((mask.read(x, y, size, size) == 1).any()),
    )


def _write(path: Path, task: Task, view: View, mask: Mask, positions: list[tuple[int, int]]) -> pd.DataFrame:
    size, count = task.scale.patch_size, len(positions)
    require_space(path, count * size * size * 4)
    rows = []
    with h5py.File(path, "w", rdcc_nbytes=0, libver=FORMAT) as file:
        for name, shape in array_shapes(size, size).items():
            # one chunk per patch, uncompressed: written and read at the speed of the disk; the hash is its checksum
            file.create_dataset(name, (count, *shape), np.uint8, chunks=(1, *shape) if count else None)
        images, labels = file[IMAGE].id, file[MASK].id
        for n, ((x, y), image) in enumerate(zip(positions, read_windows(view, positions, size), strict=True)):
            label = mask.read(x, y, size, size)
            images.write_direct_chunk((n, 0, 0, 0), image.data)
            labels.write_direct_chunk((n, 0, 0), label.data)
            rows.append(
                {
                    "slide": task.name,
                    "split": task.split,
                    "x": round(x * view.downsample),
                    "y": round(y * view.downsample),
                    "level": view.level,
                    "mpp": view.mpp,
                    "patch_size": size,
                    "tumour": np.count_nonzero(label == 1) / label.size,
                    "ignored": np.count_nonzero(label == IGNORE) / label.size,
                    "hash": patch_hash(image, label),
                }
            )
            if task.positions is not None and rows[-1]["hash"] != task.positions[n][2]:
                raise StudyError(
                    f"{task.slide}: the patch at {rows[-1]['x']}, {rows[-1]['y']} is not the one of the manifest; "
                    "the slide, its annotation or the version of OpenSlide differs"
                )
        if view.slide.stated is not None:
            file.attrs["stated_mpp"] = view.slide.stated
        if task.annotation is not None:
            file.attrs["groups"] = fixed_length(_text(task.groups))
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        for column, kind in COLUMNS.items():
            values = table[column].tolist()
            file[f"rows/{column}"] = fixed_length(values) if kind is str else np.array(values, kind)
        about = {
            "recipe": json.dumps(task.recipe),
            "inputs": _inputs(task),
            "fingerprint": patches_fingerprint(table.hash),
        }
        file.attrs.update({name: fixed_length(value) for name, value in about.items()})
    return table
