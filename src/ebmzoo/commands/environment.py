"""What commands run in: the device, the weights, the output folder, and a quiet Lightning."""

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


@contextmanager
def quietly() -> Iterator[None]:
    """Within it Lightning's advertisements and its advice that does not fit in-memory data are kept off the screen.

    What it and a chain say of mistakes becomes a `UserError`.
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
