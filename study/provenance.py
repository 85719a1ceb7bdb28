"""Where a number comes from: the command, the code, the machine and the time."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from study import __version__


def provenance(device: torch.device, processes: int = 1) -> dict:
    """What is saved with every result: command, code version, software, hardware, and the time (UTC)."""
    return {
        "command": shlex.join(["python", "-m", "study", *sys.argv[1:]]),
        "version": code_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "hardware": hardware(device),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def code_version() -> str:
    """The package's version with the git commit, marked "-dirty" if files differ from it."""
    here = Path(__file__).parent
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=10"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):  # an installed package, or no git
        return __version__
    return f"{__version__}+{answer.stdout.strip()}"


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
