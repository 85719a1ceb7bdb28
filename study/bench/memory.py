"""Peak memory."""

import ctypes
import math
import resource
import sys
from collections.abc import Callable

import torch


def peak_mb(device: torch.device) -> float:
    """The peak memory so far, in MB: of torch on a GPU, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:  # not ru_maxrss, which on Linux starts at the peak of the parent process
        return _status("VmHWM")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, kilobytes elsewhere


def extra_mb(job: Callable[[], object], device: torch.device) -> float:
    """The peak memory of ``job`` beyond the memory before it, in MB; NaN on a CPU without Linux."""
    if device.type == "cuda":
        job()  # a first run, for the memory in which kernels are tuned
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        job()
        return torch.cuda.max_memory_allocated(device) / 2**20 - before / 2**20
    try:
        ctypes.CDLL(None).malloc_trim(0)  # free memory that the process keeps would hide the first allocations
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # reset the peak
    except (OSError, AttributeError):
        return math.nan
    before = _status("VmRSS")
    job()
    return _status("VmHWM") - before


def _status(field: str) -> float:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 2**10 for line in file if line.startswith(field))
