"""Getting Camelyon16 from its public bucket, or from a mirror: resumed where it broke off, and checked.

The published list ``checksums.md5`` says which files there are. A file comes as ``<name>.partial`` and takes its own
name only when its MD5 sum is right, so that it is whole or not there.
"""

import errno
import hashlib
import json
import shutil
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util import Retry

from study.data.camelyon16 import INDEX, by_slide, parse_index, select
from study.errors import StudyError
from study.files import RESERVE, replacing

BUCKET_URL = "https://camelyon-dataset.s3.us-west-2.amazonaws.com/CAMELYON16"

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


def download(
    folder: Path | str, *, selection: str = "all", source: str = BUCKET_URL, progress: bool = True
) -> list[Path]:
    """Get slides with their annotations and masks. What is complete is kept; what was begun goes on where it was.

    Args:
        folder: where to put them, in the source's own tree.
        selection: see :func:`~study.data.camelyon16.select`.
        source: the address that ``checksums.md5`` and the paths in it follow; it is asked without credentials.
        progress: show a bar, if there is a terminal.

    Returns:
        the paths of all files of the selection.

    Raises:
        StudyError: if the source does not answer or its list is damaged, if a slide is not there, if the disk is full
            or would be, or, after all others are done, if files could not be got; it lists them.
    """
    folder, source = Path(folder), source.rstrip("/")
    with _session() as session:
        sums = _get_index(session, folder, source)
        wanted = {path: sums[path] for path in _choose(sums, selection, source)}
        transfer = _Transfer(session, folder, source)
        with _pool(transfer.stop) as pool:
            failed = _get_all(transfer, pool, wanted, progress)
    if failed:
        listed = [f"{path} ({reason})" for path, reason in sorted(failed.items())]
        listed[LISTED:] = [f"{len(listed) - LISTED} more"] if len(listed) > LISTED else []
        missing = f"{len(failed)} of {len(wanted)} files are missing in {folder}: {', '.join(listed)}"
        raise StudyError(f"{missing}; run it again, it goes on where it was")
    return [folder / path for path in wanted]


def _get_all(
    transfer: "_Transfer", pool: ThreadPoolExecutor, sums: dict[PurePosixPath, str], progress: bool
) -> dict[PurePosixPath, str]:
    """Get all files; returns why the missing ones are missing."""
    folder = transfer.folder
    verified = _read_verified(folder)
    sizes = {path: (folder / path).stat().st_size for path in sums if (folder / path).is_file()}
    done = {path for path in sizes if verified.get(str(path)) == _stamp(folder / path, sums[path])}
    missing, failed = _sizes(transfer, pool, sums.keys() - sizes.keys())
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
        jobs = {pool.submit(transfer.get, path, sums[path]): path for path in sorted(sizes.keys() - done)}
        for path, job in _finished(jobs):
            try:
                job.result()
            except (OSError, StudyError) as error:
                if getattr(error.__cause__, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                    raise  # the other files would fail too
                unanswered = unanswered + 1 if isinstance(error, _BROKEN) else 0
                if unanswered > WORKERS:
                    raise StudyError(
                        f"{transfer.source} answers no more; run it again, it goes on where it was"
                    ) from error
                failed[path] = _tell(path, error)
            else:
                unanswered = 0
                verified[str(path)] = _stamp(folder / path, sums[path])
                _write_verified(folder, verified)
    return failed


def _sizes(
    transfer: "_Transfer", pool: ThreadPoolExecutor, paths: Iterable[PurePosixPath]
) -> tuple[dict[PurePosixPath, int], dict[PurePosixPath, str]]:
    """Of files of the source, in bytes; and why some have none."""
    sizes, failed = {}, {}
    for path, job in _finished({pool.submit(transfer.size, path): path for path in paths}):
        try:
            sizes[path] = job.result()
        except requests.HTTPError as error:
            failed[path] = _tell(path, error)
        except requests.RequestException as error:
            raise StudyError(f"{transfer.source} does not answer ({_reason(error)}); check the connection") from error
    return sizes, failed


class _Transfer:
    """From one address to one folder; its methods are called in several threads."""

    def __init__(self, session: requests.Session, folder: Path, source: str) -> None:
        self.session = session
        self.folder = folder
        self.source = source
        self.stop = threading.Event()
        self.bar = tqdm(disable=True)

    def size(self, path: PurePosixPath) -> int:
        """Of a file of the source, in bytes."""
        self._go_on()
        response = self.session.head(self._url(path), allow_redirects=True, timeout=TIMEOUT)
        response.raise_for_status()
        return int(response.headers.get("Content-Length", 0))

    def get(self, path: PurePosixPath, md5: str) -> None:
        """Get a file that is not there, or not right.

        Raises:
            requests.RequestException: if the source does not have it or does not answer.
            StudyError: if its sum is wrong twice, or it cannot be written.
        """
        target = self.folder / path
        if target.is_file():
            with target.open("rb") as file:
                if self._read(file).hexdigest() == md5:
                    return
            self.bar.update(-target.stat().st_size)
        partial = target.with_name(f"{target.name}.partial")
        with replacing(target) as complete:  # it makes the folder, and explains a full disk
            for _ in range(2):
                if (found := self._continue(path, partial)) == md5:
                    partial.replace(complete)
                    return
                self.bar.update(-partial.stat().st_size)
                partial.unlink()
            raise StudyError(f"its MD5 sum is {found} and should be {md5}")

    def _continue(self, path: PurePosixPath, partial: Path) -> str:
        """Get the rest of a file, however often the transfer breaks; returns the MD5 sum of the whole."""
        breaks = furthest = 0
        with partial.open("a+b") as file:
            file.seek(0)
            digest = self._read(file)
            while True:
                self._go_on()
                start = file.tell()
                headers = {"Range": f"bytes={start}-"} if start else {}
                try:
                    with self.session.get(self._url(path), headers=headers, stream=True, timeout=TIMEOUT) as response:
                        if start and response.status_code == requests.codes.requested_range_not_satisfiable:
                            return digest.hexdigest()  # there is no more
                        response.raise_for_status()
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

    def _url(self, path: PurePosixPath) -> str:
        return f"{self.source}/{quote(str(path))}"


def _session() -> requests.Session:
    session = requests.Session()
    session.auth = lambda request: request  # or requests would send what ~/.netrc has for the host
    session.headers["Accept-Encoding"] = "identity"  # sums and positions are those of the bytes of the file
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=WORKERS, max_retries=RETRY))
    return session


def _get_index(session: requests.Session, folder: Path, source: str) -> dict[PurePosixPath, str]:
    """Get the list of files anew, and keep it in the folder."""
    url = f"{source}/{INDEX}"
    try:
        response = session.get(url, timeout=TIMEOUT)
        response.raise_for_status()
    except requests.RequestException as error:
        raise StudyError(f"cannot get {url} ({_reason(error)}); check the connection and the source") from error
    sums = parse_index(response.content.decode("utf-8-sig", "replace"), where=url)
    if not by_slide(sums)[0]:
        raise StudyError(f"{url} lists no slides; check the source")
    with replacing(folder / INDEX) as temporary:
        temporary.write_bytes(response.content)
    return sums


def _choose(sums: Iterable[PurePosixPath], selection: str, source: str) -> list[PurePosixPath]:
    """The files of the chosen slides; annotations and masks of which there is no slide are of no use."""
    slides, annotations, masks = by_slide(sums)
    names = select(slides, selection, where=source)
    return sorted(kind[name] for kind in (slides, annotations, masks) for name in names if name in kind)


def _require_space(folder: Path, sizes: dict[PurePosixPath, int]) -> None:
    partials = [folder / path.with_name(f"{path.name}.partial") for path in sizes]
    needed = sum(sizes.values()) - sum(file.stat().st_size for file in partials if file.is_file())
    free = shutil.disk_usage(folder).free
    if free < needed + RESERVE:
        raise StudyError(
            f"{folder} needs {_amount(needed)} more for {len(sizes)} files and has {_amount(free)} free; "
            "free some space, choose another folder, or take fewer slides"
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
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _md5() -> "hashlib._Hash":
    return hashlib.md5(usedforsecurity=False)  # or it is refused where only approved algorithms are allowed


def _amount(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
