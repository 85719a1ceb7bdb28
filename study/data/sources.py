"""Where the patches of a study come from: each source ends in a patch store, made once and reused while it fits."""

import hashlib
from pathlib import Path

from study.data import ebhi_box
from study.data.camelyon16 import find_slides
from study.data.ebhi import case_of, ebhi_patches, find_pairs, source_name
from study.data.extract import Scale
from study.data.manifest import is_extraction
from study.data.miniature import SOURCE as MINIATURE
from study.data.miniature import VERSION as MINIATURE_VERSION
from study.data.miniature import make_miniature
from study.data.patches import PatchStore, write_patches
from study.data.slide_store import extract_store, plan
from study.data.splits import split_by_case
from study.errors import StudyError

SPLIT_SEED = 0
"""Of the assignment of cases to train, validation and test; one for all seeds of a study."""


def miniature_store(folder: Path, *, patches: int, size: int) -> PatchStore:
    """A store of patches of ``size`` x ``size`` pixels at 10x from the miniature Camelyon, which is drawn if need be.

    It goes the way of the real data: slides, annotations, extraction.

    Args:
        folder: of the slides, and of the store beside them.
        patches: how many.
        size: side of the patches in pixels.

    Raises:
        StudyError: if the folder cannot be written, the disk is full, or the store there is of other settings.
    """
    slides = folder / f"miniature-{MINIATURE_VERSION}"
    if not slides.exists():
        make_miniature(slides, progress=True)
    found, problems = find_slides(slides)
    wanted = plan(found, scale=Scale(size), patches=patches, seed=SPLIT_SEED, source=MINIATURE, missing=problems)
    store = folder / f"{slides.name}-{patches}-patches-{size}px"
    extraction = extract_store(store, wanted, workers=0)
    if damaged := problems | extraction.failed:
        reason = next(iter(damaged.values()))
        raise StudyError(f"{reason}; or delete {slides}, it is drawn again" if str(slides) in reason else reason)
    return PatchStore(store)


def ebhi_store(path: Path, *, folder: Path | None, size: int, task: str) -> PatchStore:
    """A store of all patches of EBHI-SEG at ``size`` x ``size`` pixels.

    Args:
        path: of the store.
        folder: of the download; None: the reduced patches that come with the package.
        size: side of the patches in pixels.
        task: one of :data:`~study.data.ebhi.TASKS`.

    Raises:
        StudyError: if the patches of the package are smaller than ``size``, or see
            :func:`~study.data.ebhi_box.open_box`, :func:`~study.data.ebhi.find_pairs` and
            :func:`~study.data.ebhi.ebhi_patches`.
    """
    source = source_name(task)
    if folder is None and size > ebhi_box.SIZE:
        raise StudyError(
            f"the EBHI-SEG that comes with the package has {ebhi_box.SIZE} x {ebhi_box.SIZE} pixels, fewer than "
            f"{size} x {size}; give --data PATH, the folder of the download (figshare 21540159)"
        )
    pairs = find_pairs(ebhi_box.open_box() if folder is None else folder)
    if folder is None:
        files = ebhi_box.SHA256
    else:
        listing = "".join(f"{f.relative_to(folder)} {f.stat().st_size}\n" for pair in pairs for f in pair)
        files = hashlib.sha256(listing.encode()).hexdigest()
    recipe = {"source": source, "size": size, "files": files}
    if (store := _made_from(path, recipe)) is not None:
        return store
    split = split_by_case([case_of(image) for image, _ in pairs], seed=SPLIT_SEED)
    write_patches(path, ebhi_patches(pairs, size, task=task), split, source=source, recipe=recipe)
    return PatchStore(path)


def prepare(
    source: str, *, data: Path | None, folder: Path, size: int, count: int, task: str | None = None
) -> PatchStore:
    """The patch store of a study: made from ``data`` or from what comes with the package, or found from an earlier run.

    Args:
        source: "miniature", "ebhi" or "store".
        data: the EBHI-SEG folder, None being the patches that come with the package; or, for any source, a patch
            store of your own.
        folder: where stores that are made are kept.
        size: side of the patches in pixels.
        count: how many patches, if they are cut from the miniature Camelyon.
        task: of EBHI-SEG, one of :data:`~study.data.ebhi.TASKS`; other sources have one task only.

    Raises:
        StudyError: if the source needs a path and has none, the store's patches are of another size.
    """
    if source == "miniature" and data is None:
        return miniature_store(folder, patches=count, size=size)
    if source == "ebhi" and (data is None or not (data.is_file() or is_extraction(data))):
        origin = "box" if data is None else "folder"
        return ebhi_store(folder / f"ebhi-{task}-{size}px-{origin}.h5", folder=data, size=size, task=str(task))
    if data is None:
        wanted = f"a patch store of {size} x {size} patches (`python -m study data camelyon16` makes one)"
        raise StudyError(f"this preset needs data: give --data PATH, {wanted}")
    store = PatchStore(data)
    if store.size != (size, size):
        height, width = store.size
        remedy = f"give --set size={height}" if height == width else "make square ones"
        raise StudyError(f"{data} holds patches of {height} x {width}, this preset wants {size} x {size}; {remedy}")
    return store


def _made_from(path: Path, recipe: dict) -> PatchStore | None:
    """The store at ``path``, if it is readable and was made from just this."""
    try:
        store = PatchStore(path)
    except StudyError:  # missing or damaged: it can be made again
        return None
    return store if store.recipe == recipe else None
