"""Where a number comes from: the command, the code, the machine and the time."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

from study import __version__


def command() -> str:
    """What was typed to start this process."""
    return shlex.join(["python", "-m", "study", *sys.argv[1:]])


def provenance(device: torch.device, processes: int = 1, typed: str | None = None) -> dict:
    """What is saved with every result: command, code version, software, hardware, and the time (UTC).

    Args:
        device: where it was computed.
        processes: how many took part.
        typed: the command, where another process than this one was started by it.
    """
    return {
        "command": typed or command(),
        "version": CODE_VERSION,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "escnn": _version_of("escnn"),
        "hardware": hardware(device),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _code_version() -> str:
    """The package's version with the git commit, marked "-dirty" if any of its files is not as committed."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "provenance.py")  # or the commit would be that of somebody else's repository
        dirty = "-dirty" if git("status", "--porcelain", "--", ".") else ""
        return f"{__version__}+{git('rev-parse', '--short=10', 'HEAD')}{dirty}"
    except (OSError, subprocess.CalledProcessError):  # an installed package, or no git
        return __version__


CODE_VERSION = _code_version()
"""Found when the code is loaded: a commit made during a training must not be taken for the code that trained."""


def hardware(device: torch.device) -> str:
    """The GPU's name, or the processor's with the number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            name = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), name)
    except OSError:  # not Linux
        pass
    return f"{name}, {os.cpu_count()} cores"
