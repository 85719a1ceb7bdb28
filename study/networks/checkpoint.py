"""Trained networks on disk: written, read, and built again."""

import io
import zipfile
from pathlib import Path

import torch

from study.errors import MissingPackageError, StudyError
from study.files import replacing
from study.networks.network import Architecture, Network
from study.networks.registry import from_values, to_values


def save_checkpoint(path: Path | str, architecture: Architecture, weights: dict, **provenance) -> None:
    """Write a checkpoint that :func:`load_model` can rebuild the network from."""
    save_tensors(path, {"architecture": to_values(architecture), "weights": weights, **provenance})


def save_tensors(path: Path | str, content: dict) -> None:
    """``torch.save`` that replaces ``path`` as a whole, and reports a full disk as such.

    Raises:
        StudyError: see :func:`~study.files.replacing`.
    """
    buffer = io.BytesIO()  # writing through torch would turn a full disk into an unrelated error
    torch.save(content, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_tensors(path: Path | str) -> dict:
    """What :func:`save_tensors` wrote, on the CPU; only tensors and plain values are ever unpickled.

    ``torch.save`` writes a ZIP archive, whose CRC-32 of every entry ``torch.load`` does not look at: a flipped bit
    would be another weight. Here they are verified, also those of files from before this was so.

    Raises:
        OSError: if the file cannot be read.
        Exception: of any kind, if it is damaged or is something else.
    """
    content = io.BytesIO(Path(path).read_bytes())  # once, so that what is loaded is what was verified
    with zipfile.ZipFile(content) as archive:
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
    content.seek(0)
    return torch.load(content, map_location="cpu", weights_only=True)


def load_checkpoint(path: Path | str) -> dict:
    """The content of a checkpoint, on the CPU; only tensors and plain values are ever unpickled.

    Raises:
        StudyError: if the file is missing, damaged (by the checksums in it), or is not a checkpoint.
    """
    if not Path(path).is_file():
        raise StudyError(f"no checkpoint at {path}; train one with `python -m study train`")
    try:
        checkpoint = load_tensors(path)
        checkpoint["architecture"], checkpoint["weights"]
    except Exception as error:  # torch raises anything from EOFError to UnpicklingError on a damaged file
        raise StudyError(f"{path} is damaged or not a checkpoint of this study; train it again") from error
    return checkpoint


def load_model(path: Path | str) -> Network:
    """The trained network of a checkpoint, on the CPU in eval mode: images ``(B, 3, H, W)`` -> logits ``(B, M, H, W)``.

    The images are prepared by :func:`study.data.patches.loading.to_input`.

    Raises:
        StudyError: if the file is missing or is not a checkpoint, or is on escnn and that is not installed.
    """
    return rebuild(load_checkpoint(path), path)


def rebuild(checkpoint: dict, path: Path | str) -> Network:
    """The network of a checkpoint that was loaded from ``path``; see :func:`load_model`."""
    try:
        network = from_values(checkpoint["architecture"]).build()
        network.load_state_dict(checkpoint["weights"])
    except MissingPackageError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise StudyError(f"{path} does not fit the network it names; train it again") from error
    return network.eval()
