"""Ctrl-C in a command that trains."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import typer

GRACE_SECONDS = 15
"""Time that running work has to end after Ctrl-C."""

_INTERRUPTED = "interrupted; run the same command again to continue"


@contextmanager
def interruptible() -> Iterator[None]:
    """Treat Ctrl-C as a request: print how to continue, and end the process within :data:`GRACE_SECONDS`.

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
    """Whether Ctrl-C caused an error: work that was starting, such as Dask's processes, may fail because of it."""
    return error is not None and (isinstance(error, KeyboardInterrupt) or _was_interrupted(error.__context__))
