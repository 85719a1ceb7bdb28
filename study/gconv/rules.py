"""Which form of a group convolution is faster: measured once, kept in ``rules.csv``, looked up in every call.

The Fourier form saves products, of which every position has inputs x outputs, and costs additions, of which it has
inputs + outputs, and some time in every call. So it pays from a number of fields on, if there is enough to do: a rule
says how many, and how much. `python -m study bench layers` measures, and :func:`study.bench.layers.rules` draws the
rules from what it found. Where there is no rule, the dense form is taken.
"""

import csv
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from study.gconv import fourier


class Rule(NamedTuple):
    """From how many pairs of input and output fields, and how much :func:`work`, on the Fourier form is faster."""

    pairs: int
    work: int


def work(inputs: int, outputs: int, positions: float) -> float:
    """Pairs of fields times positions of the input, in all images; the constant stands for preparing the filter."""
    return inputs * outputs * (positions + 256)


PATH = Path(__file__).with_name("rules.csv")
with PATH.open(newline="") as _file:
    RULES = {
        (row["device"], row["backend"], row["dtype"], row["group"], row["layer"]): Rule(
            int(row["pairs"]), int(row["work"])
        )
        for row in csv.DictReader(_file)
    }


def fourier_is_faster(layer: nn.Module, device: str, dtype: torch.dtype, positions: float = math.inf) -> bool:
    """Whether to take the Fourier form of a :class:`~study.gconv.GroupConv2d`.

    Args:
        layer: the convolution, or the transposed one.
        device: "cpu" or "cuda".
        dtype: of the products.
        positions: of the input, in all images together; many, if it is not known.
    """
    key = (
        device,
        fourier.backend(device, dtype, layer.group),
        str(dtype).removeprefix("torch."),
        layer.group.name,
        type(layer).__name__,
    )
    rule = RULES.get(key)
    if rule is None or layer.kernel_size < 3 or layer.stride > 2:  # the measurements say nothing of these
        return False
    pair = layer.in_channels, layer.out_channels
    return math.prod(pair) >= rule.pairs and work(*pair, positions) >= rule.work
