"""How damage to an HDF5 file of patches is noticed before it does harm, wherever in the file it is.

*The structure*, by which HDF5 finds everything: files have the format of HDF5 1.10, in which each of its blocks has a
checksum that the library compares before it uses the block. The default format has none, and one flipped bit can crash
the process, keep it busy for ever, or give one patch for another. So opening a file needs neither a process of its own
nor a pass over its gigabytes. One part of the format has no checksum, the heap of texts of any length: texts have a
fixed one here.

*The patches*: each has a hash, compared whenever it is read. (The checksums of HDF5 do not do: that of zeros is zero.)

*All else*, which are labels, hashes and attributes: one SHA-256 of them, compared when the file is opened.
"""

import hashlib
from collections.abc import Sequence

import h5py
import numpy as np

from study.data.patches.schema import IMAGE, MASK, patch_hash

FORMAT = ("v110", "v110")
"""What ``h5py.File`` calls it."""

CHECKSUM = "checksum"
"""The attribute that :func:`sign` adds."""

UNREADABLE = (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, IndexError)
"""What h5py, and whoever takes what it reads, raises of a damaged file."""


def fixed_length(texts: str | Sequence[str]) -> np.ndarray:
    """A text, or texts ``(N,)``, as an array that HDF5 stores without its heap."""
    encoded = np.char.encode(np.asarray(texts, np.str_), "utf-8")
    return encoded.astype(h5py.string_dtype("utf-8", max(1, encoded.dtype.itemsize)))


def text(attribute: bytes | str) -> str:
    """An attribute that is a text, of a fixed length, or of any as in older files."""
    return attribute.decode() if isinstance(attribute, bytes) else attribute


def read_patch(file: h5py.File, row: int, expected: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Image ``(H, W, 3)`` and mask ``(H, W)`` in a row of an open file.

    Args:
        expected: their hash; None in older files, which have none.

    Raises:
        OSError: if their hash is another; or one of :data:`UNREADABLE`.
    """
    image, mask = file[IMAGE][row], file[MASK][row]
    if expected is not None and patch_hash(image, mask) != expected:
        raise OSError("its hash is another")
    return image, mask


def sign(file: h5py.File) -> None:
    """Add the checksum to a file that is complete."""
    file.attrs[CHECKSUM] = fixed_length(_checksum(file))


def verify(file: h5py.File) -> bool:
    """Compare a file with its checksum; False if it has none, as older files.

    Raises:
        OSError: if they differ; or one of :data:`UNREADABLE`.
    """
    if CHECKSUM not in file.attrs:
        return False
    if text(file.attrs[CHECKSUM]) != _checksum(file):
        raise OSError("its checksum is another")
    return True


def _checksum(file: h5py.File) -> str:
    """SHA-256 of all that a file holds but its patches, 64 hexadecimal digits."""
    parts = {f"attribute {name}": np.asarray(file.attrs[name]) for name in set(file.attrs) - {CHECKSUM}}

    def add(name: str, found: h5py.Dataset | h5py.Group) -> None:
        if isinstance(found, h5py.Dataset) and name not in (IMAGE, MASK):
            parts[name] = found[()]

    file.visititems(add)
    digest = hashlib.sha256()
    for name, array in sorted(parts.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
