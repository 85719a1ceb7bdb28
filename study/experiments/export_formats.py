"""The formats of an exported network: how each is written, and run again as anybody without this package would."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.export import ExportedProgram

from study.networks.plain_python import to_python

ABOUT = "about"
"""The key of the metadata, one text in JSON, in every format."""

Predict = Callable[[Tensor], Tensor]
"""uint8 images ``(B, 3, H, W)`` -> probabilities ``(B, M, H, W)``."""


@dataclass(frozen=True)
class Format:
    """A way to write a program, whose input is ``image`` and whose output is ``probability``.

    Attributes:
        files: the names of its files, to which ``write``, ``load`` and ``read`` get the paths.
        write: called with the program, the metadata, a sentence about it, and the paths.
        load: gives what runs the files.
        read: gives the metadata.
        packages: those that it needs and that may not be installed.
    """

    files: tuple[str, ...]
    write: Callable[..., None]
    load: Callable[..., Predict]
    read: Callable[..., str]
    packages: tuple[str, ...] = ()


def _write_plain(program: ExportedProgram, about: str, sentence: str, source: Path, weights: Path) -> None:
    code, tensors = to_python(program, sentence)
    source.write_text(code, encoding="utf-8")
    save_file(tensors, weights, metadata={ABOUT: about})


def _load_plain(source: Path, weights: Path) -> Predict:
    names: dict = {}
    exec(compile(source.read_text(encoding="utf-8"), source.name, "exec"), names)
    network = names["Network"]()
    network.load_state_dict(load_file(weights))
    return torch.no_grad()(network.eval())


def _read_plain(source: Path, weights: Path) -> str:
    with safe_open(weights, framework="pt") as file:
        return file.metadata()[ABOUT]


def _write_program(program: ExportedProgram, about: str, sentence: str, path: Path) -> None:
    with path.open("wb") as file:  # of a path torch wants the ending .pt2
        torch.export.save(program, file, extra_files={ABOUT: about})


def _load_program(path: Path) -> Predict:
    with path.open("rb") as file:
        return torch.no_grad()(torch.export.load(file).module())


def _read_program(path: Path) -> str:
    found = {ABOUT: ""}
    with path.open("rb") as file:
        torch.export.load(file, extra_files=found)
    return found[ABOUT]


def _write_onnx(program: ExportedProgram, about: str, sentence: str, path: Path) -> None:
    with quiet():
        made = torch.onnx.export(program, dynamo=True, output_names=["probability"], verbose=False)
    for value in (*made.model.graph.inputs, *made.model.graph.outputs):
        value.shape[0], value.shape[2], value.shape[3] = "batch", "height", "width"  # torch calls them s40, 16*s30
    made.model.doc_string = sentence
    made.model.metadata_props[ABOUT] = about
    made.save(path, external_data=False)  # one file


def _load_onnx(path: Path) -> Predict:
    session = _session(path)
    return lambda images: torch.from_numpy(session.run(None, {"image": images.numpy()})[0])


def _read_onnx(path: Path) -> str:
    return _session(path).get_modelmeta().custom_metadata_map[ABOUT]


def _session(path: Path):
    import onnxruntime  # here, as it is optional

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # a size that does not fit is an exception anyway
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


FORMATS = {
    "plain": Format(("network.py", "network.safetensors"), _write_plain, _load_plain, _read_plain),
    "torch": Format(("network.pt2",), _write_program, _load_program, _read_program),
    "onnx": Format(
        ("network.onnx",), _write_onnx, _load_onnx, _read_onnx, packages=("onnx", "onnxruntime", "onnxscript")
    ),
}
"""A class of ``torch.nn`` layers and its weights; a program of ``torch.export``; and a graph for any ONNX runtime."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch says about its own steps."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
