"""Getting files from an address: resumed where they broke off, and checked by their MD5 sums.

A file comes as ``<name>.partial`` and takes its own name only when its sum is right, so that it is whole or not there.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple
from urllib.parse import urljoin

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util import Retry

from study.errors import StudyError
from study.files import RESERVE, replacing
from study.locks import only_one

VERIFIED = ".verified.json"
"""Of the files whose sums were found right: size, time of change and sum. 700 GB are not read again each time."""

WORKERS = 4
"""Files that are transferred at the same time."""

RETRY = Retry(total=5, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False)
"""Of a request that fails or is refused for now: five times, waiting up to 8 seconds."""

BREAKS = 5
"""A transfer that breaks is continued so many times without a new byte in between."""

PAUSE = 2.0
"""Seconds before it is continued for the first time; then twice as long each time."""

TIMEOUT = (10, 60)
"""Seconds to wait for a connection, and for data."""

LISTED = 10
"""Files that the last message names; all were named when they failed."""

_CHUNK = 2**16  # bytes; a transfer that breaks loses less than this

_BROKEN = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


class Remote(NamedTuple):
    """A file to get.

    Attributes:
        url: its address.
        md5: its sum, 32 hexadecimal digits.
        size: in bytes; None: the server is asked.
    """

    url: str
    md5: str
    size: int | None = None


def fetch(
    session: requests.Session, folder: Path, files: Mapping[PurePosixPath, Remote], *, source: str, progress: bool
) -> None:
    """Get files. What is complete is kept; what was begun goes on where it was.

    Args:
        session: see :func:`open_session`.
        folder: where to put them.
        files: by their paths in the folder, which must not lead out of it.
        source: the address they come from, for messages.
        progress: show a bar, if there is a terminal.

    Raises:
        StudyError: if another process downloads to the folder, if the source does not answer, if the disk is full or
            would be, or, after all others are done, if files could not be got; it lists them.
    """
    transfer = _Transfer(session, folder)
    with only_one(folder, "downloads to"), _pool(transfer.stop) as pool:
        failed = _get_all(transfer, pool, files, source, progress)
    if failed:
        listed = [f"{path} ({reason})" for path, reason in sorted(failed.items())]
        listed[LISTED:] = [f"{len(listed) - LISTED} more"] if len(listed) > LISTED else []
        missing = f"{len(failed)} of {len(files)} files are missing in {folder}: {', '.join(listed)}"
        raise StudyError(f"{missing}; run it again, it goes on where it was")


def get_list(session: requests.Session, url: str) -> bytes:
    """The content of an address that lists files.

    Raises:
        StudyError: if it does not answer, or not with that.
    """
    try:
        response = session.get(url, timeout=TIMEOUT)
        response.raise_for_status()
    except requests.RequestException as error:
        raise StudyError(f"cannot get {url} ({_reason(error)}); check the connection and the source") from error
    return response.content


def open_session() -> requests.Session:
    """A session that asks again when it is refused for now, sends no credentials, and never leaves TLS."""
    session = _Session()
    session.auth = lambda request: request  # or requests would send what ~/.netrc has for the host
    session.headers["Accept-Encoding"] = "identity"  # sums and positions are those of the bytes of the file
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=WORKERS, max_retries=RETRY))
    return session


class _Session(requests.Session):
    """Never leaves TLS, and its every failure is a :class:`requests.RequestException`.

    Sums that come from where the files do prove something over TLS only, so that a redirect must not leave it.
    """

    def get_redirect_target(self, response: requests.Response) -> str | None:
        target = super().get_redirect_target(response)
        leads_to = urljoin(response.url, target or "").lower()  # the scheme may be in capitals
        if response.url.startswith("https://") and leads_to.startswith("http://"):
            raise requests.exceptions.InvalidURL(f"{response.url} leads to {target}, which is not encrypted")
        return target

    def request(self, *arguments, **options) -> requests.Response:
        try:
            return super().request(*arguments, **options)
        except requests.RequestException:
            raise
        except ValueError as error:  # as of a redirect to an address that is none
            raise requests.exceptions.InvalidURL(str(error)) from error


def _get_all(
    transfer: "_Transfer",
    pool: ThreadPoolExecutor,
    files: Mapping[PurePosixPath, Remote],
    source: str,
    progress: bool,
) -> dict[PurePosixPath, str]:
    """Get all files; returns why the missing ones are missing."""
    folder = transfer.folder
    verified = _read_verified(folder)
    _write_verified(folder, verified)  # makes the folder, or says why it cannot
    sizes = {path: (folder / path).stat().st_size for path in files if (folder / path).is_file()}
    done = {path for path in sizes if verified.get(str(path)) == _stamp(folder / path, files[path].md5)}
    lacking = {path: file for path, file in files.items() if path not in sizes}
    missing, failed = _sizes(transfer, pool, lacking, source)
    _require_space(folder, missing)
    sizes |= missing

    with tqdm(
        desc="download",
        total=sum(sizes.values()),
        initial=sum(sizes[path] for path in done),
        unit="B",
        unit_scale=True,
        disable=None if progress else True,  # None: only where there is a terminal
    ) as transfer.bar:
        unanswered = 0
        jobs = {pool.submit(transfer.get, path, files[path]): path for path in sorted(sizes.keys() - done)}
        for path, job in _finished(jobs):
            try:
                job.result()
            except (OSError, StudyError) as error:
                if getattr(error.__cause__, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                    raise  # the other files would fail too
                unanswered = unanswered + 1 if isinstance(error, _BROKEN) else 0
                if unanswered > WORKERS:
                    raise StudyError(f"{source} answers no more; run it again, it goes on where it was") from error
                failed[path] = _tell(path, error)
            else:
                unanswered = 0
                verified[str(path)] = _stamp(folder / path, files[path].md5)
                _write_verified(folder, verified)
    return failed


def _sizes(
    transfer: "_Transfer", pool: ThreadPoolExecutor, files: Mapping[PurePosixPath, Remote], source: str
) -> tuple[dict[PurePosixPath, int], dict[PurePosixPath, str]]:
    """Of files of the source, in bytes; and why some have none."""
    sizes = {path: file.size for path, file in files.items() if file.size is not None}
    failed = {}
    jobs = {pool.submit(transfer.size, file.url): path for path, file in files.items() if path not in sizes}
    for path, job in _finished(jobs):
        try:
            sizes[path] = job.result()
        except requests.HTTPError as error:
            failed[path] = _tell(path, error)
        except requests.RequestException as error:
            raise StudyError(f"{source} does not answer ({_reason(error)}); check the connection") from error
    return sizes, failed


class _Transfer:
    """To one folder; its methods are called in several threads."""

    def __init__(self, session: requests.Session, folder: Path) -> None:
        self.session = session
        self.folder = folder
        self.stop = threading.Event()
        self.bar = tqdm(disable=True)

    def size(self, url: str) -> int:
        """Of a file of the source, in bytes."""
        self._go_on()
        response = self.session.head(url, allow_redirects=True, timeout=TIMEOUT)
        response.raise_for_status()
        length = response.headers.get("Content-Length", "")
        return int(length) if re.fullmatch(r"[0-9]{1,18}", length) else 0  # it serves for the bar and the free space

    def get(self, path: PurePosixPath, remote: Remote) -> None:
        """Get a file that is not there, or not right.

        Raises:
            requests.RequestException: if the source does not have it or does not answer.
            StudyError: if its sum is wrong twice, it cannot be written, or is another once it has its own name.
        """
        target = self.folder / path
        if target.is_file():
            if self._sum(target) == remote.md5:
                return
            self.bar.update(-target.stat().st_size)
        partial = target.with_name(f"{target.name}.partial")
        with replacing(target) as complete:  # it makes the folder, and explains a full disk
            for _ in range(2):
                if (found := self._continue(remote.url, partial)) == remote.md5:
                    partial.replace(complete)
                    break
                self.bar.update(-partial.stat().st_size)
                partial.unlink()
            else:
                raise StudyError(f"its MD5 sum is {found} and should be {remote.md5}")
        self.bar.update(-target.stat().st_size)
        if (found := self._sum(target)) != remote.md5:  # what was sent was right, what lies on the disk is not
            target.unlink()
            raise StudyError(
                f"its MD5 sum on the disk is {found} and should be {remote.md5}; is another program at it?"
            )

    def _continue(self, url: str, partial: Path) -> str:
        """Get the rest of a file, however often the transfer breaks; returns the MD5 sum of the whole."""
        breaks = furthest = 0
        with _open_partial(partial) as file:
            file.seek(0)
            digest = self._read(file)
            while True:
                self._go_on()
                start = file.tell()
                headers = {"Range": f"bytes={start}-"} if start else {}
                try:
                    with self.session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
                        if start and response.status_code == requests.codes.requested_range_not_satisfiable:
                            return digest.hexdigest()  # there is no more
                        response.raise_for_status()
                        if response.status_code not in (requests.codes.ok, requests.codes.partial_content):
                            raise requests.HTTPError(response=response)  # as "202 Accepted", with nothing in it
                        if start and response.status_code != requests.codes.partial_content:  # it sends the whole file
                            file.seek(0)
                            file.truncate()
                            digest = _md5()
                            self.bar.update(-start)
                        for chunk in response.iter_content(_CHUNK):
                            self._go_on()
                            file.write(chunk)
                            digest.update(chunk)
                            self.bar.update(len(chunk))
                    return digest.hexdigest()
                except _BROKEN:
                    breaks = 0 if file.tell() > furthest else breaks + 1
                    furthest = max(furthest, file.tell())
                    if breaks > BREAKS:
                        raise
                self.stop.wait(PAUSE * 2**breaks)

    def _sum(self, file: Path) -> str:
        """Of a whole file, read from the disk; counts as progress."""
        with file.open("rb") as opened:
            return self._read(opened).hexdigest()

    def _read(self, file: BinaryIO) -> "hashlib._Hash":
        """The sum of what is in a file; counts as progress."""
        digest = _md5()
        while chunk := file.read(_CHUNK):
            self._go_on()
            digest.update(chunk)
            self.bar.update(len(chunk))
        return digest

    def _go_on(self) -> None:
        if self.stop.is_set():
            raise InterruptedError("stopped")


def _open_partial(path: Path) -> BinaryIO:
    """To read it and to append to it. A link there is not ours, and what it leads to is not written."""
    return open(path, "a+b", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666))


def _require_space(folder: Path, sizes: dict[PurePosixPath, int]) -> None:
    partials = [folder / path.with_name(f"{path.name}.partial") for path in sizes]
    needed = sum(sizes.values()) - sum(file.stat().st_size for file in partials if file.is_file())
    free = shutil.disk_usage(folder).free
    if free < needed + RESERVE:
        raise StudyError(
            f"{folder} needs {_amount(needed)} more for {len(sizes)} files and has {_amount(free)} free; "
            "free some space, choose another folder, or get fewer files"
        )


def _read_verified(folder: Path) -> dict[str, list]:
    try:
        verified = json.loads((folder / VERIFIED).read_text())
    except (OSError, ValueError):  # missing or damaged: the files are read again
        return {}
    return verified if isinstance(verified, dict) else {}


def _write_verified(folder: Path, verified: dict[str, list]) -> None:
    with replacing(folder / VERIFIED) as temporary:
        temporary.write_text(json.dumps(verified))


def _stamp(file: Path, md5: str) -> list:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, md5]


@contextmanager
def _pool(stop: threading.Event) -> Iterator[ThreadPoolExecutor]:
    """Threads that are told to stop when something goes wrong, Ctrl-C above all."""
    pool = ThreadPoolExecutor(WORKERS)
    try:
        yield pool
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _finished(jobs: dict[Future, PurePosixPath]) -> Iterator[tuple[PurePosixPath, Future]]:
    return ((jobs[job], job) for job in as_completed(jobs))


def _tell(path: PurePosixPath, error: Exception) -> str:
    """Say at once that a file failed; returns the reason."""
    tqdm.write(f"{path}: {_reason(error)}", file=sys.stderr)
    return _reason(error)


def _reason(error: Exception) -> str:
    """In a few words."""
    match error:
        case requests.HTTPError():
            return f"HTTP {error.response.status_code} {error.response.reason}".strip()
        case requests.Timeout():
            return "no answer in time"
    if isinstance(error, _BROKEN):
        return "the connection broke"
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return f"{error.filename} is a link; remove it"
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _md5() -> "hashlib._Hash":
    return hashlib.md5(usedforsecurity=False)  # or it is refused where only approved algorithms are allowed


def _amount(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
