"""The Langevin chains of a sequence of energies, one for each transition between noise levels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmzoo.energy import Energy
from ebmzoo.errors import UserError
from ebmzoo.sampling.auto_precision import Precision
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.noise_schedule import NoiseSchedule


@dataclass(frozen=True)
class RecoveryChain:
    """The Langevin chains of a sequence of energies: at transition i, η = s_i²/2 and τ = s_i, temperature 1.

    s_i² = c (σ̄_{i−1}/σ̄_0) σ_i² with `grow`, else c σ_i²/σ̄_0. The energy is Ê/s_i², so that the gradient step is ½ ∇Ê
    for every s_i. Source: CDRL, Eq. 16, where 0.054 is c/σ̄_0.

    >>> from ebmzoo.sampling import DRLSchedule
    >>> RecoveryChain().unit(DRLSchedule(levels=6), torch.arange(1, 7)).shape
    torch.Size([6])
    >>> energy, one = lambda y: y.square().sum(1) / 2, torch.ones(1)
    >>> RecoveryChain(steps=1, noise=0.0)(energy, torch.ones(1, 2), unit=one, steps=1)  # y − s²/2 ∇E with s = 1
    tensor([[0.5000, 0.5000]])

    Args:
        steps: K, the number of steps at each level.
        variance: c; 4e-4 in CDRL, 2e-4 in DRL.
        grow: Whether s_i² grows with the noise σ̄_{i−1}; it does not in CDRL's code for the plane.
        noise: Factor of the noise when sampling; 0.99 in DRL.
        precision: As for `Langevin`.
        sample_steps: K', the number of steps at each level when sampling; null for K.

    Raises:
        UserError: If a number is out of its range.
    """

    steps: int = 15
    variance: float = 4e-4
    grow: bool = True
    noise: float = 1.0
    precision: Precision = "ambient"
    sample_steps: int | None = None

    def __post_init__(self) -> None:
        if self.sample_steps is not None and self.sample_steps < 0:
            raise UserError(f"model.chain.sample_steps is {self.sample_steps}; it must be 0 or more, or null for steps")
        if self.steps < 1:
            raise UserError(f"model.chain.steps is {self.steps}; it must be 1 or more")
        if not (self.variance > 0 and math.isfinite(self.variance)):
            raise UserError(f"model.chain.variance is {self.variance}; it must be a positive number")
        if self.noise < 0:
            raise UserError(f"model.chain.noise is {self.noise}; it must be 0 or more")

    @property
    def sampling(self) -> int:
        """The number of steps at each level when sampling."""
        return self.steps if self.sample_steps is None else self.sample_steps

    def unit(self, schedule: NoiseSchedule, i: Tensor) -> Tensor:
        """Return s_i², `(B,)`, of transitions `i`, `(B,)` int64."""
        grown = schedule.sigma_bar[i - 1] if self.grow else 1.0
        return self.variance * grown / schedule.sigma_bar[0] * schedule.sigma[i].square()

    def __call__(
        self,
        energy: Energy,
        y: Tensor,
        unit: Tensor,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the states after the K steps of training, or after `steps` steps of sampling.

        Args:
            energy: E = Ê/s².
            y: The start, `(B, *)`.
            unit: s², `(B,)`.
            steps: Number of steps of sampling, for which s² becomes s² K/steps and the noise is multiplied by `noise`;
                None for the K steps of training.
            generator: Source of the noise; None is torch's global generator.

        Raises:
            ChainDivergedError: If a state is infinite or NaN.
        """
        chain, eta, tau = self._sized(unit, steps)
        return chain(energy, y, step_size=eta, noise=tau, generator=generator)

    def path(
        self, energy: Energy, y: Tensor, unit: Tensor, steps: int, generator: torch.Generator | None
    ) -> Iterator[Tensor]:
        """Yield all states of sampling; the chain continues from in-place changes to a state."""
        chain, eta, tau = self._sized(unit, steps)
        return chain.path(energy, y, step_size=eta, noise=tau, generator=generator)

    def _sized(self, unit: Tensor, steps: int | None) -> tuple[Langevin, Tensor, Tensor]:
        chain = Langevin(self.steps if steps is None else steps, 1.0, precision=self.precision)
        # With K' steps in place of K, s ∝ 1/√K' (CDRL, §4.2). The energy remains that of training.
        adjusted = unit * (self.steps / max(chain.steps, 1))
        return chain, adjusted / 2, adjusted.sqrt() * (1.0 if steps is None else self.noise)
