"""Progress bars of long work, shown on a terminal alone, and a sentence about how long it takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from tqdm import tqdm

from ebmzoo.errors import plain

T = TypeVar("T")
_WHAT: ContextVar[str] = ContextVar("what", default="")
_FORECASTS: ContextVar[bool] = ContextVar("forecasts", default=False)
LONG = 60
"""The number of seconds from which work is said to take long."""


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Name the work of the block; the bars of `tracked` inside it show the name."""
    token = _WHAT.set(what)
    try:
        yield
    finally:
        _WHAT.reset(token)


def tracked(items: Iterable[T], what: str, total: int | None = None, unit: str = "it") -> Iterable[T]:
    """Return `items` with a progress bar on the terminal, which disappears after the last item.

    Args:
        items: The items to iterate over.
        what: Name of the work, shown after that of `doing`.
        total: Number of items; None means their length, if they have one.
        unit: Name of one item, as in "12 step/s".
    """
    label = plain(f"{_WHAT.get()}: {what}" if _WHAT.get() else what)
    bar: Iterable[T] = tqdm(
        items, desc=label, total=total, unit=unit, leave=False, disable=not sys.stderr.isatty(), delay=1
    )
    count = total if total is not None else len(items) if isinstance(items, Sized) else None
    return bar if count is None or not _FORECASTS.get() else _forecasted(bar, label, count, time.monotonic)


@contextmanager
def forecasting() -> Iterator[None]:
    """Within the block, work of `tracked` that will take over `LONG` seconds says so once, on a terminal or not."""
    token = _FORECASTS.set(True)
    try:
        yield
    finally:
        _FORECASTS.reset(token)


def _forecasted(items: Iterable[T], label: str, count: int, clock: Callable[[], float]) -> Iterator[T]:
    """The items; once a second has passed, the time that all of them take, if it is long."""
    start, known = clock(), False
    for done, item in enumerate(items):
        passed = clock() - start
        if done and passed > 1 and not known:
            known = True
            left = passed / done * (count - done)
            if left > LONG and _FORECASTS.get():
                _FORECASTS.set(False)
                sentence = f"{label}: {done:,} of {count:,} took {duration(passed)}; about {duration(left)} left"
                print(sentence, file=sys.stderr)
        yield item


def duration(seconds: float) -> str:
    """A time with its unit.

    >>> duration(42), duration(150), duration(9000), duration(200_000), duration(1e9)
    ('42 s', '2.5 min', '2.5 h', '2.3 days', '31.7 years')
    """
    for unit, length in (("years", 365.25 * 86400), ("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
