"""Heun's scheme for Langevin dynamics, whose step evaluates the gradient at both of its ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ebmzoo.energy import Energy
from ebmzoo.sampling.langevin import Langevin


@final
@dataclass(frozen=True)
class Heun(Langevin):
    """Langevin dynamics by Heun's scheme, with the same noise in the trial step and in the step:

        y = x − η ∇E(x) + τ ξ,   x ← x − η (∇E(x) + ∇E(y))/2 + τ ξ,   ξ ~ N(0, I).

    A step is two network evaluations. Without noise its error over a time ηK is of order η², Euler's of order η.
    Source: the sampler of Energy Matching's evaluation. The arguments and limits are those of `Langevin`.

    >>> chain = Heun(steps=1, step_size=0.5, noise=0.0)
    >>> chain(lambda x: x.square().sum(1) / 2, torch.ones(1, 2))  # 1 − η + η²/2; exp(−η) is 0.6065
    tensor([[0.6250, 0.6250]])
    >>> chain.evaluations
    2
    """

    evaluations: ClassVar[int] = 2

    def _step(
        self,
        energy: Energy,
        x: Tensor,
        eta: float | Tensor,
        tau: float | Tensor,
        generator: torch.Generator | None,
        finite: Tensor,
    ) -> Tensor:
        noise = tau * self._noise(x, generator)
        first = self._descent(energy, x, eta)
        second = self._descent(energy, x - first + noise, eta)
        return self._bounded(x - (first + second) / 2 + noise, finite)
