"""The learning rate of encoder pre-training."""

from __future__ import annotations

from collections.abc import Sequence


def warmup_then_drops(step: int, *, warmup: int, drops: Sequence[float], factor: float = 0.2) -> float:
    """min(1, (step + 1)/warmup) · factor^#{d ∈ drops: d ≤ step}, by which the learning rate is multiplied at `step`.

    Steps count from 0. Ermolov et al. (2021): 500 steps of warm-up, and drops 50 and 25 epochs before the end.
    """
    return min(1.0, (step + 1) / max(1, warmup)) * factor ** sum(drop <= step for drop in drops)
