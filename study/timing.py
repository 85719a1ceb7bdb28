"""Fair timings: all candidates in turn, round after round, so that a drifting machine affects all of them alike."""

import random
import time
from collections.abc import Callable

import pandas as pd
import torch

from study.memory import keep_freed_memory


def time_in_turn(
    jobs: dict[object, Callable[[], object]], *, rounds: int, device: torch.device, warm_up: int = 1
) -> pd.DataFrame:
    """The seconds of every job in every round, ``(round, job)``, after warm-up rounds.

    The order within a round is shuffled, so that no job always follows the same other job.
    """
    keep_freed_memory()
    shuffle = random.Random(0).sample
    rows = []
    for _ in range(warm_up + rounds):
        row = {}
        for name in shuffle(list(jobs), len(jobs)):
            _synchronize(device)
            start = time.perf_counter()
            jobs[name]()
            _synchronize(device)
            row[name] = time.perf_counter() - start
        rows.append(row)
    return pd.DataFrame(rows[warm_up:])[list(jobs)]


def summarise(seconds: pd.DataFrame, *, baseline: object) -> pd.DataFrame:
    """Milliseconds of each job, the ratio to the baseline in the same round, and their spread.

    Columns: ``ms``, ``ms_low``, ``ms_high``, ``ratio``, ``ratio_low``, ``ratio_high``: medians and quartiles.
    """
    columns = {}
    for name, values in [("ms", 1000 * seconds), ("ratio", seconds.div(seconds[baseline], axis=0))]:
        for suffix, quantile in [("", 0.5), ("_low", 0.25), ("_high", 0.75)]:
            columns[name + suffix] = values.quantile(quantile)
    return pd.DataFrame(columns)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
