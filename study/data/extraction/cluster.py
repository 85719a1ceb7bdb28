"""Extraction at scale, on Dask: one task per slide, on processes of this machine or on any cluster.

A worker that dies takes nothing with it but the slide it was at, which another one repeats; a slide that fails is tried
again, then listed, and the rest go on. Whoever runs the same extraction again finds the slides that are done.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from uuid import uuid4

import pandas as pd

from study.dask_client import dask_client, outcomes, reason
from study.data.extraction.one_slide import Task, extract_slide

RETRIES = 2
"""How often a slide that failed is tried again."""


def extract_all(
    tasks: Sequence[Task],
    folder: Path,
    *,
    workers: int,
    scheduler: str | None = None,
    done: Callable[[], object] = lambda: None,
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Extract every task's slide into ``folder``.

    Args:
        tasks: one per slide.
        folder: where the files go; on a cluster, all workers must see it, and the slides, at the same paths.
        workers: processes of this machine, if there is no scheduler; 0 does small work in this one, without Dask.
        scheduler: address of a running Dask scheduler, as in ``tcp://host:8786``.
        done: called for every slide that is finished, well or not.

    Returns:
        The manifest's rows of every slide that succeeded, and the reason for every one that did not.
    """
    rows, failed = {}, {}
    for name, outcome in _here(tasks, folder) if workers == 0 else _on_dask(tasks, folder, workers, scheduler):
        if isinstance(outcome, pd.DataFrame):
            rows[name] = outcome
        else:
            failed[name] = reason(outcome)
        done()
    return rows, failed


def _here(tasks: Sequence[Task], folder: Path) -> Iterator[tuple[str, pd.DataFrame | Exception]]:
    for task in tasks:
        try:
            yield task.name, extract_slide(task, folder)
        except Exception as error:
            yield task.name, error


def _on_dask(tasks: Sequence[Task], folder: Path, workers: int, scheduler: str | None) -> Iterator[tuple[str, object]]:
    if not tasks:
        return
    with dask_client(min(workers, len(tasks)), scheduler) as client:
        run = uuid4().hex  # keys are the scheduler's, not the client's: another extraction has slides of these names
        futures = {
            client.submit(extract_slide, t, folder, key=f"extract-{t.name}-{run}", retries=RETRIES): t.name
            for t in tasks
        }
        yield from outcomes(client, futures)
