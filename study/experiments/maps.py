"""The arrays behind Fig. 2: mean and standard deviation of the foreground probability over the eight roto-reflections.

They are saved with the results, so that the figure can be drawn without the data or the networks.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, default_collate

from study.data.patches.loading import PatchDataset, to_input
from study.data.patches.store import PatchStore
from study.errors import StudyError
from study.experiments.saved_maps import ARRAYS, load_stability_maps, maps_path
from study.experiments.unseen import own_store, unseen_patches
from study.files import replacing
from study.networks.checkpoint import load_checkpoint, load_model, rebuild
from study.networks.pretrained import available, read_pretrained
from study.tasks.registry import FOREGROUND, task_of_checkpoint
from study.tasks.stability import stability
from study.tasks.task import Task

PERCENTILES = (50, 75, 95)
"""The patches that are shown: at these percentiles of the U-Net's deviation, so that nobody chooses them by eye."""

CANDIDATES = 256
"""Largest number of test patches that they are taken from."""


def save_stability_maps(
    path: Path,
    store: PatchStore,
    indices: np.ndarray,
    *,
    unet: Path,
    p4m: Path,
    device: torch.device,
    task: Task = FOREGROUND,
) -> None:
    """Compute and save the maps of a trained U-Net and P4M U-Net: those of :func:`stability_maps`, which
    ``networks`` they are of, a hash of their ``weights``, and the ``fingerprint`` of the data.

    Args:
        path: the ``.npz`` file to write.
        store, indices, device, task: see :func:`stability_maps`.
        unet, p4m: checkpoints.
    """
    networks = {"unet": load_model(unet), "p4m": load_model(p4m)}
    arrays = stability_maps(store, indices, **networks, device=device, task=task) | {
        "networks": np.array(_names(unet, p4m)),
        "weights": np.array(_hash_weights(unet, p4m)),
        "fingerprint": np.array(store.fingerprint),
    }
    _save(path, arrays)


def stability_maps(
    store: PatchStore,
    indices: np.ndarray,
    *,
    unet: nn.Module,
    p4m: nn.Module,
    device: torch.device,
    task: Task = FOREGROUND,
    candidates: int = CANDIDATES,
) -> dict[str, np.ndarray]:
    """The maps of a U-Net and a P4M U-Net, on the patches at the :data:`PERCENTILES` of the U-Net's deviation.

    Args:
        store: the patches.
        indices: places of patches that neither network has seen.
        unet, p4m: the networks, in eval mode.
        device: where to run them.
        task: of both. Of several classes, the mean is of all but the background together, and the deviation is of the
            class whose probability varies most.
        candidates: largest number of patches that they are taken from.

    Returns:
        ``image`` uint8 ``(P, H, W, 3)``, ``mask`` uint8, ``unet_mean``, ``unet_deviation`` and ``p4m_mean`` float32,
        each ``(P, H, W)``, ``p4m_deviation_max`` float ``(P,)``, and ``patch`` int ``(P,)`` (place in the store).
    """
    if len(indices) > candidates:  # spread evenly, since the store is in the order of the slides
        indices = indices[np.linspace(0, len(indices) - 1, candidates).astype(int)]
    dataset = PatchDataset(store, indices)
    views = {
        name: _stabilities(network.to(device), dataset, device, task)
        for name, network in [("unet", unet), ("p4m", p4m)]
    }
    deviations = views["unet"]["deviation"].mean(axis=(1, 2))
    chosen = [int(np.argsort(deviations)[round(p / 100 * (len(deviations) - 1))]) for p in PERCENTILES]
    images, masks = default_collate([dataset[i] for i in chosen])
    return {
        "image": images.permute(0, 2, 3, 1).numpy(),  # (P, H, W, 3)
        "mask": masks[:, 0].numpy(),
        "unet_mean": views["unet"]["mean"][chosen],
        "unet_deviation": views["unet"]["deviation"][chosen],
        "p4m_mean": views["p4m"]["mean"][chosen],
        "p4m_deviation_max": views["p4m"]["deviation"][chosen].max(axis=(1, 2)),
        "patch": indices[chosen],
    }


def pretrained_maps(study: str, folder: Path, candidates: int = 32) -> dict[str, np.ndarray] | None:
    """The maps of the networks of a study that come with the package, computed on patches that neither has seen.

    Args:
        study: the name of the study; its networks are ``unet-<study>`` and ``p4m-<study>``.
        folder: folder of the patch store.
        candidates: largest number of patches.

    Returns:
        The arrays of :func:`stability_maps`, their ``networks``, and the ``fingerprint`` of the data; None if the
        package lacks one.

    Raises:
        StudyError: if a file of the package is damaged.
    """
    names = [f"unet-{study}", f"p4m-{study}"]
    if not set(names) <= set(available()):
        return None
    trained = {name: read_pretrained(name) for name in names}
    store = own_store(trained[names[0]], names[0], folder)
    unseen = np.intersect1d(*(unseen_patches(one, store) for one in trained.values()))
    if len(unseen) == 0:
        raise StudyError(f"there is no patch that neither {' nor '.join(names)} has seen")
    unet, p4m = (rebuild(one, name) for name, one in trained.items())
    about = {"device": torch.device("cpu"), "task": task_of_checkpoint(trained[names[0]]) or FOREGROUND}
    maps = stability_maps(store, unseen, unet=unet, p4m=p4m, candidates=candidates, **about)
    return maps | {"networks": np.array(" and ".join(names)), "fingerprint": np.array(store.fingerprint)}


def save_pretrained_maps(root: Path, study: str) -> None:
    """Save :func:`pretrained_maps` of a study that has results below ``root`` and no maps, as while its trials go on.

    Raises:
        StudyError: if a file of the package is damaged.
    """
    path = maps_path(root, study)
    if path.parent.is_dir() and not path.is_file():
        maps = pretrained_maps(study, root / "data", CANDIDATES)
        if maps:
            _save(path, maps)


def _save(path: Path, maps: dict[str, np.ndarray]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **maps)


def are_maps_of(path: Path, store: PatchStore, *, unet: Path, p4m: Path) -> bool:
    """Whether the file at ``path`` has readable maps of these networks and this data."""
    wanted = {
        "networks": _names(unet, p4m),
        "weights": _hash_weights(unet, p4m),
        "fingerprint": store.fingerprint,
    }
    try:
        maps = load_stability_maps(path, (*ARRAYS, "weights"))
    except StudyError:  # missing, damaged or of older code: they can be made again
        return False
    return all(maps[name] == value for name, value in wanted.items())


def _names(unet: Path, p4m: Path) -> str:
    return f"{unet.parent.name} and {p4m.parent.name}"


def _hash_weights(*checkpoints: Path) -> str:
    digest = hashlib.sha256()
    for path in checkpoints:
        for name, tensor in load_checkpoint(path)["weights"].items():
            digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()[:16]


def _stabilities(network, dataset: PatchDataset, device: torch.device, task: Task) -> dict[str, np.ndarray]:
    """``mean`` and ``deviation`` of every patch, ``(N, H, W)``."""
    means, deviations = [], []
    for images, _ in DataLoader(dataset, batch_size=16):
        views = stability(network, to_input(images.to(device)), task)
        means.append(task.foreground_of(views.mean).sum(dim=1).cpu().numpy())
        deviations.append(views.largest_deviation[:, 0].cpu().numpy())
    return {"mean": np.concatenate(means), "deviation": np.concatenate(deviations)}
