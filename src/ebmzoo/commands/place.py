"""A loaded method made ready, with the weights and on the device that are asked for; and a place for what it makes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, TypeVar

import torch

from ebmzoo.errors import UserError
from ebmzoo.methods import Method

M = TypeVar("M", bound=Method)


def placed(method: M, weights: Literal["ema", "raw"], device: str) -> M:
    """`method` on `device`, `auto` for a GPU where there is one, evaluating its averaged or its raw weights.

    Raises:
        UserError: the device cannot be used.
    """
    method.use_averages = weights == "ema"
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return method.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device} cannot be used: {str(error).splitlines()[0]}") from error


def writable(folder: Path) -> None:
    """Make the folder, before there is work that could not be kept.

    Raises:
        UserError: it cannot be made, or written into.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out: the folder {folder} cannot be made ({error.strerror})") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"out: the folder {folder} cannot be written into")
