"""From the checkpoint of a trial to a pretrained network that comes with the package
(:mod:`study.networks.pretrained`).

Filters are rounded to half precision, which halves the file. The Dice on the trial's test patches is computed before
and after, and a network whose Dice changes is refused.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric
from safetensors.torch import save
from torch import Tensor

from study.data.datasets.registry import find_data_set
from study.data.patches.splits import split
from study.data.patches.store import PatchStore
from study.errors import StudyError
from study.experiments.evaluation import summarise
from study.experiments.model_card import model_card
from study.experiments.records import Trial, read_record, results_folder
from study.experiments.trials import score_patches
from study.experiments.unseen import own_store
from study.files import replacing, sha256_of
from study.networks.checkpoint import load_checkpoint, rebuild
from study.networks.models import MODELS
from study.networks.pretrained import ABOUT, CHECKSUMS, read_checksums, weights_file
from study.tasks.registry import FOREGROUND, task_of_checkpoint

TOLERANCE = 0.05
"""Largest change of the Dice by the rounding, in points."""

MEASURES = ("dice", "deviation", "deviation_max", "changed")
"""The measures on a card; :mod:`study.experiments.evaluation` defines them."""

TRAINING = ("version", "torch", "hardware", "finished")
"""The provenance on a card, from the record of the trial."""


@dataclass(frozen=True)
class Packaged:
    """The file, and the Dice (a share) on the trial's test patches before the rounding and after."""

    path: Path
    before: float
    after: float


def package(checkpoint: Path, name: str, output: Path, *, root: Path, fabric: Fabric) -> Packaged:
    """Write the weights of a trial, their card and their checksum.

    Args:
        checkpoint: ``runs/<study>/<trial>/best.pt``.
        name: the name of the network.
        output: folder of the files; :data:`~study.networks.pretrained.WEIGHTS`, where they are found.
        root: the folder that contains ``results/`` and ``data/``.
        fabric: where to run the network.

    Raises:
        StudyError: if the name cannot be a file's, or is taken; the checkpoint is damaged, has no record, or was not
            trained on patches of the package, or on several classes; or the rounding moves the Dice by more than
            :data:`TOLERANCE`.
    """
    path = weights_file(output, name)
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) or name in MODELS:
        raise StudyError(f"{name!r} cannot name a pretrained network; give small letters, digits and '-', not a model")
    if path.exists():
        raise StudyError(f"{path} exists; choose another name, or delete it")
    trained = load_checkpoint(checkpoint)
    task = task_of_checkpoint(trained) or FOREGROUND
    if task.outputs > 1:
        raise StudyError(f"{checkpoint} tells {len(task.classes)} classes apart; cards are made for networks of two")
    store = own_store(trained, checkpoint, root / "data")
    trial, settings, study = Trial(**trained["trial"]), trained["settings"], checkpoint.absolute().parent.parent.name
    record = _record(results_folder(root, study) / "trials" / f"{trial.name}.json", checkpoint, trained)
    parts = split(settings.get("design", "stored"), store, trial.fraction, trial.seed)

    weights = {key: rounded(value) for key, value in trained["weights"].items()}
    scores = {}
    for precision, content in [("full", trained), ("half", trained | {"weights": weights})]:
        network = rebuild(content, checkpoint).to(fabric.device)
        patches = score_patches(network, store, parts.test, fabric, settings["batch_size"], task=task)
        scores[precision] = summarise(patches, task)
    before, after = (scores[precision]["dice"] for precision in ("full", "half"))
    if not 100 * abs(after - before) <= TOLERANCE:
        raise StudyError(
            f"{checkpoint}: half precision moves the Dice from {100 * before:.2f} to {100 * after:.2f} %, more than "
            f"{TOLERANCE} points; nothing was written, choose another trial"
        )
    data_set = find_data_set(settings["source"])
    about = {
        **{key: trained[key] for key in ("architecture", "trial", "settings", "data")},
        **{key: trained[key] for key in ("task", "mpp") if key in trained},
        "study": study,
        "classes": ["background", data_set.labels[settings["task"]].foreground],
        "patches": {
            **_count(store, np.arange(len(store))),
            **{"size": settings["size"], "original_size": data_set.card.original_size},
            "magnification": data_set.card.magnification,
        },
        "parts": {part: _count(store, places) for part, places in vars(parts).items()},
        "test_cases": sorted(set(store.case[parts.test])),
        "parameters": sum(p.numel() for p in network.parameters()),
        "expected": {key: scores["half"][key] for key in MEASURES},
        "dice_before_rounding": before,
        "training": {key: record["provenance"][key] for key in TRAINING},
    }
    _write(path, name, weights, about)
    return Packaged(path, before, after)


def rounded(value: Tensor) -> Tensor:
    """A filter in half precision; biases and the values of batch norm, which are few, unchanged."""
    return value.half() if value.ndim > 1 else value


def _record(path: Path, checkpoint: Path, trained: dict) -> dict:
    """The record of the trial that a checkpoint is of."""
    record = read_record(path)
    if record is None:
        raise StudyError(f"{path} is missing, the record of {checkpoint}; give --root, the folder that results/ is in")
    if any(record[key] != trained[key] for key in ("trial", "settings", "data")):
        raise StudyError(f"{path} is not the record of {checkpoint}; run the trial again")
    return record


def _count(store: PatchStore, places: np.ndarray) -> dict[str, int]:
    """The numbers of patches and cases at these places of a store."""
    return {"patches": len(places), "cases": len(set(store.case[places]))}


def _write(path: Path, name: str, weights: dict[str, Tensor], about: dict) -> None:
    """Write the weights last: without them the name is not taken."""
    # one key, as safetensors writes several in random order, and the file would have another checksum every time
    metadata = {ABOUT: json.dumps(about, sort_keys=True)}
    with replacing(path) as temporary:
        temporary.write_bytes(save({key: value.contiguous() for key, value in weights.items()}, metadata))
        checksums = path.with_name(CHECKSUMS)
        known = read_checksums(path.parent) if checksums.is_file() else {}
        known[path.name] = sha256_of(temporary)
        with replacing(checksums) as listing:
            listing.write_text("".join(f"{digest}  {file}\n" for file, digest in sorted(known.items())))
        with replacing(path.with_suffix(".md")) as card:
            card.write_text(model_card(name, about), encoding="utf-8")
