"""The stability maps of a study, as they are in its results folder: reading them needs no torch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from study.errors import StudyError
from study.experiments.records import results_folder

ARRAYS = (
    *("image", "mask", "unet_mean", "unet_deviation", "p4m_mean", "p4m_deviation_max"),
    *("patch", "networks", "fingerprint"),
)


def maps_path(root: Path, study: str) -> Path:
    """The path of a study's maps, below the folder that contains ``results/``."""
    return results_folder(root, study) / "stability_maps.npz"


def load_stability_maps(path: Path | str, arrays: Sequence[str] = ARRAYS) -> dict[str, np.ndarray]:
    """The arrays of :func:`study.experiments.maps.save_stability_maps`; by default those that are drawn.

    Raises:
        StudyError: if the file is missing or damaged.
    """
    try:
        with np.load(path) as file:
            return {name: file[name] for name in arrays}
    except FileNotFoundError as error:
        raise StudyError(f"no stability maps at {path}; make them with `python -m study reproduce`") from error
    except Exception as error:  # a damaged archive raises anything from EOFError to BadZipFile
        raise StudyError(f"{path} is damaged; delete it and run `python -m study reproduce` again") from error
