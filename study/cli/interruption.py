"""Ctrl-C, or a scheduler's SIGTERM, in a command that takes long and can be continued."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import typer

GRACE_SECONDS = 15
"""Time that running work has to end after the signal."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_INTERRUPTED = "interrupted; run the same command again to continue"


@contextmanager
def interruptible() -> Iterator[None]:
    """Treat these signals as a request: print how to continue, and end the process within :data:`GRACE_SECONDS`.

    The exit code is 128 and the signal's number, as shells have it: 130 after SIGINT, 143 after SIGTERM.

    An interrupt that arrives in the wrong place, as in a callback of a library, is lost, and Dask may wait for its
    workers for long. Ending at once loses nothing but the epoch that was running, and workers end with this process.
    """
    received = []

    def end() -> None:
        sys.stdout.flush()
        print(_INTERRUPTED, file=sys.stderr, flush=True)
        os._exit(128 + received[0])

    timer = threading.Timer(GRACE_SECONDS, end)
    timer.daemon = True

    def interrupt(number: int, _) -> None:
        received.append(number)
        if len(received) == 1:
            timer.start()
        raise KeyboardInterrupt

    in_charge = threading.current_thread() is threading.main_thread()  # only that one may say so
    before = {number: signal.signal(number, interrupt) for number in SIGNALS} if in_charge else {}
    try:
        yield
    except BaseException as error:
        if received:  # whatever the error is: work that was starting, such as Dask's processes, fails in many ways
            end()  # at once: what libraries do at the exit of a process has other ideas about its code and its output
        if not isinstance(error, KeyboardInterrupt):
            raise
        print(_INTERRUPTED, file=sys.stderr)
        raise typer.Exit(128 + signal.SIGINT) from error
    else:
        timer.cancel()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
