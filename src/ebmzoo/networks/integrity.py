"""Whether a file of weights is as it was written, and whether its numbers are finite."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor

from ebmzoo.errors import UserError


def damage(path: str | Path) -> str | None:
    """What is wrong with the bytes of a file that torch wrote; None if all match their checksums.

    Every byte is read, once for all calls while the file does not change.
    """
    try:
        status = Path(path).stat()
    except OSError as error:
        return error.strerror or str(error)
    return _damage(str(Path(path).absolute()), status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=64)
def _damage(path: str, *stamp: int) -> str | None:
    try:
        with ZipFile(path) as file:
            wrong = file.testzip()
    except (OSError, BadZipFile, ValueError, NotImplementedError) as error:
        return str(error)
    return None if wrong is None else f"its part {wrong} does not match its checksum"


def not_finite(state: Mapping[str, Any]) -> str | None:
    """The name of the first tensor of a state_dict that holds NaN or infinity; None if there is none."""
    for name, value in state.items():
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            return name
    return None


def check_finite(state: Mapping[str, Any], path: object) -> None:
    """Check the weights of a file.

    >>> import torch
    >>> check_finite({"net.weight": torch.tensor([0.0, torch.nan])}, "last.ckpt")
    Traceback (most recent call last):
    ...
    ebmzoo.errors.UserError: last.ckpt holds NaN or infinity in net.weight, so that nothing can be computed with it

    Raises:
        UserError: A tensor holds NaN or infinity.
    """
    if (name := not_finite(state)) is not None:
        raise UserError(f"{path} holds NaN or infinity in {name}, so that nothing can be computed with it")
