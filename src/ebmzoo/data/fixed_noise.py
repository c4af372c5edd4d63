"""Noise that an image's score is computed with, the same for every image, device and call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch
from torch import Tensor

_REMEMBERED: ContextVar[dict[tuple[str, tuple[int, ...], int], Tensor] | None] = ContextVar("noise", default=None)


def fixed_noise(kind: Literal["normal", "uniform"], shape: tuple[int, ...], seed: int) -> Tensor:
    """ε ~ N(0, I) or U(0, 1) of that seed, the same on every device and at every call, as it is drawn on the CPU.

    It is not to be changed: within `remembering_noise` all calls return one tensor.
    """
    remembered, key = _REMEMBERED.get(), (kind, shape, seed)
    if remembered is not None and key in remembered:
        return remembered[key]
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.randn if kind == "normal" else torch.rand)(shape, generator=generator)
    if remembered is not None:
        remembered[key] = drawn
    return drawn


@contextmanager
def remembering_noise() -> Iterator[None]:
    """Within the block `fixed_noise` is drawn once, so that a graph traced after a first call has it as a constant."""
    token = _REMEMBERED.set({})
    try:
        yield
    finally:
        _REMEMBERED.reset(token)
