"""Which form of a group convolution is faster: measured once, kept in ``rules.csv``, looked up in every call.

A rule says from how many fields on (the geometric mean of input and output) the Fourier form of a layer is the faster
one. `python -m study bench layers` measures, and :func:`study.bench.layers.rules` draws the rules from what it found.
Where there is no rule, the dense form is taken.
"""

import csv
import math
from pathlib import Path

import torch
from torch import nn

from study.gconv import transform

with Path(__file__).with_name("rules.csv").open(newline="") as _file:
    RULES = {
        (row["device"], row["form"], row["dtype"], row["group"], row["layer"]): float(row["fields"])
        for row in csv.DictReader(_file)
    }


def fourier_is_faster(layer: nn.Module, device: str, dtype: torch.dtype) -> bool:
    """Whether to take the Fourier form of a :class:`~study.gconv.GroupConv2d` on that device, in that precision."""
    key = (device, transform.form(device), str(dtype).removeprefix("torch."), layer.group.name, type(layer).__name__)
    return math.sqrt(layer.in_channels * layer.out_channels) >= RULES.get(key, math.inf)
