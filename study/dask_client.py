"""Work on Dask: on processes of this machine, or on any cluster."""

import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from typing import TypeVar

import dask
from distributed import Client, Future, KilledWorker, LocalCluster, WorkerPlugin, as_completed

from study.errors import StudyError, one_line

CONNECT_SECONDS = 20
"""To wait for a scheduler."""

SILENT = logging.CRITICAL + 1
"""Level of Dask's logs: its scheduler calls it critical when an event finds a client that Ctrl-C has closed."""

Task = TypeVar("Task")


class SchedulerGone(StudyError):
    """Nobody runs the tasks any more."""


@contextmanager
def dask_client(workers: int, scheduler: str | None = None) -> Iterator[Client]:
    """A client of ``workers`` processes of this machine, or of a running scheduler.

    The processes of this machine have one thread each, and end with this one, however it ends.

    Raises:
        StudyError: if no scheduler answers.
    """
    for logger in ("distributed", "distributed.client"):
        logging.getLogger(logger).setLevel(SILENT)  # what goes wrong is said in one line
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            remedy = "check the address, as in tcp://host:8786"
            raise StudyError(f"no Dask scheduler answers at {scheduler}; {remedy}") from error
        with client:
            yield client
        return
    settings = {
        "distributed.scheduler.allowed-failures": 10,  # a task may see many workers die before it is to blame
        "distributed.scheduler.worker-saturation": 1.0,  # what is not begun waits here, not with a worker
        "distributed.comm.timeouts.connect": "60s",  # on a busy machine a process is slow to answer
        # Dask has every free megabyte go back to the system at once; tiles and patches want it again at once
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 2**28,
        "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 2**28,
        # before torch is loaded; Dask sets them too, unless its configuration on this machine says otherwise
        "distributed.nanny.pre-spawn-environ.OMP_NUM_THREADS": 1,
        "distributed.nanny.pre-spawn-environ.MKL_NUM_THREADS": 1,
        "distributed.worker.memory.terminate": False,
        "distributed.worker.memory.pause": False,
    }
    with dask.config.set(settings), ExitStack() as stack:
        with deaf_to_interrupts():
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address="127.0.0.1:0",  # any free port, and not to be seen from elsewhere
                memory_limit=0,
                silence_logs=SILENT,
            )
            stack.enter_context(cluster)
            client = stack.enter_context(Client(cluster, set_as_default=False))
            client.register_plugin(_Deaf())
        yield client


def outcomes(client: Client, futures: Mapping[Future, Task]) -> Iterator[tuple[Task, object]]:
    """What became of every task, as they are done: its result, or the exception that it ended with."""
    for future in as_completed(futures, loop=client.loop):
        if future.status == "cancelled":
            outcome = SchedulerGone("the Dask scheduler is gone; start it and run this again, it goes on")
        else:
            outcome = future.result() if future.status == "finished" else future.exception()
        yield futures[future], outcome
        future.release()


def reason(error: BaseException) -> str:
    """Why a task failed, in one line."""
    if isinstance(error, KilledWorker):
        return "its process was killed again and again, for want of memory perhaps; give fewer workers"
    if isinstance(error, StudyError):
        return one_line(error)
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200] if text else 'no message'}"


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Ctrl-C goes to every process of a terminal. What starts in this block never hears of it, nor is its start cut.

    This process hears of it when the block ends.
    """
    if threading.current_thread() is not threading.main_thread():  # only that one may say so
        yield
        return
    resource_tracker.ensure_running()  # where it starts later, Python unblocks the signal in the middle of this
    heard = []
    before = signal.signal(signal.SIGINT, lambda *signalled: heard.append(signalled))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # threads and processes inherit that
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        signal.signal(signal.SIGINT, before)
        if heard and callable(before):  # also where the start failed, which may be why
            before(*heard[0])


class _Deaf(WorkerPlugin):
    """The same for the processes that take the places of those that died."""

    def setup(self, worker) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
