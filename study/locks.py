"""One process at a time: a lock that says who has it, and that no kill leaves behind."""

import errno
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from study.errors import StudyError, notice
from study.files import replacing

LOCK = ".lock"
HOLDER = ".locked_by.json"


@contextmanager
def only_one(folder: Path, doing: str) -> Iterator[None]:
    """Keep other processes out of the same block for the same folder.

    The lock is the operating system's, on a file in the folder: it ends with the process, however that ends. A second
    file says who has it.

    Args:
        folder: made if it is missing.
        doing: for the message, as in "downloads to".

    Raises:
        StudyError: if another process is in such a block, naming it; if the folder cannot be written, or has a link in
            the place of the lock, which is not followed.
    """
    with replacing(folder / HOLDER) as probe:  # it makes the folder, or says why it cannot
        lock = FileLock(folder / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise StudyError(f"{_holder(folder)} {doing} {folder}; wait until it is done, or end it") from error
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise StudyError(f"{folder / LOCK} is a link; remove it") from error
        except NotImplementedError:  # as on some of clusters, which are no reason to refuse all work
            notice(f"{folder} is on a file system without locks; let one process at a time work there")
        probe.write_text(json.dumps({"process": os.getpid(), "host": socket.gethostname(), "command": sys.argv}))
    try:
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / HOLDER).read_text())
        return f"process {holder['process']} on {holder['host']} ({' '.join(holder['command'])})"
    except (OSError, ValueError, KeyError, TypeError):  # it has just begun, or the file is damaged
        return "another process"
