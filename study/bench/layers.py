"""The group convolutions of a U-Net one by one: dense, by Fourier, on escnn, and a plain one of equal parameters."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from study.bench.memory import extra_mb
from study.bench.networks import DEPTH, check_input, has_escnn
from study.gconv.fast import fourier
from study.gconv.fast.dispatch import prefers_fourier
from study.gconv.fast.filter_transform import products_per_tap
from study.groups import GROUPS, P4, P4M
from study.networks.layer_sets import field_counts, make_layers
from study.networks.steps import autocast
from study.provenance import provenance
from study.timing import summarise, time_in_turn

FORMS = ("dense", "dense, channels last", "fourier", "escnn", "plain")
"""The forms of a layer: an ordinary convolution of planes, on a GPU also in channels-last memory format; the Fourier
form; escnn's layer; torch's own convolution with as many parameters."""


@dataclass(frozen=True)
class Settings:
    """The settings of a measurement.

    Attributes:
        widths: channels of the U-Nets at full resolution; their levels give the sizes of the layers.
        size: side of the images in pixels.
        batches: numbers of images in a batch.
        precision: "float32", "bfloat16" or "float16": the type of the feature maps; autocast chooses the others.
        rounds: number of times that everything is timed.
    """

    widths: tuple[int, ...]
    size: int
    batches: tuple[int, ...]
    precision: str
    rounds: int

    def __post_init__(self) -> None:
        check_input(self.size, self.precision)


@dataclass(frozen=True)
class Case:
    """A layer of a group U-Net, the side of its input feature maps, and their number in a batch."""

    group: str
    layer: str
    inputs: int
    outputs: int
    grid: int
    batch: int

    @property
    def transposed(self) -> bool:
        return self.layer == "GroupConvTranspose2d"

    @property
    def positions(self) -> int:
        """Number of pixels of the input, over all images."""
        return self.batch * self.grid**2

    def channels(self, form: str) -> tuple[int, int]:
        """Channels of input and output: fields, or for the plain convolution the number that gives equal parameters."""
        if form != "plain":
            return self.inputs, self.outputs
        return tuple(round(fields * math.sqrt(GROUPS[self.group].order)) for fields in (self.inputs, self.outputs))

    def build(self, form: str) -> nn.Module:
        """The layer in one of its :data:`FORMS`."""
        if form == "plain":
            kind = nn.ConvTranspose2d if self.transposed else nn.Conv2d
        else:
            layers = make_layers(GROUPS[self.group], "escnn" if form == "escnn" else "native")
            kind = layers.up if self.transposed else layers.conv
        sizes = {"kernel_size": 4, "stride": 2} if self.transposed else {"kernel_size": 3}
        layer = kind(*self.channels(form), **sizes, padding=1, bias=False)
        if form not in ("escnn", "plain"):
            layer.algorithm = form.partition(",")[0]
        return layer

    def input(self, form: str) -> Tensor:
        """Random input of the layer."""
        planes = () if form == "plain" else (GROUPS[self.group].order,)
        f = torch.randn(self.batch, self.channels(form)[0], *planes, self.grid, self.grid)
        if form == "dense, channels last":
            return f.flatten(1, 2).contiguous(memory_format=torch.channels_last).unflatten(1, f.shape[1:3])
        return f

    def products(self, form: str) -> int:
        """Multiplications of a forward pass, not counting the border."""
        order = GROUPS[self.group].order
        per_pair = {"plain": 1, "fourier": products_per_tap(GROUPS[self.group])}.get(form, order**2)
        return per_pair * math.prod(self.channels(form)) * (16 if self.transposed else 9) * self.positions


def cases(settings: Settings) -> list[Case]:
    """The second convolution and the transposed convolution of every level, at all widths, each size once."""
    found = {}
    for group, batch, width in product((P4M, P4), settings.batches, settings.widths):
        fields = field_counts(group, width, DEPTH)
        for level, count in enumerate(fields):
            side = settings.size // 2**level
            found[Case(group.name, "GroupConv2d", count, count, side, batch)] = None
            if level:
                found[Case(group.name, "GroupConvTranspose2d", count, fields[level - 1], side, batch)] = None
    return list(found)


@torch.backends.cudnn.flags(enabled=True, allow_tf32=False, benchmark=True)  # float32, not TF32
def measure(chosen: list[Case], settings: Settings, device: torch.device) -> pd.DataFrame:
    """One row per case and form.

    Columns: the case; ``form``; ``auto``, the form that the layer chooses by default; ``peak_mb`` (of forward and
    backward, beyond the layer and its input); ``gflops`` (of forward and backward); for ``forward`` and ``both``
    (forward and backward, with all gradients) those of :func:`~study.timing.summarise`, against the dense form
    in the same round, and ``_roofline``, the least time of its multiplications, or of reading and writing everything
    once, as a share of its time; for that ``peak_gflops`` and ``peak_gb_per_second``, of matrix products and
    copies on this machine; ``backend`` (cpp, triton or torch), the settings and the provenance.
    """
    forms = [form for form in FORMS if form != "escnn" or has_escnn()]
    if device.type == "cpu":
        forms.remove("dense, channels last")
    dtype = getattr(torch, settings.precision)
    rates = _rates(device, dtype)
    rows = pd.concat(
        [_measure_case(case, forms, settings, device) for case in tqdm(chosen, desc="layers", disable=None)]
    )
    again = _rates(device, dtype)  # another process may have been running at the beginning
    rates = {name: max(rate, again[name]) for name, rate in rates.items()}
    for kind, share in [("forward", 1 / 3), ("both", 1)]:
        products, traffic = rows.flops / rates["peak_gflops"], rows.bytes / rates["peak_gb_per_second"]
        rows[f"{kind}_roofline"] = share * np.maximum(products, traffic) / 1e6 / rows[f"{kind}_ms"]
    rows["gflops"] = rows.flops / rows.both_ms / 1e6
    rows = rows.assign(**rates, backend=fourier.backend(device.type, dtype, P4M), device=device.type)
    shared = {"size": settings.size, "precision": settings.precision, "rounds": settings.rounds}
    return rows.drop(columns=["flops", "bytes"]).assign(**shared, **provenance(device))


def _measure_case(case: Case, forms: list[str], settings: Settings, device: torch.device) -> pd.DataFrame:
    torch.manual_seed(0)
    dtype = getattr(torch, settings.precision)
    jobs: dict[str, dict[str, Callable[[], object]]] = {"forward": {}, "both": {}}
    rows = []
    for form in forms:
        layer = case.build(form).to(device)
        run = autocast(device, settings.precision)(layer)
        f = case.input(form).to(device, dtype).requires_grad_()
        with torch.no_grad():
            e = torch.randn_like(run(f))
        jobs["forward"][form] = torch.no_grad()(partial(run, f))
        jobs["both"][form] = partial(_forward_and_backward, run, f, list(layer.parameters()), e)
        rows.append(
            asdict(case)
            | {
                "form": form,
                "auto": _choice(case, dtype, device),
                "flops": 3 * 2 * case.products(form),  # each gradient has as many
                # input, output, filter and their gradients, read and written
                "bytes": 3 * sum(x.numel() * x.element_size() for x in (f, e, *layer.parameters())),
            }
        )
    for row, job in zip(rows, jobs["both"].values(), strict=True):
        fourier.release_workspace()  # otherwise it would count as allocated before
        row["peak_mb"] = extra_mb(job, device)
    table = pd.DataFrame(rows, index=forms)
    for kind, candidates in jobs.items():
        seconds = time_in_turn(candidates, rounds=settings.rounds, device=device)
        table = table.join(summarise(seconds, baseline="dense").add_prefix(f"{kind}_"))
    return table


def _choice(case: Case, dtype: torch.dtype, device: torch.device) -> str:
    """The form that "auto" chooses in a training by the rules in use."""
    layer = case.build("auto")
    return "fourier" if prefers_fourier(layer, device.type, dtype, case.positions) else "dense"


def _forward_and_backward(run: Callable, f: Tensor, weights: list[Tensor], e: Tensor) -> None:
    torch.autograd.grad(run(f), [f, *weights], e)


def _rates(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """The peak rates of this machine: products of large matrices, and copies of large tensors."""
    side, length = (8192, 2**28) if device.type == "cuda" else (4096, 2**26)
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    source = torch.randn(length, device=device)
    target = torch.empty_like(source)
    # a 1x1 convolution is a matrix product too, computed by the library that convolutions use
    pixels = a.view(1, side, side, 1).to(memory_format=torch.channels_last)
    jobs = {
        "matmul": partial(torch.matmul, a, b),
        "convolution": partial(F.conv2d, pixels, b.view(side, side, 1, 1)),
        "copy": partial(target.copy_, source),
    }
    seconds = time_in_turn(jobs, rounds=10, device=device).min()
    return {
        "peak_gflops": 2 * side**3 / min(seconds["matmul"], seconds["convolution"]) / 1e9,
        "peak_gb_per_second": 2 * source.numel() * source.element_size() / seconds["copy"] / 1e9,
    }
