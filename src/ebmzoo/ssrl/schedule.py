"""The learning rate of encoder pre-training."""

from __future__ import annotations

from collections.abc import Sequence


def warmup_then_drops(step: int, *, warmup: int, drops: Sequence[float], factor: float = 0.2) -> float:
    """Return the factor of the learning rate at `step`: min(1, (step + 1)/warmup) · factor^#{d ∈ drops: d ≤ step}.

    Steps count from 0. Source: Ermolov et al. (2021): 500 warm-up steps, and drops 50 and 25 epochs before the end.

    >>> [round(warmup_then_drops(step, warmup=2, drops=[3]), 2) for step in range(5)]
    [0.5, 1.0, 1.0, 0.2, 0.2]
    """
    return min(1.0, (step + 1) / max(1, warmup)) * factor ** sum(drop <= step for drop in drops)
