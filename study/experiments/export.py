"""A trained network as files that predict without this package: plain torch, ``torch.export`` and ONNX.

What is exported is the network with its input and its output: from uint8 images, as any reader gives them, to
probabilities. Filters are expanded and batch norm is folded in, so what is left are ordinary convolutions. Batch,
height and width stay free, on the sizes that the network takes; a wrong size is an error in every format, as the two
sides of a skip connection then differ in size. Files are kept only if they give the network's probabilities on all
eight roto-reflections of an image.
"""

import json
import statistics
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from study.data.patches.loading import to_input
from study.errors import MissingPackageError, StudyError
from study.experiments.export_formats import FORMATS, Predict, quiet
from study.files import replacing, sha256_of
from study.groups import P4M
from study.networks.checkpoint import rebuild
from study.networks.deploy import deploy
from study.networks.grid import Sizes
from study.networks.network import Network
from study.networks.pretrained import network_file
from study.provenance import CODE_VERSION
from study.tasks import activation
from study.tasks.registry import task_of_checkpoint
from study.timing import time_in_turn

LIMIT = 1e-4
"""Largest difference of probabilities to the network that is taken for rounding."""

SIDE = 256
"""About the side, in pixels, of the image whose time is measured."""

CHECKPOINT = "checkpoint"
"""The network itself, prepared for inference, beside the formats."""


class Predictor(nn.Module):
    """A network with its input and its output: uint8 images ``(B, 3, H, W)`` -> probabilities ``(B, M, H, W)``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return activation.probabilities(self.network(to_input(image)))


@dataclass(frozen=True)
class Exported:
    """What was written of one format.

    Attributes:
        format: one of :data:`~study.experiments.export_formats.FORMATS`, or :data:`CHECKPOINT`.
        size: of the files, in bytes.
        side: of the image whose time is measured, in pixels.
        milliseconds: for that image, the median of several rounds, on the CPU.
        difference: the largest one of probabilities to the network's, over the eight roto-reflections of an image.
    """

    format: str
    paths: tuple[Path, ...]
    size: int
    side: int
    milliseconds: float
    difference: float


def export(
    trained: dict, which: Path | str, output: Path, formats: tuple[str, ...] = tuple(FORMATS), *, rounds: int = 5
) -> list[Exported]:
    """Write a trained network in several formats, all of them or none, each compared with the network.

    Args:
        trained: the content of the checkpoint ``which``, or of the pretrained network of that name.
        output: the folder of the files.
        formats: of :data:`~study.experiments.export_formats.FORMATS`.
        rounds: in which the time is measured.

    Returns:
        The network itself, then each format.

    Raises:
        StudyError: if a format is unknown, the network is on escnn or not for RGB images, a file cannot be written, or
            one differs from the network by more than rounding.
        MissingPackageError: if a format needs packages that are not installed.
    """
    check_formats(formats)
    network, source = rebuild(trained, which), network_file(which)
    if (channels := trained["architecture"].get("in_channels", 3)) != 3:
        raise StudyError(f"{which} takes images of {channels} channels; only networks for RGB images are exported")
    about = json.dumps(describe(trained, which, network), ensure_ascii=False)
    program = to_program(network)
    with ExitStack() as files:
        paths = {
            name: [files.enter_context(replacing(output / file)) for file in FORMATS[name].files] for name in formats
        }
        runners: dict[str, Predict] = {CHECKPOINT: torch.no_grad()(Predictor(network.prepare()))}
        for name in formats:
            FORMATS[name].write(program, about, _sentence(network), *paths[name])
            runners[name] = FORMATS[name].load(*paths[name])
        differences = {name: largest_difference(network, run) for name, run in runners.items()}
        for name, difference in differences.items():
            if not difference <= LIMIT:  # NaN too
                raise StudyError(
                    f"{which} as {name} differs from the network by {difference:.1g} in probability, more than "
                    "rounding; nothing was written"
                )
        side, times = time_of_an_image(network.sizes, runners, rounds=rounds)
        sizes = {name: sum(path.stat().st_size for path in paths.get(name, [source])) for name in runners}
    written = {name: tuple(output / file for file in FORMATS[name].files) for name in formats}
    return [
        Exported(name, written.get(name, (source,)), sizes[name], side, times[name], differences[name])
        for name in runners
    ]


def check_formats(formats: tuple[str, ...]) -> None:
    """Raise a StudyError for an unknown format, and a MissingPackageError for one whose packages are not installed."""
    for name in formats:
        if name not in FORMATS:
            raise StudyError(f"unknown format {name!r}; choose from {', '.join(FORMATS)}")
        if missing := [package for package in FORMATS[name].packages if find_spec(package) is None]:
            others = ",".join(other for other in FORMATS if not FORMATS[other].packages)
            raise MissingPackageError(
                f"the format {name} needs {', '.join(missing)}; install them by `pip install '.[export]'`, or give "
                f"--formats {others}"
            )


def to_program(network: Network) -> ExportedProgram:
    """The network as a program of torch's own operations, from uint8 images to probabilities.

    Its batch, height and width are free; a size that the network does not take is refused, and one below two periods
    too, as torch lets no size be free that may be 1 at the bottom of the network.

    Raises:
        StudyError: for a network that cannot be deployed; see :func:`~study.networks.deploy.deploy`.
    """
    sizes = network.sizes
    predictor = Predictor(deploy(network, plain=True)).eval()
    height, width = (sizes.period * Dim(name, min=2) for name in ("rows", "columns"))
    if sizes.remainder:
        height, width = height + sizes.remainder, width + sizes.remainder
    shapes = {"image": {0: Dim("batch", min=1), 2: height, 3: width}}
    example = _noise(2, *(times * sizes.period + sizes.remainder for times in (2, 3)))
    with torch.no_grad(), quiet():
        return torch.export.export(predictor, (example,), dynamic_shapes=shapes)


def describe(trained: dict, which: Path | str, network: Network) -> dict:
    """What must be known of an exported network, as plain values; None for what its checkpoint does not tell."""
    task, source = task_of_checkpoint(trained), network_file(which)
    return {
        "input": "image: RGB, uint8 (batch, 3, height, width)",
        "output": "probability: float32 (batch, channels, height, width)",
        "channels": list(task.channels) if task else None,
        "classes": list(task.classes) if task else None,
        "task": task.name if task else None,
        "threshold": task.threshold if task and task.outputs == 1 else None,
        "mpp": trained.get("mpp"),
        "period": network.sizes.period,
        "remainder": network.sizes.remainder,
        "receptive_radius": network.receptive_radius,
        "architecture": trained["architecture"],
        "checkpoint": source.name,
        "sha256": sha256_of(source),
        "version": CODE_VERSION,
        "torch": torch.__version__,
    }


@torch.no_grad()
def largest_difference(network: Network, run: Predict) -> float:
    """Of probabilities, over the eight roto-reflections of an image that is not square.

    It has smooth colours and noise, as a trained network is certain of its answer on noise alone, whatever is wrong.
    """
    original, side = Predictor(network), network.sizes.at_least(64)
    noise = _noise(1, side, side + network.sizes.period)
    smooth = nn.functional.interpolate(_noise(1, 8, 8).float(), noise.shape[2:], mode="bilinear")
    image = (0.8 * smooth + 0.2 * noise).byte()
    turned = [P4M.transform_image(image, g).contiguous() for g in range(P4M.order)]
    return max(float((run(x) - original(x)).abs().max()) for x in turned)


def time_of_an_image(sizes: Sizes, runners: dict[str, Predict], *, rounds: int) -> tuple[int, dict[str, float]]:
    """The side of the image, about :data:`SIDE`, and the milliseconds of each: medians of rounds in turn."""
    side = sizes.at_least(SIDE)
    image = _noise(1, side, side)
    jobs = {name: (lambda run=run: run(image)) for name, run in runners.items()}
    seconds = time_in_turn(jobs, rounds=rounds, device=torch.device("cpu"))
    return side, {name: 1000 * statistics.median(seconds[name]) for name in runners}


def _noise(count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def _sentence(network: Network) -> str:
    """About the module, in numbers alone: names in a checkpoint are somebody's, and must be no part of any code."""
    return f"From uint8 images (B, 3, H, W) to probabilities (B, M, H, W); H and W are multiples of {network.sizes}."
