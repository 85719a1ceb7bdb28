"""Writing files so that a reader finds the old one or the new one, whole, and noticing those that were damaged."""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from study.errors import StudyError

RESERVE = 4 * 2**20
"""Bytes that must stay free beside what is written, for what a file format adds."""


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Give a temporary name beside ``path`` for a file or a folder, which becomes ``path`` only if the block ends well.

    Raises:
        StudyError: if the folder cannot be written or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        reason = _REASONS.get(_number(error))
        if reason is None:
            raise
        raise StudyError(f"cannot write {path}: {reason}") from error
    finally:
        with suppress(OSError):  # where the folder is not one, or cannot be searched, there is nothing to remove
            _remove(temporary)


def remove_half_written(folder: Path, name: str = "*") -> None:
    """Remove what :func:`replacing` left of files of this name, by default of all in a folder, when it was killed."""
    for temporary in folder.glob(f".{name}.*.partial"):
        _remove(temporary)


def _remove(temporary: Path) -> None:
    if temporary.is_dir():
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        temporary.unlink(missing_ok=True)


def require_space(path: Path | str, size: int) -> None:
    """Make sure that ``size`` more bytes fit beside ``path``: libraries such as HDF5 do not survive a full disk.

    Raises:
        StudyError: if they do not fit.
    """
    free = shutil.disk_usage(Path(path).parent).free
    if free < size + RESERVE:
        lacking = f" (it needs {size / 1e9:.1f} GB, {free / 1e9:.1f} GB are free)" if size > 1e8 else ""
        raise StudyError(f"cannot write {path}: {_REASONS[errno.ENOSPC]}{lacking}")


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_intact(path: Path, sha256: str) -> None:
    """Make sure that a file which comes with the package is here, and is the one of this SHA-256.

    Raises:
        StudyError: if it is missing or damaged.
    """
    try:
        found = sha256_of(path)
    except OSError as error:
        raise StudyError(f"{path} cannot be read ({error.strerror}); install the package again") from error
    if found != sha256:
        raise StudyError(f"{path} is damaged: its SHA-256 is {found[:8]}, not {sha256[:8]}; install the package again")


def _number(error: BaseException) -> int | None:
    """The ``errno`` of an error; HDF5 leaves it in the text, of an OSError or a RuntimeError."""
    in_text = re.search(r"errno = (\d+)", str(error))
    return getattr(error, "errno", None) or (int(in_text[1]) if in_text else None)


_REASONS = {
    errno.ENOSPC: "the disk is full; free some space or write to another folder",
    errno.EDQUOT: "the disk quota is used up; free some space or write to another folder",
    errno.ENOENT: "there is no such folder and none can be made; choose another one",
    errno.EACCES: "no permission; choose a folder that you may write to",
    errno.EPERM: "no permission; choose a folder that you may write to",
    errno.EROFS: "the disk is read-only; choose another folder",
    errno.ENOTDIR: "part of the path is a file, not a folder; choose another folder",
    errno.EEXIST: "part of the path is a file, not a folder; choose another folder",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EISDIR: "it is a folder; choose another name",
}
