"""Progress bars of long work: shown on a terminal, and nowhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
_WHAT: ContextVar[str] = ContextVar("what", default="")


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
    label = f"{_WHAT.get()}: {what}" if _WHAT.get() else what
    bar: Iterable[T] = tqdm(
        items, desc=label, total=total, unit=unit, leave=False, disable=not sys.stderr.isatty(), delay=1
    )
    return bar
