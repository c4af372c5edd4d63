"""What stands beside training must not end it: a full disk costs a picture or a row of a table, not the run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_told: set[tuple[str, int | None]] = set()


@contextmanager
def ignore_write_errors(what: str) -> Iterator[None]:
    """Within it an error of writing files is told, once for each `what`, and the run goes on without it."""
    try:
        yield
    except OSError as error:
        if (what, error.errno) not in _told:
            _told.add((what, error.errno))
            print(f"{what}: not written ({error.strerror or error}); the run goes on", file=sys.stderr)
