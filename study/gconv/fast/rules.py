"""Which form of a group convolution is faster: measured once, kept in ``rules.csv``, looked up in every call.

A table contains, for layers of many sizes, the time of the Fourier form as a share of the dense form's, forward alone
and in a training. A layer takes the form that was faster at the nearest size: nearest in the logarithms of its input
fields, its output fields and the positions of its input, as the saving depends on all three. A layer without
measurements is dense.

`python -m study bench rules` measures this machine and keeps its table in the user's cache, where it replaces the
shipped rules of the same device, backend, dtype, group and layer.
"""

import csv
import math
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from study.gconv.fast import compiler, fourier

PATH = Path(__file__).with_name("rules.csv")
KEYS = ("device", "backend", "dtype", "group", "layer")
COLUMNS = (*KEYS, "inputs", "outputs", "positions", "forward", "training")


class Measured(NamedTuple):
    """A layer's size, and the time of its Fourier form as a share of the dense one's, without and with gradients."""

    inputs: int
    outputs: int
    positions: int
    forward: float
    training: float


Table = dict[tuple[str, ...], list[Measured]]
"""The measurements by device, backend, dtype, group and layer."""


def read(path: Path) -> Table:
    """Read a table that `bench rules` wrote."""
    table = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            sizes = (int(row[name]) for name in ("inputs", "outputs", "positions"))
            table[tuple(row[key] for key in KEYS)].append(
                Measured(*sizes, float(row["forward"]), float(row["training"]))
            )
    return dict(table)


def own_path() -> Path:
    """The path of this machine's own rules.

    Raises:
        OSError: if there is no folder for them that only the user can write.
    """
    return compiler.cache_folder() / "rules.csv"


@cache
def in_use() -> Table:
    """The shipped rules, replaced by those that were measured on this machine."""
    try:
        own = read(own_path())
    except (OSError, ValueError, KeyError, TypeError):  # missing or damaged: only the time depends on it
        own = {}
    return read(PATH) | own


@torch.compiler.assume_constant_result
def _is_faster(*arguments) -> bool:
    return _look_up(*arguments)


@cache
def _look_up(key: tuple[str, ...], inputs: int, outputs: int, positions: float, training: bool) -> bool:
    def distance(measured: Measured) -> float:
        pairs = zip((inputs, outputs, positions), measured, strict=False)
        return sum(math.log(asked / known) ** 2 for asked, known in pairs)

    measured = in_use().get(key)
    if not measured:
        return False
    nearest = min(measured, key=distance)
    return (nearest.training if training else nearest.forward) <= 1


def fourier_is_faster(
    layer: nn.Module, device: str, dtype: torch.dtype, positions: float = math.inf, training: bool = True
) -> bool:
    """Whether to take the Fourier form of a :class:`~study.gconv.GroupConv2d`.

    Args:
        layer: the convolution, or the transposed one.
        device: "cpu" or "cuda".
        dtype: of the products.
        positions: number of pixels of the input, over all images; a large number if it is unknown.
        training: whether gradients will be needed.
    """
    if layer.kernel_size < 3 or layer.stride > 2:  # these were not measured
        return False
    backend, name = fourier.backend(device, dtype, layer.group), str(dtype).removeprefix("torch.")
    key = (device, backend, name, layer.group.name, type(layer).__name__)
    return _is_faster(key, layer.in_channels, layer.out_channels, min(max(positions, 1), 2**20), training)
