"""The patch store: image patches with a mask each, in one HDF5 file, or in one for every slide beside a manifest.

The layout follows PCam, one chunk per patch, so that reading one patch at random costs one read.
:mod:`study.data.patches.schema` names what is in it; :mod:`study.data.patches.integrity` says how damage is noticed.
"""

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from os.path import isfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from study.data.patches.integrity import FORMAT, UNREADABLE, fixed_length, read_patch, sign, text, verify
from study.data.patches.manifest import case_of, is_extraction, read_manifest, read_recipe, slide_file
from study.data.patches.schema import (
    FOREGROUND,
    HASH,
    IMAGE,
    LABELS,
    MASK,
    SPLITS,
    Patch,
    array_shapes,
    check_patch,
    is_foreground,
    patch_hash,
    patches_fingerprint,
)
from study.errors import StudyError, notice
from study.files import replacing, require_space
from study.tasks.labels import IGNORE

__all__ = ["SPLITS", "Patch", "PatchStore", "write_patches"]


def write_patches(
    path: Path | str,
    patches: Iterable[Patch],
    split: Mapping[str, str],
    *,
    source: str,
    recipe: Mapping,
    classes: Sequence[str] | None = None,
    mpp: float | None = None,
) -> str:
    """Write a patch store under a temporary name and rename it, so that ``path`` is never half a store.

    Args:
        path: the store to write or replace.
        patches: of equal size; consumed one by one, so they need not fit in memory.
        split: "train", "validation" or "test" for every case.
        source: what the images are, for people: "EBHI-SEG, cancer", "miniature Camelyon".
        recipe: what the store was made from; a store whose recipe is unchanged need not be made again.
        classes: the names of the label values 0, 1, ...; without them there are two.
        mpp: micrometres per pixel of the patches, if they are known.

    Returns:
        The fingerprint, 16 hexadecimal digits that identify the content.

    Raises:
        StudyError: if there are no patches, they differ in size or type, a mask value has no class, a case is in no
            split, no pixel is foreground although some are unlabelled, or the disk is full.
    """
    digest = hashlib.sha256()
    texts: dict[str, list[str]] = {name: [] for name in (*LABELS, HASH)}
    foreground, unlabelled = [], False
    with replacing(path) as temporary, h5py.File(temporary, "w", libver=FORMAT) as file:
        for n, patch in enumerate(patches):
            check_patch(patch, n, split, 2 if classes is None else len(classes))
            if n == 0:
                height, width = patch.mask.shape
                for name, shape in array_shapes(height, width).items():
                    file.create_dataset(
                        name, (0, *shape), np.uint8, maxshape=(None, *shape), chunks=(1, *shape), fletcher32=True
                    )
            if patch.mask.shape != (height, width):
                raise StudyError(
                    f"patch {n} of {patch.slide} is {patch.mask.shape[0]} x {patch.mask.shape[1]}, the first one "
                    f"{height} x {width}; make all patches of one size"
                )
            require_space(path, patch.image.nbytes + patch.mask.nbytes)
            for name, array in [(IMAGE, patch.image), (MASK, patch.mask)]:
                if n == len(file[name]):
                    file[name].resize(2 * n + 64, axis=0)
                file[name][n] = array
                digest.update(array.tobytes())
            for name, label in zip(LABELS, (patch.case, patch.slide, split[patch.case]), strict=True):
                texts[name].append(label)
                digest.update(label.encode() + b"\0")
            texts[HASH].append(patch_hash(np.ascontiguousarray(patch.image), np.ascontiguousarray(patch.mask)))
            foreground.append(np.count_nonzero(is_foreground(patch.mask)))
            unlabelled = unlabelled or bool((patch.mask == IGNORE).any())
        if not foreground:
            raise StudyError(f"no patches to write to {path}; check the data folder")
        _require_foreground(path, sum(foreground), unlabelled)
        for name in (IMAGE, MASK):
            file[name].resize(len(foreground), axis=0)
        for name, values in texts.items():
            file[name] = fixed_length(values)
        file[FOREGROUND] = np.array(foreground, np.int64)
        fingerprint = digest.hexdigest()[:16]
        about = {"source": source, "recipe": json.dumps(recipe, sort_keys=True), "fingerprint": fingerprint}
        if classes is not None:
            about["classes"] = json.dumps(list(classes))
        file.attrs.update({name: fixed_length(value) for name, value in about.items()})
        if mpp is not None:
            file.attrs["mpp"] = mpp
        sign(file)
    return fingerprint


class PatchStore:
    """What is in a patch store: labels, sizes and fingerprint, read once; the patches stay on disk.

    A store is one HDF5 file, or the folder of an extraction from slides: a file per slide and their manifest.

    Attributes:
        path: the HDF5 file, or the folder.
        size: (H, W) in pixels.
        case, slide, split: one label per patch, arrays of str.
        files: the HDF5 files, each as (path, fingerprint).
        file, row: of each patch, which of the files it is in, and where.
        hashes: of each patch, by which damage is noticed; None in a single file of an older version.
        source, recipe, fingerprint: see :func:`write_patches`.
        classes: the names of the label values; None in a store that does not name them, which has two.
        mpp: micrometres per pixel of the patches, the median where they differ; None where the store does not know.

    Raises:
        StudyError: if the store is missing, damaged, or not a patch store.

    Warns:
        StudyNotice: if damage to its patches could go unnoticed, as in older files.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._foreground: np.ndarray | None = None  # of each patch, how many pixels, where that is known
        self._with_foreground: np.ndarray | None = None  # and whether there are any
        if is_extraction(self.path):
            self._read_folder()
        elif self.path.is_file():
            self._read_file()
        else:
            raise StudyError(f"no patch store at {path}; make one with `python -m study data`")
        if not set(self.split) <= set(SPLITS):
            raise StudyError(f"{path} is damaged: it has unknown splits; make it again")
        parts = pd.Series(self.split).groupby(self.case).nunique()
        if parts.max() > 1:
            raise StudyError(
                f"{path}: case {parts.idxmax()} is in more than one split; split by case and make it again"
            )

    def _read_file(self) -> None:
        try:
            with h5py.File(self.path, "r") as file:
                count, *size, channels = file[IMAGE].shape
                types = {file[IMAGE].dtype, file[MASK].dtype}
                self.size = tuple(size)
                self.case, self.slide, self.split = (file[key].asstr()[:] for key in LABELS)
                self.source, self.fingerprint = text(file.attrs["source"]), text(file.attrs["fingerprint"])
                self.recipe = json.loads(file.attrs["recipe"])
                self.classes = tuple(json.loads(file.attrs["classes"])) if "classes" in file.attrs else None
                self.mpp = float(file.attrs["mpp"]) if "mpp" in file.attrs else None
                labels = [self.case, self.slide, self.split]
                self.hashes = None
                if verify(file):
                    self.hashes, self._foreground = file[HASH].asstr()[:], file[FOREGROUND][:]
                    labels += [self.hashes, self._foreground]
                whole = (
                    types == {np.dtype(np.uint8)}
                    and channels == 3
                    and file[MASK].shape == (count, *size)
                    and all(len(label) == count > 0 for label in labels)
                )
        except UNREADABLE as error:
            raise StudyError(
                f"{self.path} is damaged or not a patch store ({_brief(error)}); give a patch store, or make it again"
            ) from error
        if not whole:
            raise StudyError(
                f"{self.path} is damaged: its arrays do not fit together; give a patch store, or make it again"
            )
        self.files = [(self.path, self.fingerprint)]
        self.file, self.row = np.zeros(count, np.int64), np.arange(count)
        if self.hashes is None:
            notice(f"{self.path} is of an older version and has no checksums: damage can go unnoticed; make it again")

    def _read_folder(self) -> None:
        manifest = read_manifest(self.path)
        recipe = read_recipe(self.path)
        names, self.file = np.unique(manifest.slide.to_numpy(), return_inverse=True)
        self.row = manifest.groupby("slide").cumcount().to_numpy()
        self.files = [
            (slide_file(self.path, name), patches_fingerprint(manifest.hash[self.file == n]))
            for n, name in enumerate(names)
        ]
        if missing := [str(path) for path, _ in self.files if not isfile(path)]:  # Path's fails on a long name
            raise StudyError(f"{missing[0]} is missing; run the extraction into {self.path} again, it makes what lacks")
        self.size = (recipe["patch_size"], recipe["patch_size"])
        self.hashes = manifest.hash.to_numpy(object)
        self.slide = manifest.slide.to_numpy(object)
        self.case = np.array([case_of(slide) for slide in self.slide], object)
        self.split = manifest.split.to_numpy(object)
        self.source, self.recipe = recipe["source"], recipe
        self.classes, self.mpp = None, float(manifest.mpp.median())
        self._with_foreground = manifest.tumour.to_numpy() > 0
        self.fingerprint = patches_fingerprint(manifest.slide + manifest.split + manifest.hash)

    def __len__(self) -> int:
        return len(self.split)

    def __reduce__(self) -> tuple:
        """A pickle is small, however large the store: whoever loads it reads the files, which must be the same."""
        return _open_again, (self.path.absolute(), self.fingerprint)

    def indices(self, split: str) -> np.ndarray:
        """The patches of one split, in the order of the store.

        Raises:
            StudyError: if the split is empty.
        """
        found = np.flatnonzero(self.split == split)
        if len(found) == 0:
            raise StudyError(f"{self.path} has no {split} patches; make it again from more cases")
        return found

    def has_foreground(self) -> np.ndarray:
        """Whether there is foreground in each patch, bool ``(N,)``; of slides as their manifest says.

        Raises:
            StudyError: see :meth:`foreground`.
        """
        return self.foreground() > 0 if self._with_foreground is None else self._with_foreground

    def foreground(self) -> np.ndarray:
        """Pixels of any class but the background in each patch, int ``(N,)``; read once, from the patches if need be.

        Raises:
            StudyError: if a patch is damaged; or if no pixel of an older file is foreground although some are
                unlabelled.
        """
        if self._foreground is None:
            counts, unlabelled = np.empty(len(self), np.int64), False
            for number, (path, _) in enumerate(self.files):
                here = np.flatnonzero(self.file == number)
                try:
                    with h5py.File(path, "r") as file:
                        for n in here:
                            mask = self._mask(file, n)
                            counts[n] = np.count_nonzero(is_foreground(mask))
                            unlabelled = unlabelled or bool((mask == IGNORE).any())
                except UNREADABLE as error:
                    raise StudyError(f"{path} is damaged ({_brief(error)}); make it again") from error
            if self.hashes is None:  # of slides, all patches may be normal, and from partially annotated slides
                _require_foreground(self.path, counts.sum(), unlabelled)
            self._foreground = counts
        return self._foreground

    def _mask(self, file: h5py.File, n: int) -> np.ndarray:
        row = self.row[n]
        return file[MASK][row] if self.hashes is None else read_patch(file, row, self.hashes[n])[1]


def _require_foreground(path: Path | str, foreground: int, unlabelled: bool) -> None:
    """Refuse masks of 0 and 255 that are meant as 0 and 1: nothing could be learnt from them."""
    if unlabelled and not foreground:
        raise StudyError(
            f"{path}: the masks have {IGNORE}, which means unlabelled, and no foreground; "
            f"if they are masks of 0 and {IGNORE}, give 0 and 1"
        )


@lru_cache(maxsize=1)
def _open_again(path: Path, fingerprint: str) -> PatchStore:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the process that opened it first has said it
        store = PatchStore(path)
    if store.fingerprint != fingerprint:
        raise StudyError(f"{path} was replaced by other data while it was in use; start again")
    return store


def _brief(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:100] if str(error).strip() else type(error).__name__
