"""How much memory something needs at its peak."""

import ctypes
import math
import resource
import sys
from collections.abc import Callable

import torch


def peak_mb(device: torch.device) -> float:
    """The most memory held so far: by torch on a GPU, by the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:  # not ru_maxrss, which on Linux begins with the peak of the parent process
        return _status("VmHWM")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, kilobytes elsewhere


def extra_mb(job: Callable[[], object], device: torch.device) -> float:
    """How much more memory is held while ``job`` runs than before; NaN on a CPU without Linux."""
    if device.type == "cuda":
        job()  # once before, for the memory in which kernels are tuned
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        job()
        return torch.cuda.max_memory_allocated(device) / 2**20 - before / 2**20
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what is free already, but kept by the process, would hide the first of it
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak counts from now on
    except (OSError, AttributeError):
        return math.nan
    before = _status("VmRSS")
    job()
    return _status("VmHWM") - before


def _status(field: str) -> float:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 2**10 for line in file if line.startswith(field))
