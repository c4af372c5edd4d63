"""What long work is doing and how long it will take: bars on a terminal, nothing elsewhere."""

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
    """Name the work that the block does; the bars of `tracked` within it carry the name."""
    token = _WHAT.set(what)
    try:
        yield
    finally:
        _WHAT.reset(token)


def tracked(items: Iterable[T], what: str, total: int | None = None, unit: str = "it") -> Iterable[T]:
    """`items`, with a bar on the terminal that says what is done of them and the time left; it goes when they end."""
    named = f"{_WHAT.get()}: {what}" if _WHAT.get() else what
    bar: Iterable[T] = tqdm(
        items, desc=named, total=total, unit=unit, leave=False, disable=not sys.stderr.isatty(), delay=1
    )
    return bar
