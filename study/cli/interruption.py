"""What Ctrl-C does to a command that trains."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import typer

GRACE_SECONDS = 15
"""For what runs to come to an end after Ctrl-C."""

_INTERRUPTED = "interrupted; the same command goes on where it was"


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C is no accident: it says how to go on, and ends the process in :data:`GRACE_SECONDS` at the latest.

    An interrupt that arrives in the wrong place, as in a callback of a library, is lost, and Dask may wait for its
    workers for long. Ending at once loses nothing but the epoch that was running, and workers end with this process.
    """
    timer = threading.Timer(GRACE_SECONDS, _end)
    timer.daemon = True

    def interrupt(*_) -> None:
        if timer.ident is None:  # the first Ctrl-C
            timer.start()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt) if threading.current_thread() is threading.main_thread() else None
    try:
        yield
    except BaseException as error:
        if not _was_interrupted(error):
            raise
        print(_INTERRUPTED, file=sys.stderr)
        raise typer.Exit(130) from error
    else:
        timer.cancel()
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def _end() -> None:
    print(_INTERRUPTED, file=sys.stderr, flush=True)
    os._exit(130)


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether it began with Ctrl-C: what was just starting then, as Dask's processes, may fail over it."""
    return error is not None and (isinstance(error, KeyboardInterrupt) or _was_interrupted(error.__context__))
