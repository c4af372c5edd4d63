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

NOISE = (
    "Be aware that when using `ckpt_path`",  # callbacks of a checkpoint that a command does not have
    "does not have many workers",  # data is in memory
    "exists and is not empty",
    "is smaller than the logging interval",
    "isinstance.*LeafSpec",
    "`_register_pytree_node` is deprecated",
)
"""Warnings of Lightning and torch that do not apply, as patterns."""
SILENT = (
    "Tip:",
    "Seed set to",
    "TPU available",
    "GPU available: False",
    "Restored all states",
    "Trainer already configured",
    "Loaded model weights",
)
"""Messages of Lightning that tell nothing that the command does not print itself."""


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a message of Lightning is to be shown."""
    message = record.getMessage()
    return not any(text in message for text in SILENT)


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
    """Suppress Lightning's tips, and its messages and warnings that do not apply here.

    Raises:
        UserError: Lightning reports a misconfiguration, or a chain diverges.
    """
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    for name in ("pytorch.utilities.rank_zero", "fabric.utilities.rank_zero", "fabric.utilities.seed"):
        logging.getLogger(f"lightning.{name}").addFilter(_is_news)
    for text in NOISE:
        warnings.filterwarnings("ignore", f".*{text}")
    try:
        yield
    except MisconfigurationException as error:
        raise UserError(" ".join(str(error).split())) from error
    except ChainDivergedError as error:
        raise UserError(str(error)) from error
