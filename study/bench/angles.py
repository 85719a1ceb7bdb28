"""How trained networks answer to turns of the slide by any angle, not only by 90 degrees.

No pixel grid turns by 45 degrees exactly. P8 and P8M turn by 45 degrees nevertheless: their filters turn well, because
they are band-limited, but their poolings do not. This measures how much equivariance is left.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from study.data.datasets.registry import prepare
from study.data.patches.loading import PatchDataset, to_input
from study.equivariance import rotate
from study.errors import StudyError
from study.experiments.unseen import unseen_patches
from study.networks.checkpoint import load_checkpoint, rebuild
from study.provenance import provenance
from study.tasks import activation

ANGLES = tuple(7.5 * step for step in range(13))
MODELS = ("unet", "unet-aug", "p4", "p4m", "p8-escnn", "p8m-escnn")


def measure_study(study: str, data: Path, *, count: int, root: Path) -> pd.DataFrame:
    """:func:`measure` of the networks of a study that were trained on all data, seed 0, on ``count`` test patches.

    Args:
        study: the name of the study.
        data: the data that it was trained on.
        count: the largest number of patches.
        root: the folder that contains ``runs`` and ``data``.

    Returns:
        The rows, with the study, the number of patches, the data and the provenance.

    Raises:
        StudyError: if there are no networks, or they were trained on other data.
    """
    folders = {model: root / "runs" / study / f"{model}-100-0" for model in MODELS}
    files = {model: folder / "best.pt" for model, folder in folders.items() if (folder / "best.pt").is_file()}
    if not files:
        raise StudyError(f"no networks in {root / 'runs' / study}; train some with `python -m study reproduce`")
    checkpoints = {model: load_checkpoint(file) for model, file in files.items()}
    settings = next(iter(checkpoints.values()))["settings"]
    store = prepare(
        settings["source"],
        data=data,
        folder=root / "data",
        size=settings["size"],
        count=settings["patches"],
        task=settings.get("task", "glands"),  # networks of older records do not name it
    )
    for model, checkpoint in checkpoints.items():
        if checkpoint["data"]["fingerprint"] != store.fingerprint:
            raise StudyError(f"{files[model]} was trained on other data than {data}; give the data of {study}")
    unseen = unseen_patches(next(iter(checkpoints.values())), store)
    dataset = PatchDataset(store, spread_evenly(unseen, count))
    images = to_input(torch.stack([dataset[i][0] for i in range(len(dataset))]))
    networks = {model: rebuild(checkpoint, files[model]) for model, checkpoint in checkpoints.items()}
    return measure(networks, images).assign(
        study=study,
        patches=len(images),
        source=store.source,
        fingerprint=store.fingerprint,
        **provenance(images.device),
    )


def measure(networks: dict[str, nn.Module], images: Tensor) -> pd.DataFrame:
    """One row per network and angle: ``model``, ``degrees``, ``difference`` and ``changed``.

    Args:
        networks: in eval mode, by the names of their models.
        images: as networks take them, ``(B, 3, H, W)``, square.

    The foreground probability of a patch that is turned before the network is compared with that of one that is turned
    after it: ``difference`` is the mean over all pixels, ``changed`` the flip rate. Only the disc of half the patch's
    side counts, so that the empty corners of a turned patch are far away.
    """
    rows = []
    for model, network in networks.items():
        for degrees in ANGLES:
            behind, before = turned_both_ways(network, images, degrees)
            changed = (behind > 0.5) != (before > 0.5)
            errors = {"difference": (behind - before).abs().mean(), "changed": changed.float().mean()}
            rows.append({"model": model, "degrees": degrees, **{key: float(value) for key, value in errors.items()}})
    return pd.DataFrame(rows)


def spread_evenly(indices: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` of the ``indices``, evenly spaced: the patches of a case are neighbours in a store."""
    return indices[np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int)]


@torch.no_grad()
def turned_both_ways(network: nn.Module, images: Tensor, degrees: float) -> tuple[Tensor, Tensor]:
    """Foreground probabilities in the disc, ``(B, 1, pixels)``: turned after the network, and before it."""
    side = torch.linspace(-1, 1, images.shape[-1], device=images.device)
    disc = side[:, None] ** 2 + side[None] ** 2 <= 0.25
    behind, before = [], []
    for batch in images.split(16):
        behind.append(rotate(_foreground(network(batch)), degrees)[..., disc])
        before.append(_foreground(network(rotate(batch, degrees)))[..., disc])
    return torch.cat(behind), torch.cat(before)


def _foreground(logits: Tensor) -> Tensor:
    """The probability of all classes but the background: ``(B, M, H, W)`` -> ``(B, 1, H, W)``."""
    probabilities = activation.probabilities(logits)
    return probabilities if probabilities.shape[1] == 1 else 1 - probabilities[:, :1]
