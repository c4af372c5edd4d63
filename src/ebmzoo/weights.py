"""The one place where a file that torch wrote is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from ebmzoo.errors import UserError

NAMED = re.compile(r"(?:GLOBAL|global|class) (?:`?)([\w.]+)")


def read_weights(path: str | Path) -> Any:
    """What is in the file, tensors on the CPU: plain values and tensors only, so no code of the file is run.

    Raises:
        UserError: the file cannot be read, is no such file or a damaged one, or holds something that would run code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # zip, pickle and torch each raise their own
        named = NAMED.search(str(error)) if "Weights only load failed" in str(error) else None
        if named is not None:
            raise UserError(
                f"{path} is refused: it holds a {named[1]} and not only tensors and numbers, and reading that could "
                "run code of whoever wrote the file"
            ) from error
        if isinstance(error, OSError) and error.strerror and not Path(path).is_file():
            raise UserError(f"{path}: {error.strerror}") from error
        raise UserError(f"{path} is not a readable checkpoint ({type(error).__name__})") from error
