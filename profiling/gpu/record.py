"""The record of one part, on the disk after every measurement, so that a cut costs only what was not yet measured."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ebmzoo.writing import write_whole


class Record:
    """Figures by name in a JSON file, which is written whole after each of them.

    Args:
        path: The file.
        seconds: The time of the part, counted from now; `left` says what is left of it.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.seconds = path, seconds
        self.start = time.monotonic()
        self.told: dict[str, Any] = {}

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.start + self.seconds - time.monotonic()

    def put(self, **figures: Any) -> None:
        """Add figures and write the file."""
        self.told |= figures
        write_whole(self.path, json.dumps(self.told, indent=1) + "\n")

    def add(self, key: str, name: str, value: Any) -> None:
        """Add one figure to the mapping `key`, write the file and print the figure."""
        print(f"{key}: {name}: {json.dumps(value)}", flush=True)
        self.put(**{key: self.told.get(key, {}) | {name: value}})

    @contextmanager
    def failures_of(self, key: str, name: str) -> Iterator[None]:
        """Within it an error is recorded instead of `name`, and ends no more than the block."""
        try:
            yield
        except Exception as error:  # whatever fails, what comes after it is measured
            self.add(key, name, {"failed": failure(error)})


def failure(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
