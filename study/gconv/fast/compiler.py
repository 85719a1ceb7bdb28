"""Compiles the C++ sources with the machine's own compiler when they are first needed, and keeps the library.

Later processes run the library, so it is checked before it is loaded: only the user may be able to write to it, and its
size and SHA-256 must be those recorded beside it when it was built. A library that fails a check is built again.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

_FOLDER = Path(__file__).with_name("cpp")
SOURCES = (_FOLDER / "float32.cpp", _FOLDER / "float64.cpp")
"""Compiled side by side and linked into one library."""
HEADERS = tuple(sorted(_FOLDER.glob("*.h")))
"""The headers that they include, beside those of the standard library."""
_FLAGS = ["-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-fPIC"]
"""With -O2 compiling would take 20 % less time, and the transforms twice as long."""
_INSTRUCTIONS = {
    "AVX512": ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma", "-mprefer-vector-width=512"],
    "AVX2": ["-mavx2", "-mfma"],
}
"""Flags by torch's name of the CPU's capability; other CPUs get the compiler's default. Not -march=native: a home
directory may be shared by machines of several kinds."""


@cache
def load() -> ctypes.CDLL | None:
    """The compiled library, or None, with a warning, where it cannot be compiled or loaded."""
    try:
        return ctypes.CDLL(str(_library()))
    except (OSError, RuntimeError, ValueError, subprocess.CalledProcessError) as error:
        lines = ((getattr(error, "stderr", None) or "").strip() or str(error) or repr(error)).splitlines()
        reason = next((line for line in lines if "error" in line), lines[-1])
        warnings.warn(
            f"group convolutions run in plain PyTorch, which is slower, because {_names()} could not be compiled or "
            f"loaded ({reason}); install g++, or cxx-compiler from conda-forge, or let XDG_CACHE_HOME name a folder "
            "that you, and nobody else, can write",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def _names() -> str:
    return " and ".join(source.name for source in SOURCES)


def _library() -> Path:
    """The path of the library, compiled unless an earlier process has."""
    command = [*_compiler(), *_FLAGS, *_INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), [])]
    built_by = [*command, platform.machine(), *platform.libc_ver()]  # machines may share a home folder
    parts = [*(source.read_bytes() for source in (*SOURCES, *HEADERS)), *map(os.fsencode, built_by)]
    version = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    library = cache_folder() / f"gconv-{version}.so"
    if not _is_sound(library):
        _build(command, library)
    return library


def _compiler() -> list[str]:
    """The compiler's command: CXX, which may be a path with spaces or have arguments, or a compiler that is found."""
    chosen = os.environ.get("CXX", "").strip()
    if chosen:
        return [chosen] if Path(chosen).is_file() else shlex.split(chosen)
    found = shutil.which("c++") or shutil.which("g++")
    if found is None:
        raise FileNotFoundError("no C++ compiler found")
    return [found]


def _build(command: list[str], library: Path) -> None:
    print(f"compiling {_names()}, once: it takes 2 to 20 seconds ...", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:  # renamed when complete: processes may race

        def compiled(source: Path) -> str:
            path = f"{folder}/{source.name}.o"
            _run([*command, "-c", str(source), "-o", path])
            return path

        with ThreadPoolExecutor() as pool:
            objects = list(pool.map(compiled, SOURCES))
        target = Path(folder) / library.name
        _run([*command, "-shared", *objects, "-o", str(target)])
        note = _note(target)
        note.write_bytes(_checksum(target))
        for path in (note, target):  # the library last: it is not used without its note
            path.chmod(0o700)  # whatever the umask
            path.replace(library.with_name(path.name))


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, encoding="utf-8", errors="replace")


def _is_sound(library: Path) -> bool:
    """Whether the library exists, is the user's, and is unchanged: a truncated one would kill a process."""
    note = _note(library)
    try:
        return (
            _is_ours(library, stat.S_IFREG) and _is_ours(note, stat.S_IFREG) and note.read_bytes() == _checksum(library)
        )
    except FileNotFoundError:
        return False


def _note(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _checksum(library: Path) -> bytes:
    content = library.read_bytes()
    return f"{len(content)} {hashlib.sha256(content).hexdigest()}\n".encode()


def _is_ours(path: Path, kind: int) -> bool:
    """Whether a path is a file or a folder, not a link, that only the user can write."""
    status = path.lstat()
    if stat.S_IFMT(status.st_mode) != kind:
        return False
    return os.name != "posix" or (status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def cache_folder() -> Path:
    """The user's cache folder, which only the user can write.

    Raises:
        OSError: if it cannot be made, or others can write it.
    """
    parent = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not parent.is_absolute():  # the specification says to ignore a relative path
        parent = Path.home() / ".cache"
    folder = parent / "equivariant-segmentation-study"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_ours(folder, stat.S_IFDIR):
        raise PermissionError(f"others than you can write {folder}, or it is a link: chmod go-w, or remove it")
    return folder
