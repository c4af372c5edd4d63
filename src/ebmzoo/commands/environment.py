"""The environment of a command: device, weights, output folder, and filtered messages of Lightning."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeVar

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from ebmzoo.errors import UserError
from ebmzoo.methods import Method
from ebmzoo.sampling.langevin import ChainDivergedError

M = TypeVar("M", bound=Method)


def placed(method: M, weights: Literal["ema", "raw"], device: str) -> M:
    """`method` moved to `device` (`auto`: a GPU if there is one) and set to evaluate its averaged or raw weights.

    Raises:
        UserError: The device cannot be used.
    """
    method.use_averages = weights == "ema"
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return method.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device} cannot be used: {str(error).splitlines()[0]}") from error


def writable(folder: Path) -> None:
    """Create the folder, before any work whose results could not be saved.

    Raises:
        UserError: It cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out: the folder {folder} cannot be created ({error.strerror})") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"out: the folder {folder} cannot be written to")


@contextmanager
def quietly() -> Iterator[None]:
    """Suppress Lightning's tips and its warnings that do not apply to in-memory data.

    Raises:
        UserError: Lightning reports a misconfiguration, or a chain diverges.
    """
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )
    for text in (".*does not have many workers.*", ".*exists and is not empty.*", ".*isinstance.*LeafSpec.*"):
        warnings.filterwarnings("ignore", text)
    try:
        yield
    except MisconfigurationException as error:
        raise UserError(" ".join(str(error).split())) from error
    except ChainDivergedError as error:
        raise UserError(str(error)) from error
