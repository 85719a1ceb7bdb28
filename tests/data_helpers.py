"""Small patch stores and EBHI-SEG folders, and the form of every refusal; shared by the tests of files and data."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from study.data.patches.integrity import text
from study.data.patches.splits import split_by_case
from study.data.patches.store import Patch, PatchStore, write_patches
from study.errors import StudyError

SPLIT = {"a": "train", "b": "validation", "c": "test"}


@contextmanager
def assert_refused(*words: object) -> Iterator[None]:
    """Expect a StudyError of one line that holds all the ``words``: the file or the value, and the remedy."""
    with pytest.raises(StudyError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message


def make_patches(count: int = 10, *, size: int = 8, seed: int = 0) -> list[Patch]:
    """Random patches of the cases "a", "b" and "c"; of ten, the first eight are of "a"."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    masks = rng.integers(0, 2, (count, size, size), np.uint8)
    cases = ["c" if n % 10 == 9 else "b" if n % 10 == 8 else "a" for n in range(count)]
    return [Patch(images[n], masks[n], case=cases[n], slide=f"{cases[n]}-{n % 2}") for n in range(count)]


def make_store(path: Path, count: int = 10, *, size: int = 8, seed: int = 0) -> Path:
    write_patches(path, make_patches(count, size=size, seed=seed), SPLIT, source="random", recipe={"count": count})
    return path


def as_older(path: Path) -> Path:
    """A store as earlier versions wrote it: in HDF5's earliest format, with texts of any length, without checksums."""
    with h5py.File(path) as file:
        arrays = {name: file[name][:] for name in ("x", "mask")}
        labels = {name: file[name].asstr()[:] for name in ("case", "slide", "split")}
        about = {name: text(value) for name, value in file.attrs.items() if name != "checksum"}
    with h5py.File(path, "w", libver=("earliest", "latest")) as file:
        for name, array in arrays.items():
            shape = array.shape[1:]
            file.create_dataset(name, data=array, maxshape=(None, *shape), chunks=(1, *shape), fletcher32=True)
        for name, values in labels.items():
            file.create_dataset(name, data=values, dtype=h5py.string_dtype())
        file.attrs.update(about)
    return path


def make_blobs(path: Path, count: int = 48, *, size: int = 16, seed: int = 0) -> PatchStore:
    """A store of smooth noise whose bright parts are the foreground, eight patches to a case: something to learn."""
    rng = np.random.default_rng(seed)
    patches = []
    for n in range(count):
        noise = gaussian_filter(rng.standard_normal((size, size)), 2, mode="wrap")
        bright = np.clip(128 + 50 * noise / noise.std(), 0, 255)[..., None] + rng.normal(0, 10, (size, size, 3))
        image, mask = np.clip(bright, 0, 255).astype(np.uint8), (noise > 0.5 * noise.std()).astype(np.uint8)
        patches.append(Patch(image, mask, case=f"case {n // 8}", slide=f"slide {n // 8}"))
    split = split_by_case([patch.case for patch in patches], seed=0)
    write_patches(path, patches, split, source="blobs", recipe={"count": count, "size": size, "seed": seed})
    return PatchStore(path)


def add_pair(
    root: Path, name: str, *, tissue: str = "Normal", ending: str = "png", image_size: int = 16, label: object = None
) -> tuple[Path, Path]:
    """Add a random image, and a label (an array of grey levels) of the same size unless told, as EBHI-SEG has them."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (image_size, image_size, 3), np.uint8)
    label = np.full((image_size, image_size), 255) if label is None else np.asarray(label)
    files = root / tissue / "image" / f"{name}.{ending}", root / tissue / "label" / f"{name}.png"
    for file, array in zip(files, (image, label.astype(np.uint8)), strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(file)
    return files


def flip_byte(path: Path, position: int) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[position] ^= 0xFF
    path.write_bytes(damaged)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, hidden ones too."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
