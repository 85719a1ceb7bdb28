"""Where the patches of a study come from: each source ends in a patch store, made once and reused while it fits."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from study.data.datasets import ebhi_box
from study.data.datasets.camelyon16 import find_slides
from study.data.datasets.ebhi import case_of, ebhi_patches, find_pairs, source_name
from study.data.datasets.miniature import SOURCE as MINIATURE
from study.data.datasets.miniature import VERSION as MINIATURE_VERSION
from study.data.datasets.miniature import make_miniature
from study.data.datasets.nuinsseg import SOURCE as NUINSSEG
from study.data.datasets.nuinsseg import block_of, find_nuclei, nuclei_patches
from study.data.extraction.one_slide import Scale
from study.data.extraction.plan import extract_store, plan
from study.data.patches.manifest import is_extraction
from study.data.patches.splits import split_by_case
from study.data.patches.store import Patch, PatchStore, write_patches
from study.errors import StudyError

SPLIT_SEED = 0
"""Of the assignment of cases to train, validation and test; one for all seeds of a study."""


def miniature_store(folder: Path, *, patches: int, size: int, make: bool = True) -> PatchStore | None:
    """A store of patches of ``size`` x ``size`` pixels at 10x from the miniature Camelyon, which is drawn if need be.

    It goes the way of the real data: slides, annotations, extraction.

    Args:
        folder: of the slides, and of the store beside them.
        patches: how many.
        size: side of the patches in pixels.
        make: the store if it is not there yet; else the result is None then.

    Raises:
        StudyError: if the folder cannot be written, the disk is full, or the store there is of other settings.
    """
    slides = folder / f"miniature-{MINIATURE_VERSION}"
    store = folder / f"{slides.name}-{patches}-patches-{size}px"
    if not make:
        return PatchStore(store) if is_extraction(store) else None
    if not slides.exists():
        make_miniature(slides, progress=True)
    found, problems = find_slides(slides)
    wanted = plan(found, scale=Scale(size), patches=patches, seed=SPLIT_SEED, source=MINIATURE, missing=problems)
    extraction = extract_store(store, wanted, workers=0)
    if damaged := problems | extraction.failed:
        reason = next(iter(damaged.values()))
        raise StudyError(f"{reason}; or delete {slides}, it is drawn again" if str(slides) in reason else reason)
    return PatchStore(store)


def ebhi_store(path: Path, *, folder: Path | None, size: int, task: str, make: bool = True) -> PatchStore | None:
    """A store of all patches of EBHI-SEG at ``size`` x ``size`` pixels.

    Args:
        path: of the store.
        folder: of the download; None: the reduced patches that come with the package.
        size: side of the patches in pixels.
        task: one of :data:`~study.data.datasets.ebhi.TASKS`.
        make: see :func:`miniature_store`.

    Raises:
        StudyError: if the patches of the package are smaller than ``size``, or see
            :func:`~study.data.datasets.ebhi_box.open_box`, :func:`~study.data.datasets.ebhi.find_pairs` and
            :func:`~study.data.datasets.ebhi.ebhi_patches`.
    """
    source = source_name(task)
    if folder is None and size > ebhi_box.SIZE:
        raise StudyError(
            f"the EBHI-SEG that comes with the package has {ebhi_box.SIZE} x {ebhi_box.SIZE} pixels, fewer than "
            f"{size} x {size}; give --data PATH, the folder of `python -m study data ebhi PATH --download`"
        )
    if folder is None:
        pairs, files = find_pairs(ebhi_box.open_box()), ebhi_box.SHA256
    else:
        pairs = find_pairs(folder)
        files = _listing(folder, pairs)
    patches = ebhi_patches(pairs, size, task=task)
    cases = [case_of(image) for image, _ in pairs]
    return _store(path, patches, cases, {"source": source, "size": size, "files": files}, make)


def nuinsseg_store(path: Path, *, folder: Path, size: int, make: bool = True) -> PatchStore | None:
    """A store of the tiles of ``size`` x ``size`` pixels of a NuInsSeg folder.

    Raises:
        StudyError: see :func:`~study.data.datasets.nuinsseg.find_nuclei` and
            :func:`~study.data.datasets.nuinsseg.nuclei_patches`.
    """
    pairs = find_nuclei(folder)
    cases = [block_of(image) for image, _ in pairs]
    recipe = {"source": NUINSSEG, "size": size, "files": _listing(folder, pairs)}
    return _store(path, nuclei_patches(pairs, size), cases, recipe, make)


def prepare(
    source: str, *, data: Path | None, folder: Path, size: int, count: int, task: str = "", make: bool = True
) -> PatchStore | None:
    """The patch store of a study: made from ``data`` or from what comes with the package, or found from an earlier run.

    Args:
        source: "miniature", "ebhi", "nuinsseg" or "store".
        data: the folder of EBHI-SEG, None being the patches that come with the package, or of NuInsSeg; or, for any
            source, a patch store of your own.
        folder: where stores that are made are kept.
        size: side of the patches in pixels.
        count: how many patches, if they are cut from the miniature Camelyon.
        task: of EBHI-SEG, one of :data:`~study.data.datasets.ebhi.TASKS`; the other sources have one only, and it is
            ignored.
        make: what is not there yet; else the result is None where something would have to be made.

    Raises:
        StudyError: if the source needs a path and has none, the store's patches are of another size.
    """
    if source == "miniature" and data is None:
        return miniature_store(folder, patches=count, size=size, make=make)
    own = data is not None and (data.is_file() or is_extraction(data))
    if source == "ebhi" and not own:
        path = folder / f"ebhi-{task}-{size}px-{'box' if data is None else 'folder'}.h5"
        return ebhi_store(path, folder=data, size=size, task=task, make=make)
    if data is None:
        wanted = {
            "nuinsseg": "the NuInsSeg folder (Mahbod et al. 2024)",
            "store": f"a patch store of {size} x {size} patches (`python -m study data camelyon16` makes one)",
        }
        raise StudyError(f"this preset needs data: give --data PATH, {wanted[source]}")
    if source == "nuinsseg" and not own:
        return nuinsseg_store(folder / f"nuinsseg-nuclei-{size}px.h5", folder=data, size=size, make=make)
    store = PatchStore(data)
    if store.size != (size, size):
        height, width = store.size
        remedy = f"give --set size={height}" if height == width else "make square ones"
        raise StudyError(f"{data} holds patches of {height} x {width}, this preset wants {size} x {size}; {remedy}")
    return store


def _listing(folder: Path, pairs: Sequence[tuple[Path, Path]]) -> str:
    """A digest of the names and sizes of the files, by which a store is known to be made from them."""
    lines = "".join(f"{file.relative_to(folder)} {file.stat().st_size}\n" for pair in pairs for file in pair)
    return hashlib.sha256(lines.encode()).hexdigest()


def _store(path: Path, patches: Iterator[Patch], cases: Sequence[str], recipe: dict, make: bool) -> PatchStore | None:
    """The store at ``path`` if it was made from just this, or else a new one; None if none is to be made."""
    try:
        store = PatchStore(path)
    except StudyError:  # missing or damaged: it can be made again
        store = None
    if store is None or store.recipe != recipe:
        if not make:
            return None
        write_patches(path, patches, split_by_case(cases, seed=SPLIT_SEED), source=recipe["source"], recipe=recipe)
        store = PatchStore(path)
    return store
