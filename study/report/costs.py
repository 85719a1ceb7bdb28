"""What every network of a study costs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from study.experiments.records import READINGS
from study.networks.models import MODELS, Model
from study.report.measures import has_use_of_tta
from study.report.records import trial_rows

UPDATES = "updates"
"""The measurement of ``python -m study bench updates`` beside the records, without its suffix."""

ORIENTATIONS = 8
"""Passes through the network that test-time augmentation takes."""


def read_updates(folder: Path, records: Sequence[dict]) -> pd.DataFrame | None:
    """The times of every network of a study, measured in turn; None if they were not, or with other settings."""
    file = folder / f"{UPDATES}.csv"
    if not file.is_file():
        return None
    updates, settings = pd.read_csv(file), records[0]["settings"]
    shared = [key for key in ("width", "depth", "size", "batch_size") if key in updates]
    return updates if all(updates[key].iloc[0] == settings.get(key) for key in shared) else None


def cost_rows(records: Sequence[dict], updates: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row per model and reading: what it costs, whatever the data regime.

    Columns: ``model``, ``reading``, ``parameters``, ``multiplications`` (of the prediction of one patch; NaN where
    older records lack them), ``prediction_ms`` (of one patch; NaN without ``updates``) and ``seconds`` (of a training).

    **Seconds** are the updates of a training, which all regimes have as many of, times the time of one in ``updates``,
    where all networks took turns on one machine. Without it they are the number of epochs times the fastest epoch on
    record, of the trials on the kind of machine that most ran on: other work makes an epoch slower, and nothing makes
    it faster. Models of one network, augmented or not, have the same.
    """
    timed = None if updates is None else updates.set_index("model")
    fastest = _fastest_epochs(records) if updates is None else {}
    rows = []
    for model, group in _by_model(records).items():
        metrics, settings, prediction = group[0]["metrics"], group[0]["settings"], np.nan
        if timed is None:
            seconds = settings["epochs"] * fastest.get(MODELS[model].network, np.nan)
        elif model in timed.index:
            seconds = settings["epochs"] * settings["batches_per_epoch"] * timed.update_ms[model] / 1000
            prediction = timed.prediction_ms[model] / settings["batch_size"]
        else:
            seconds = np.nan
        for reading in READINGS:
            if reading and not has_use_of_tta(group):
                continue
            passes = ORIENTATIONS if reading else 1
            rows.append(
                {
                    "model": model,
                    "reading": reading,
                    "parameters": metrics["parameters"],
                    "multiplications": passes * metrics.get("multiplications", np.nan),
                    "prediction_ms": passes * prediction,
                    "seconds": seconds,
                }
            )
    return pd.DataFrame(rows)


def about_seconds(updates: pd.DataFrame | None) -> str:
    """How the seconds of :func:`cost_rows` were found, for a caption."""
    if updates is None:
        return (
            "Seconds: epochs times the fastest epoch on record; comparable within a factor of two if trials ran on "
            "machines of different speed (`python -m study bench updates` times all networks in turn)."
        )
    about = updates.iloc[0]
    threads = "1 thread" if about.threads == 1 else f"{about.threads} threads"
    return f"Seconds: updates times the median time of one, all networks in turn, with {threads} of {about.hardware}."


def _fastest_epochs(records: Sequence[dict]) -> dict[Model, float]:
    """Seconds of the fastest epoch of each network on the kind of machine that most trials ran on."""
    trials, fastest = trial_rows(records), {}
    machine = trials.hardware.mode()[0] if "hardware" in trials else None
    for record in records:
        if record["history"] and record["provenance"].get("hardware") == machine:
            network = MODELS[record["trial"]["model"]].network
            epochs = [row["seconds"] for row in record["history"]]
            fastest[network] = min(fastest.get(network, np.inf), *epochs)
    return fastest


def _by_model(records: Sequence[dict]) -> dict[str, list[dict]]:
    groups: dict[str, list[dict]] = {}
    for record in records:
        groups.setdefault(record["trial"]["model"], []).append(record)
    return groups
