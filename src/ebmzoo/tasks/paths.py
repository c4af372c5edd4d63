"""A recorder of Langevin paths: quantities of their states, and some of the images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ebmzoo.data.images import to_uint8

Value = Callable[[Tensor, Tensor], Tensor]
"""A function of a state x_k and its start x₀, both `(B, C, H, W)`, with one value `(B,)` per chain."""


@dataclass
class PathRecorder:
    """Follows batches of paths x₀, x₁, …, x_K and records quantities of their states and some images.

    Args:
        measured: The steps whose quantities are recorded; None records all states.
        kept: The steps whose images are recorded, besides the last.
        shown: The number of chains of the first batch whose measured states are recorded for a picture.
    """

    measured: Collection[int] | None = None
    kept: Collection[int] = ()
    shown: int = 0
    images: dict[int, list[Tensor]] = field(default_factory=dict)
    """By step: uint8 `(B, C, H, W)` of each batch."""
    ends: list[Tensor] = field(default_factory=list)
    """The last states of each batch, as uint8."""
    strips: list[Tensor] = field(default_factory=list)
    """One `(shown, C, H, W)` for each measured state, fp32 in [-1, 1]."""
    reached: list[int] = field(default_factory=list)
    """The last step of each batch, before the chain ended or diverged."""
    _values: dict[str, list[Tensor]] = field(default_factory=dict)

    def follow(self, states: Iterable[Tensor], **values: Value) -> None:
        """Follow one batch of paths to its end, or until a chain diverges.

        Raises:
            ChainDivergedError: A chain of the batch diverged; the earlier states are recorded.
        """
        found: dict[str, list[Tensor]] = {name: [] for name in values}
        first, step, x0, x = not self.reached, -1, None, None
        try:
            for step, x in enumerate(states):
                x0 = x.clone() if x0 is None else x0
                if step in self.kept:
                    self.images.setdefault(step, []).append(to_uint8(x).cpu())
                if self.measured is None or step in self.measured:
                    for name, value in values.items():
                        found[name].append(value(x, x0).cpu())
                    if first and self.shown:
                        self.strips.append(x[: self.shown].float().cpu())
        finally:
            self.reached.append(step)
            if x is not None:
                self.ends.append(to_uint8(x).cpu())
                for name, of_states in found.items():
                    self._values.setdefault(name, []).append(torch.stack(of_states, dim=1))

    def values(self, name: str) -> Tensor:
        """One quantity for all paths, `(n, measured states)`, up to the first divergence."""
        batches = self._values[name]
        shortest = min(batch.shape[1] for batch in batches)
        return torch.cat([batch[:, :shortest] for batch in batches])

    def means(self, name: str) -> list[float]:
        """The mean of one quantity over all paths, for each measured state."""
        mean: list[float] = self.values(name).double().mean(0).tolist()
        return mean


def mean_square(x: Tensor, x0: Tensor) -> Tensor:
    """|x − x₀|²/CHW of each image, `(B,)`, in fp64."""
    return (x - x0).double().square().flatten(1).mean(1)
