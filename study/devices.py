"""The devices that a command runs on, and how much of a CPU it takes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric

from study.errors import StudyError


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_processes(devices: int) -> None:
    """Raise a StudyError if torchrun started another number of processes than share a training."""
    if "TORCHELASTIC_RUN_ID" in os.environ and (started := int(os.environ["WORLD_SIZE"])) != devices:
        raise StudyError(f"torchrun started {started} processes for {devices} devices; give it --devices {started}")


def launch_fabric(precision: str = "32-true", devices: int = 1) -> Fabric:
    """Start the processes, one for each device, or join those that torchrun or Slurm started; the GPU if there is one.

    Raises:
        StudyError: if there are fewer devices.
    """
    # not "auto": Apple's GPUs lack the float64 that sums need
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        fabric = Fabric(accelerator=accelerator, devices=devices, precision=precision)
    except Exception as error:  # Fabric has many ways to say that there are fewer devices than were asked for
        raise StudyError(" ".join(str(error).split())) from error
    fabric.launch()
    return fabric


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the block on one core: how sums are shared out among threads decides how they are rounded."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
