"""Compiles ``transform.cpp`` with the machine's own C++ compiler when it is first needed, and keeps the result."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("transform.cpp")
_FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC"]
_INSTRUCTIONS = {
    "AVX512": ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma", "-mprefer-vector-width=512"],
    "AVX2": ["-mavx2", "-mfma"],
}
"""By torch's own name for what the CPU can do; others get the compiler's default. Not -march=native: a home directory
may be shared by machines of several kinds."""


@cache
def load() -> ctypes.CDLL | None:
    """The compiled library, or None, with a warning, where it cannot be compiled."""
    try:
        return ctypes.CDLL(str(_compiled()))
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        reason = next((line for line in lines if "error" in line), lines[-1])
        warnings.warn(
            f"group convolutions run in plain PyTorch, which is slower, because {SOURCE.name} could not be compiled "
            f"({reason}); install g++, or cxx-compiler from conda-forge, or let XDG_CACHE_HOME name a writable folder",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def _compiled() -> Path:
    """The path of the library, compiled unless an earlier process has."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        raise FileNotFoundError("no C++ compiler found")
    command = [*compiler.split(), *_FLAGS, *_INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), [])]
    built_by = " ".join([*command, platform.machine(), *platform.libc_ver()])  # a home may be shared by machines
    version = hashlib.sha256(SOURCE.read_bytes() + built_by.encode()).hexdigest()[:16]
    library = _cache_folder() / f"transform-{version}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:  # renamed when whole: processes may race
            target = Path(folder) / library.name
            subprocess.run([*command, str(SOURCE), "-o", str(target)], check=True, capture_output=True, text=True)
            target.replace(library)
    return library


def _cache_folder() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "equivariant-segmentation-study"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
