"""Downloads: within a time, and for an untrusted config only into folders below the working folder."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

STALL = 60.0
"""Seconds without a byte after which a download has failed."""
_CONFINED: ContextVar[bool] = ContextVar("confined", default=False)


@contextmanager
def downloads_confined(confined: bool = True) -> Iterator[None]:
    """Within the block, if `confined`, data sets are downloaded only into folders below the working folder."""
    token = _CONFINED.set(confined or _CONFINED.get())
    try:
        yield
    finally:
        _CONFINED.reset(token)


def not_to_be_written(place: Path) -> str | None:
    """Return why nothing is downloaded into a folder, a clause for an error; None if files may be.

    >>> not_to_be_written(Path("/elsewhere"))
    >>> with downloads_confined():
    ...     not_to_be_written(Path("datasets")), not_to_be_written(Path("/elsewhere"))
    (None, "a checkpoint's config downloads only into folders below the working folder, unless --trust is given")
    """
    if _CONFINED.get() and not place.expanduser().resolve().is_relative_to(Path.cwd().resolve()):
        return "a checkpoint's config downloads only into folders below the working folder, unless --trust is given"
    found = place.iterdir() if place.is_dir() else ()
    link = next((path.name for path in found if path.is_symlink() and not path.is_dir()), None)
    return None if link is None else f"nothing is downloaded into a folder with a link, {link}"


@contextmanager
def not_stalling() -> Iterator[None]:
    """Within the block, a connection that sends nothing for `STALL` seconds ends with a `TimeoutError`."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
