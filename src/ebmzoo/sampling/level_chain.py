"""The chains of a sequence of energies, one for each transition between noise levels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ebmzoo.energy import Energy
from ebmzoo.errors import UserError
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.noise_schedule import NoiseSchedule


@dataclass(frozen=True)
class RecoveryChain:
    """The Langevin chains of a sequence of energies: at transition i, η = s_i²/2 and τ = s_i, temperature 1.

    s_i² = c (σ̄_{i−1}/σ̄_0) σ_i² (CDRL, Eq. 16, whose 0.054 is c/σ̄_0), or c σ_i²/σ̄_0 where it does not `grow`.
    The energy is Ê/s_i², so that a step is ½ ∇Ê, whatever s_i is.

    Args:
        steps: K, at each level.
        variance: c; CDRL 4e-4, DRL 2e-4.
        grow: whether s_i² grows with the noise that is there; the code's plane has it not.
        noise: factor of the noise when sampling; DRL 0.99.
        precision: as of `Langevin`.

    Raises:
        UserError: a number is out of its range.
    """

    steps: int = 15
    variance: float = 4e-4
    grow: bool = True
    noise: float = 1.0
    precision: Literal["ambient", "fp32", "bf16"] = "ambient"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"model.chain.steps is {self.steps}; it must be 1 or more")
        if not (self.variance > 0 and math.isfinite(self.variance)):
            raise UserError(f"model.chain.variance is {self.variance}; it must be a positive number")
        if self.noise < 0:
            raise UserError(f"model.chain.noise is {self.noise}; it must be 0 or more")

    def unit(self, schedule: NoiseSchedule, i: Tensor) -> Tensor:
        """s_i², `(B,)`."""
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
        """K Langevin steps of training; with `steps`, those of sampling."""
        chain, eta, tau = self._sized(unit, steps)
        return chain(energy, y, step_size=eta, noise=tau, generator=generator)

    def path(
        self, energy: Energy, y: Tensor, unit: Tensor, steps: int, generator: torch.Generator | None
    ) -> Iterator[Tensor]:
        """Every state of sampling; a change made in place stays."""
        chain, eta, tau = self._sized(unit, steps)
        return chain.path(energy, y, step_size=eta, noise=tau, generator=generator)

    def _sized(self, unit: Tensor, steps: int | None) -> tuple[Langevin, Tensor, Tensor]:
        chain = Langevin(self.steps if steps is None else steps, 1.0, precision=self.precision)
        # K' steps in place of K are longer: s ∝ 1/√K' (CDRL, §4.2). The energy stays that of training.
        adjusted = unit * (self.steps / max(chain.steps, 1))
        return chain, adjusted / 2, adjusted.sqrt() * (1.0 if steps is None else self.noise)
