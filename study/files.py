"""Writing files so that a reader finds the old one or the new one, whole, and never half of either."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from study.errors import StudyError


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to, which becomes ``path`` only if the block ends well.

    Raises:
        StudyError: if the folder cannot be written or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save and h5py report a full disk as either
        reason = _reason(error)
        if reason is None:
            raise
        raise StudyError(f"cannot write {path}: {reason}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _reason(error: BaseException) -> str | None:
    """Why a write failed, with the remedy, or None if it failed for another cause than the file system."""
    number = getattr(error, "errno", None)
    text = str(error)
    if number == errno.ENOSPC or "No space left" in text or f"errno = {errno.ENOSPC}" in text:
        return "the disk is full; free some space or write to another folder"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission; choose a folder that you may write to"
    if number in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return "a file stands where a folder should be, or the reverse; move it away or choose another folder"
    if "PytorchStreamWriter failed" in text:
        return "the write stopped half-way, probably on a full disk; free some space or write to another folder"
    return None
