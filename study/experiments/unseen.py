"""The patches to test a trained network on: of those that come with the package, those that it has not seen."""

from pathlib import Path

import numpy as np

from study.data.datasets.registry import DATA_SETS, data_set_of, open_data, prepare
from study.data.patches.splits import split
from study.data.patches.store import PatchStore
from study.errors import StudyError


def given_store(trained: dict, data: Path, folder: Path) -> PatchStore:
    """The patches at ``--data``, as the study that a network is from would take them.

    A patch store may be of any size. Of the folder of the study's data set a store is made, of the size and for the
    task that the network was trained for.

    Args:
        trained: of :func:`~study.networks.pretrained.read_network`.
        data: the folder of the data set, or a patch store.
        folder: folder of the stores that are made.

    Raises:
        StudyError: see :func:`~study.data.datasets.registry.open_data`.
    """
    settings = trained.get("settings", {})
    if settings.get("source") not in DATA_SETS:  # nothing is known of its study
        return PatchStore(data)
    size, task = settings["size"], settings.get("task", "")
    return open_data(settings["source"], data, folder=folder, size=size, task=task)


def own_store(trained: dict, which: Path | str, folder: Path) -> PatchStore:
    """The patches that a network was trained and tested on, from those that come with the package.

    Args:
        trained: of :func:`~study.networks.pretrained.read_network`.
        which: the name of the network in errors.
        folder: folder of the store.

    Raises:
        StudyError: if it was trained on other patches.
    """
    settings = trained.get("settings", {})
    data_set = DATA_SETS.get(settings.get("source"))
    if data_set is None or not data_set.packaged:
        raise StudyError(f"{which} was not trained on patches of this package; `evaluate` takes others by --data PATH")
    size, task = settings["size"], settings.get("task", "")
    store = prepare(data_set.name, data=None, folder=folder, size=size, count=0, task=task)
    if "test_cases" not in trained and store.fingerprint != trained["data"]["fingerprint"]:
        raise StudyError(
            f"{which} was trained on other patches ({trained['data']['fingerprint']}) than those of this package "
            f"({store.fingerprint}); `evaluate` takes others by --data PATH"
        )
    return store


def unseen_patches(trained: dict, store: PatchStore) -> np.ndarray:
    """The places in a store of the patches to test a network on.

    Of the patients that a pretrained network was tested on, if the store is of the same data set, at whatever size; of
    those of its trial, if that had a split of its own of this very store; or else as the store says.

    Args:
        trained: of :func:`~study.networks.pretrained.read_network`.

    Raises:
        StudyError: if there are none, or nobody can tell which they are.
    """
    settings, trial, data = (trained.get(key, {}) for key in ("settings", "trial", "data"))
    if "test_cases" in trained and _data_set(store.source) == _data_set(data["source"]):
        found = np.flatnonzero(np.isin(store.case, trained["test_cases"]))
        if len(found) == 0:
            raise StudyError(f"{store.path} has none of the patients that the network was tested on; give all patches")
        return found
    if settings.get("design") == "folds":
        if data["fingerprint"] == store.fingerprint:
            return split("folds", store, trial["fraction"], trial["seed"]).test
        if _data_set(store.source) == _data_set(data["source"]):
            raise StudyError(
                f"{store.path} shows patients that the network may have been trained on; evaluate it on the patches of "
                f"its study ({data['fingerprint']})"
            )
    return store.indices("test")


def _data_set(source: str) -> str:
    """The name of a data set, whatever the task; the source itself, if it is of none."""
    data_set = data_set_of(source)
    return source if data_set is None else data_set.name
