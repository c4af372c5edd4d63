"""A loaded method made ready: the weights that are asked for, on the device that is asked for."""

from __future__ import annotations

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
