"""The trained networks that come with the package: ``study.load_pretrained("p4m-ebhi-cancer")``.

Each is a file of safetensors in ``study/networks/weights``; a card beside it says what it is for. The file holds the
weights and, as JSON under one key of its metadata, all else: architecture, classes, scale and recipe of the training,
the trial and the data, the cases that it was tested on, and the Dice to expect. ``checksums.txt``, as
``sha256sum`` writes it, is both the list of what there is and what every load is checked against, so that nothing is
loaded that is not as it was packaged. :mod:`study.experiments.packaging` makes them.
"""

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file

from study.errors import StudyError
from study.files import require_intact
from study.networks.checkpoint import load_checkpoint, rebuild
from study.networks.network import Network

WEIGHTS = Path(__file__).with_name("weights")
"""The folder of the files, their cards and :data:`CHECKSUMS`."""

CHECKSUMS = "checksums.txt"

ABOUT = "study"
"""The key of the metadata."""


def available() -> list[str]:
    """The names of the pretrained networks.

    Raises:
        StudyError: if the list of them is missing or damaged.
    """
    return [file.removesuffix(".safetensors") for file in read_checksums(WEIGHTS)]


def load_pretrained(name: str) -> Network:
    """A pretrained network, in eval mode, in float32 on the CPU: images ``(B, 3, H, W)`` -> logits ``(B, 1, H, W)``.

    The images are prepared by :func:`study.data.patches.loading.to_input`, and show tissue at the scale that the card
    names.

    Args:
        name: one of :func:`available`.

    Raises:
        StudyError: if there is none of that name, or a file is missing or damaged.
    """
    return rebuild(read_pretrained(name), weights_file(WEIGHTS, name))


def read_pretrained(name: str) -> dict:
    """What :func:`~study.networks.checkpoint.load_checkpoint` gives of a checkpoint, and what
    :mod:`study.experiments.packaging` adds.

    Raises:
        StudyError: see :func:`load_pretrained`.
    """
    known = available()
    if name not in known:
        names = ", ".join(known) or "none in this package"
        raise StudyError(f"there is no pretrained network {name!r}; there are {names} (a checkpoint ends in .pt)")
    path = weights_file(WEIGHTS, name)
    require_intact(path, read_checksums(WEIGHTS)[path.name])
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()[ABOUT])
    return about | {"weights": load_file(path)}


def read_network(which: Path | str) -> dict:
    """The content of a checkpoint, or the pretrained network of that name.

    Raises:
        StudyError: see :func:`~study.networks.checkpoint.load_checkpoint` and :func:`load_pretrained`.
    """
    path = network_file(which)
    return load_checkpoint(path) if path == Path(which) else read_pretrained(str(which))


def network_file(which: Path | str) -> Path:
    """The file that is meant: a checkpoint, if it ends so or is there; else that of the pretrained network."""
    path = Path(which)
    return path if path.suffix == ".pt" or path.is_file() else weights_file(WEIGHTS, str(which))


def weights_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"


def read_checksums(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file in a folder of pretrained networks, by its name.

    Raises:
        StudyError: if the list of them is missing or damaged.
    """
    path = folder / CHECKSUMS
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        return {file: digest for digest, file in (line.split("  ") for line in lines if line)}
    except (OSError, ValueError) as error:  # a UnicodeDecodeError is a ValueError too
        raise StudyError(f"{path} is missing or damaged; install the package again") from error
