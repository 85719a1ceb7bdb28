"""The devices that a command runs on."""

import torch
from lightning_fabric import Fabric

from study.errors import StudyError


def launch_fabric(precision: str = "32-true", devices: int = 1) -> Fabric:
    """Start the processes, one for each device; the GPU where there is one.

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
