"""The small files that a run reads back from its own folder; one that is damaged is named and set aside."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from ebmzoo.errors import plain
from ebmzoo.reading import read_json, read_text

T = TypeVar("T")

ROWS_BYTES = 2**28
"""The largest number of bytes of a CSV file: 256 MiB."""
DAMAGED = ".damaged"
"""The ending of a file that could not be read and was set aside."""


def read_own(path: Path, build: Callable[[Any], T]) -> T | None:
    """What `build` makes of the content of a JSON file that a run has written itself.

    A file that a power cut or a full disk has left in half does not block its folder: it is renamed, one sentence says
    so, and the answer is that of a file that does not exist, which is None.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "training.json"
    ...     _ = path.write_text('{"iterations": 5')
    ...     read_own(path, lambda content: content["iterations"]), [each.name for each in path.parent.iterdir()]
    (None, ['training.json.damaged'])

    Args:
        path: The file.
        build: A function of the content, which fails with any other than that of a whole file.
    """
    try:
        return build(read_json(path))
    except OSError:
        return None
    except Exception as error:  # whatever a content of another kind leads to
        set_damaged_aside(path, f"{error}" or type(error).__name__)
        return None


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; half a row at its end, which a kill may have left, is left out."""
    text = read_text(path, ROWS_BYTES)
    return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))


def set_damaged_aside(path: Path, reason: str) -> None:
    """Rename a file that cannot be read to `<name>.damaged`, or `<name>.damaged-2`, …, and print a sentence."""
    names = (path.with_name(f"{path.name}{DAMAGED}{'' if n == 1 else f'-{n}'}") for n in count(1))
    aside = next(name for name in names if not os.path.lexists(name))
    try:
        path.rename(aside)
        done = f"it is {aside} now"
    except OSError as error:
        done = f"it stays where it is ({error.strerror})"
    print(plain(f"{path} is damaged ({reason:.120}); {done}"), file=sys.stderr)
