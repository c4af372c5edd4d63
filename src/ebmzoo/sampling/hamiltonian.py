"""Hamiltonian Monte Carlo transitions between an energy and a base density."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebmzoo.energy import Energy, with_gradient
from ebmzoo.sampling.base_densities import Base


@dataclass(frozen=True)
class States:
    """The states of B chains with their energies and gradients.

    >>> states = States.at(lambda x: x.square().sum(1) / 2, torch.tensor([[1.0, 2.0]]))
    >>> states.energy.tolist(), states.gradient.tolist()
    ([2.5], [[1.0, 2.0]])

    Args:
        x: The states, `(B, *)`.
        energy: E(x), `(B,)` float64.
        gradient: ∇E(x), `(B, *)`.
    """

    x: Tensor
    energy: Tensor
    gradient: Tensor

    @classmethod
    def at(cls, energy: Energy, x: Tensor) -> States:
        """Return the states `x`, by one evaluation of E and its gradient."""
        value, gradient = with_gradient(energy, x)
        return cls(x, value.double(), gradient)

    def where(self, chosen: Tensor, other: States) -> States:
        """Return these states for the chains with `chosen`, `(B,)` bool, and those of `other` for the rest."""
        wide = chosen.view(-1, *[1] * (self.x.dim() - 1))
        return States(
            torch.where(wide, self.x, other.x),
            torch.where(chosen, self.energy, other.energy),
            torch.where(wide, self.gradient, other.gradient),
        )


def hamiltonian_step(
    energy: Energy,
    base: Base,
    beta: float,
    at: States,
    step_size: float,
    leapfrog: int,
    generator: torch.Generator | None = None,
) -> tuple[States, Tensor]:
    """Make one transition that leaves exp(−E_β), E_β = (1 − β) E₀ + β E, exactly invariant.

    v ~ N(0, I) and then, `leapfrog` times,

        v ← v − ε/2 ∇E_β(x);  x ← x + ε v, reflected at the walls of the base;  v ← v − ε/2 ∇E_β(x),

    which is accepted with probability min(1, exp(H − H')), H = E_β(x) + |v|²/2. One leapfrog step is MALA.
    Source: Neal (2011), MCMC using Hamiltonian dynamics, §5.3.2.

    Args:
        energy: E.
        base: The density of which E₀ is −log p₀.
        beta: β, from 0 (the base) to 1 (E).
        at: The states that the transition starts from.
        step_size: ε.
        leapfrog: Number of leapfrog steps, each one gradient of E.
        generator: Source of v and of the acceptance; None is torch's global generator.

    Returns:
        The states after the transition, and which chains accepted, `(B,)` bool.
    """

    def slope(s: States) -> Tensor:
        return (1 - beta) * base.gradient(s.x) + beta * s.gradient

    def total(s: States, v: Tensor) -> Tensor:
        return (1 - beta) * base.energy(s.x) + beta * s.energy + v.double().flatten(1).square().sum(1) / 2

    v = torch.randn(at.x.shape, dtype=at.x.dtype, device=at.x.device, generator=generator)
    h, end = total(at, v), at
    for _ in range(leapfrog):
        v = v - step_size / 2 * slope(end)
        x, v = base.reflect(end.x + step_size * v, v)
        end = States.at(energy, x)
        v = v - step_size / 2 * slope(end)
    log_u = torch.rand(len(v), dtype=torch.float64, device=v.device, generator=generator).log()
    accepted = log_u < h - total(end, v)  # NaN is never accepted
    return end.where(accepted, at), accepted
