"""The patch store: image patches with a mask each, in one HDF5 file, or in one for every slide beside a manifest.

The layout follows PCam, one chunk per patch, with a checksum, so that reading one patch at random costs one read and
damage is noticed. :mod:`study.data.patches.schema` names what is in it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from os.path import isfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from study.data.patches.manifest import case_of, is_extraction, read_manifest, read_recipe, slide_file
from study.data.patches.schema import (
    IMAGE,
    LABELS,
    MASK,
    SPLITS,
    Patch,
    array_shapes,
    check_patch,
    is_foreground,
    patches_fingerprint,
)
from study.errors import StudyError
from study.files import replacing, require_space

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
            split, or the disk is full.
    """
    digest = hashlib.sha256()
    labels: dict[str, list[str]] = {name: [] for name in LABELS}
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
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
                labels[name].append(label)
                digest.update(label.encode() + b"\0")
        if not labels["case"]:
            raise StudyError(f"no patches to write to {path}; check the data folder")
        for name in (IMAGE, MASK):
            file[name].resize(len(labels["case"]), axis=0)
        for name, values in labels.items():
            file.create_dataset(name, data=values, dtype=h5py.string_dtype())
        fingerprint = digest.hexdigest()[:16]
        file.attrs.update(source=source, recipe=json.dumps(recipe, sort_keys=True), fingerprint=fingerprint)
        if classes is not None:
            file.attrs["classes"] = json.dumps(list(classes))
        if mpp is not None:
            file.attrs["mpp"] = mpp
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
        hashes: of each patch, by which damage is noticed; None where HDF5 itself keeps checksums, in a single file.
        source, recipe, fingerprint: see :func:`write_patches`.
        classes: the names of the label values; None in a store that does not name them, which has two.
        mpp: micrometres per pixel of the patches, the median where they differ; None where the store does not know.

    Raises:
        StudyError: if the store is missing, damaged, or not a patch store.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._foreground: np.ndarray | None = None
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
                self.source, self.fingerprint = file.attrs["source"], file.attrs["fingerprint"]
                self.recipe = json.loads(file.attrs["recipe"])
                self.classes = tuple(json.loads(file.attrs["classes"])) if "classes" in file.attrs else None
                self.mpp = float(file.attrs["mpp"]) if "mpp" in file.attrs else None
                labels = (self.case, self.slide, self.split)
                whole = (
                    types == {np.dtype(np.uint8)}
                    and channels == 3
                    and file[MASK].shape == (count, *size)
                    and all(len(label) == count > 0 for label in labels)
                )
        except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise StudyError(
                f"{self.path} is damaged or not a patch store ({_brief(error)}); give a patch store, or make it again"
            ) from error
        if not whole:
            raise StudyError(
                f"{self.path} is damaged: its arrays do not fit together; give a patch store, or make it again"
            )
        self.files = [(self.path, self.fingerprint)]
        self.file, self.row = np.zeros(count, np.int64), np.arange(count)
        self.hashes = None

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

    def foreground(self) -> np.ndarray:
        """Pixels of any class but the background in each patch, int ``(N,)``; read from the masks, once.

        Raises:
            StudyError: if a patch is damaged.
        """
        if self._foreground is None:
            self._foreground = np.empty(len(self), np.int64)
            for number, (path, _) in enumerate(self.files):
                here = np.flatnonzero(self.file == number)
                try:
                    with h5py.File(path, "r") as file:
                        counts = [int(is_foreground(file[MASK][row]).sum()) for row in self.row[here]]
                except (OSError, KeyError, IndexError) as error:
                    raise StudyError(f"{path} is damaged ({_brief(error)}); make it again") from error
                self._foreground[here] = counts
        return self._foreground


@lru_cache(maxsize=1)
def _open_again(path: Path, fingerprint: str) -> PatchStore:
    store = PatchStore(path)
    if store.fingerprint != fingerprint:
        raise StudyError(f"{path} was replaced by other data while it was in use; start again")
    return store


def _brief(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:100] if str(error).strip() else type(error).__name__
