"""Extraction at scale, on Dask: one task per slide, on processes of this machine or on any cluster.

A worker that dies takes nothing with it but the slide it was at, which another one repeats; a slide that fails is tried
again, then listed, and the rest go on. Whoever runs the same extraction again finds the slides that are done.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import dask
import pandas as pd
from distributed import Client, LocalCluster, as_completed

from study.data.extract import Task, extract_slide
from study.errors import StudyError

CONNECT_SECONDS = 20
"""To wait for a scheduler."""

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
            failed[name] = _reason(outcome)
        done()
    return rows, failed


def _here(tasks: Sequence[Task], folder: Path) -> Iterator[tuple[str, pd.DataFrame | Exception]]:
    for task in tasks:
        try:
            yield task.name, extract_slide(task, folder)
        except Exception as error:
            yield task.name, error


def _on_dask(
    tasks: Sequence[Task], folder: Path, workers: int, scheduler: str | None
) -> Iterator[tuple[str, pd.DataFrame | BaseException]]:
    if not tasks:
        return
    with dask_client(min(workers, len(tasks)), scheduler) as client:
        run = uuid4().hex  # keys are the scheduler's, not the client's: another extraction has slides of these names
        futures = {
            client.submit(extract_slide, t, folder, key=f"extract-{t.name}-{run}", retries=RETRIES): t.name
            for t in tasks
        }
        for future in as_completed(futures, loop=client.loop):
            if future.status == "cancelled":
                yield (
                    futures[future],
                    StudyError("the Dask scheduler is gone; start it and run this again, it goes on"),
                )
            else:
                yield futures[future], future.result() if future.status == "finished" else future.exception()
            future.release()


@contextmanager
def dask_client(workers: int, scheduler: str | None = None) -> Iterator[Client]:
    """A client of ``workers`` processes of this machine, or of a running scheduler.

    Raises:
        StudyError: if no scheduler answers.
    """
    if scheduler is not None:
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what goes wrong is said in one line
        try:
            client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            remedy = "check the address, as in tcp://host:8786"
            raise StudyError(f"no Dask scheduler answers at {scheduler}; {remedy}") from error
        with client:
            yield client
        return
    settings = {
        "distributed.scheduler.allowed-failures": 10,  # a slide may see many workers die before it is to blame
        "distributed.comm.timeouts.connect": "60s",  # on a busy machine a process is slow to answer
        # Dask has every free megabyte go back to the system at once; tiles and patches want it again at once
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 2**28,
        "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 2**28,
        "distributed.worker.memory.terminate": False,
        "distributed.worker.memory.pause": False,
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",  # any free port, and not to be seen from elsewhere
            memory_limit=0,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def _reason(error: BaseException) -> str:
    """Why a slide failed, in one line."""
    if isinstance(error, StudyError):
        return str(error)
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200] if text else 'no message'}"
