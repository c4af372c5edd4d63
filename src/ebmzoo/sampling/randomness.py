"""Saving and restoring torch's random state, so that evaluation during training does not change the training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Seed torch's random numbers inside the block, and restore their previous state afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def random_state() -> dict[str, Any]:
    """Return the states of torch's generators in this process: the CPU's and each CUDA device's."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the states that `random_state` returned; those of CUDA only if there are as many devices."""
    torch.set_rng_state(state["cpu"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
