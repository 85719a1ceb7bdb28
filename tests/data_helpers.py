"""Small patch stores and EBHI-SEG folders, and the form of every refusal; shared by the tests of files and data."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from study.data.patches import Patch, write_patches
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
