"""Errors of writing must not end a training run: a full disk costs a picture or a row of a table, not the run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_reported: set[tuple[str, int | None]] = set()


@contextmanager
def ignore_write_errors(what: str) -> Iterator[None]:
    """Within the block, report a write error, once for each `what`, and continue without the file."""
    try:
        yield
    except OSError as error:
        if (what, error.errno) not in _reported:
            _reported.add((what, error.errno))
            print(f"{what}: not written ({error.strerror or error}); the run continues", file=sys.stderr)
