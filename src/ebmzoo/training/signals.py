"""Stopping a command on SIGTERM and SIGINT (Ctrl-C) with one sentence, and with the process that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

PARENT = "EBMZOO_PARENT"
"""The variable with the number of the process that a command belongs to, and with which it ends."""

GRACE = 30.0
"""Seconds that a command has for its checkpoint before it is killed."""

_PR_SET_PDEATHSIG = 1
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(SystemExit):
    """A signal has ended the command; the exit code is 128 plus its number.

    >>> str(Stopped(signal.SIGTERM)), Stopped(signal.SIGTERM).code
    ('stopped by SIGTERM', 143)
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)

    def __str__(self) -> str:
        return f"stopped by {self.signal.name}"


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Within the block the signals raise `Stopped` wherever the main thread is, unless the process has handlers.

    Lightning's own handler only takes note of SIGTERM, which `test` and `predict` would look at when all is done; it
    calls the handler that it finds.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    ours = {n: handler for n, handler in before.items() if handler in (signal.SIG_DFL, signal.default_int_handler)}
    for number in ours:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


def end_with_parent() -> None:
    """Let this process end, by SIGTERM, when the one that `PARENT` names ends; without that variable, do nothing.

    Linux sends the signal itself. Everywhere a thread looks after the parent too, and kills what has not ended within
    `GRACE` seconds of its death.
    """
    parent = os.environ.pop(PARENT, "")  # not for this process's own children
    if not parent.isdigit() or os.name != "posix":
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it has ended before this
        raise Stopped(signal.SIGTERM)
    threading.Thread(target=_look_after, args=(int(parent),), name="parent", daemon=True).start()


def _look_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    if sys.platform != "linux":
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)
