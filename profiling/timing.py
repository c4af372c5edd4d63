"""Timing contenders in turn, A B A B, so that a machine's moods meet all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Work = Callable[[], object]


@dataclass(frozen=True)
class Timed:
    """Seconds of each round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the most."""
        return min(self.seconds), max(self.seconds)

    def over(self, other: Timed) -> float:
        """The median, over rounds, of how many times as long this one took as `other` in the same round."""
        return statistics.median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))


def in_turn(contenders: Mapping[str, Work], rounds: int, device: torch.device, per: int = 1) -> dict[str, Timed]:
    """Run every contender once to warm up, then `rounds` times in turn; seconds are divided by `per`."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for at in range(rounds + 1):
        for name, work in contenders.items():
            seconds = once(work, device)
            if at > 0:
                taken[name].append(seconds / per)
    return {name: Timed(tuple(seconds)) for name, seconds in taken.items()}


def once(work: Work, device: torch.device) -> float:
    """Seconds that `work` takes, with all that it starts on the device."""
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    """Until all that was started on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
