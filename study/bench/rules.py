"""The rules of choice between the forms of a group convolution, measured on this machine in about a minute."""

import os
from functools import partial
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from study.bench.networks import PRECISIONS
from study.errors import StudyError
from study.files import replacing
from study.gconv import GroupConv2d, GroupConvTranspose2d
from study.gconv.fast import fourier, rules
from study.groups import GROUPS
from study.timing import summarise, time_in_turn

LAYERS = {
    "GroupConv2d": partial(GroupConv2d, kernel_size=3, padding=1),
    "GroupConvTranspose2d": partial(GroupConvTranspose2d, kernel_size=4, stride=2, padding=1),
}
FIELDS = [(n, n) for n in (1, 2, 3, 6, 12, 24, 64)]
FIELDS += [(1, 16), (16, 1), (4, 64), (64, 4), (2, 256), (256, 2), (1, 1024), (1024, 1)]
SIDES = (1, 6, 17, 48, 136)
"""Sides of the feature maps: 1 to 18,496 positions in one image."""

MOST_PRODUCTS = 5e8
"""Largest number of multiplications of the dense form: for larger cases the nearest smaller one is representative."""


def measure(device: torch.device, precision: str = "float32", *, rounds: int = 3) -> pd.DataFrame:
    """One row for each layer and size, with the columns of :data:`study.gconv.fast.rules.COLUMNS`.

    Raises:
        StudyError: for an unknown precision.
    """
    if precision not in PRECISIONS:
        raise StudyError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")
    groups = [group for group in GROUPS.values() if group.order > 1]
    chosen = [
        case
        for case in product(groups, LAYERS, FIELDS, SIDES)
        if case[0].order ** 2 * case[2][0] * case[2][1] * 9 * case[3] ** 2 <= MOST_PRODUCTS
    ]
    dtype = getattr(torch, precision)
    rows = [
        _measure_case(*case, dtype, device, rounds) for case in tqdm(chosen, desc="layers of all sizes", disable=None)
    ]
    return pd.DataFrame(rows, columns=rules.COLUMNS)


def _measure_case(group, name, fields, side, dtype, device, rounds) -> tuple:
    jobs = {"forward": {}, "training": {}}
    f = torch.randn(1, fields[0], group.order, side, side, device=device, dtype=dtype, requires_grad=True)
    for algorithm in ("dense", "fourier"):
        layer = LAYERS[name](*fields, group=group, bias=False, algorithm=algorithm).to(device, dtype)
        e = torch.randn_like(layer(f))
        jobs["forward"][algorithm] = torch.no_grad()(partial(layer, f))
        jobs["training"][algorithm] = partial(_train, layer, f, e)
    ratios = (
        summarise(time_in_turn(forms, rounds=rounds, device=device), baseline="dense").ratio["fourier"].round(3)
        for forms in jobs.values()
    )
    backend = fourier.backend(device.type, dtype, group)
    return (device.type, backend, str(dtype).removeprefix("torch."), group.name, name, *fields, side**2, *ratios)


def _train(layer: torch.nn.Module, f: torch.Tensor, e: torch.Tensor) -> None:
    torch.autograd.grad(layer(f), [f, layer.weight], e)


def check_output(path: Path) -> None:
    """Raise a StudyError if a file is there that is no table of rules."""
    if path.is_file():
        try:
            rules.read(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StudyError(f"{path} is no table of rules; give another --output, or remove it") from error


def write(path: Path, rows: pd.DataFrame) -> None:
    """Write the measured rules, and keep the rules of other devices in the file.

    Raises:
        StudyError: if the file is no table of rules or cannot be written.
    """
    check_output(path)
    keys = list(rules.KEYS)
    if path.is_file():
        old = pd.read_csv(path)
        measured = pd.MultiIndex.from_frame(rows[keys].drop_duplicates())
        rows = pd.concat([old[~pd.MultiIndex.from_frame(old[keys]).isin(measured)], rows])
    rows = rows.sort_values(list(rules.COLUMNS[:-2]), kind="stable")
    with replacing(path) as temporary:
        temporary.write_text(rows.to_csv(index=False, lineterminator=os.linesep))
    rules.in_use.cache_clear()
    rules._look_up.cache_clear()
