"""The environment of a command: device, weights, output folder, and filtered messages of Lightning."""

from __future__ import annotations

import linecache
import logging
import os
import re
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
    "Received SIGTERM",
)
"""Messages of Lightning that tell nothing that the command does not print itself."""

MESSENGERS = (
    *("pytorch.utilities.rank_zero", "fabric.utilities.rank_zero", "fabric.utilities.seed"),
    "pytorch.trainer.connectors.signal_connector",
)
"""Lightning's modules whose loggers print such messages."""


_NO_MEMORY = "can't allocate memory"
"""What torch says where the host has no memory left."""

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z`])")


def _is_of_lightning(error: BaseException) -> bool:
    """Whether a `raise` of Lightning's own has raised an error, which then is about what it was given."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not str(trace.tb_frame.f_globals.get("__name__")).startswith("lightning."):
        return False
    return linecache.getline(trace.tb_frame.f_code.co_filename, trace.tb_lineno).lstrip().startswith("raise ")


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
        UserError: Lightning reports a misconfiguration, a chain diverges, or the memory is not enough.
    """
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    for name in MESSENGERS:
        logging.getLogger(f"lightning.{name}").addFilter(_is_news)
    for text in NOISE:
        warnings.filterwarnings("ignore", f".*{text}")
    try:
        yield
    except MisconfigurationException as error:
        raise UserError(" ".join(str(error).split())) from error
    except ChainDivergedError as error:
        raise UserError(str(error)) from error
    except MemoryError as error:
        raise UserError("the memory is not enough; make batch_size, n or the networks smaller") from error
    except (ValueError, TypeError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        sentence = " ".join(str(error).split())
        if isinstance(error, torch.OutOfMemoryError) or _NO_MEMORY in sentence:
            tried = re.search(r"[Tt]ried to allocate [\d.]+ \w+", sentence)
            reason = f" ({tried[0].lower()})" if tried else ""
            raise UserError(f"the memory is not enough{reason}; make batch_size, n or the networks smaller") from error
        if not _is_of_lightning(error):
            raise
        raise UserError(_SENTENCE.split(sentence)[0]) from error
