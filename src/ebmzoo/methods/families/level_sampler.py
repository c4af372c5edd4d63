"""Sampling down the noise levels of a sequence of energies: CDRL's and DRL's Algorithm 2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmzoo.methods.families.restoration import Known, MeasuredAtLevels
from ebmzoo.networks.base import LevelEnergyNet
from ebmzoo.sampling.level_chain import RecoveryChain
from ebmzoo.sampling.level_energies import AtLevel, Recovery
from ebmzoo.sampling.noise_schedule import NoiseSchedule, column

Proposal = Callable[[Tensor, Tensor], Tensor]
"""x_i `(B, *)` and i `(B,)` to y, where the chain of transition i starts."""


@dataclass(frozen=True)
class ClassCondition:
    """The classes that samples are drawn given, and the weights that combine them.

    Args:
        labels: `(B, k)`, or None for samples given nothing; −1 is no class.
        weights: k numbers, which classifier-free guidance makes other than one (CDRL, Eq. 13 and 14).
    """

    labels: Tensor | None = None
    weights: tuple[float, ...] = (1.0,)

    @property
    def passes(self) -> int:
        """Network evaluations for one energy."""
        return len(self.weights)


def recovery_energy(
    net: LevelEnergyNet, schedule: NoiseSchedule, x: Tensor, i: Tensor, unit: Tensor, condition: ClassCondition
) -> Recovery:
    """E(y|x_i) = E(y) + |y − x_i|²/2σ_i², and at the top, i = T, E(y) alone.

    Source: DRL, Eq. 5; CDRL, Eq. 5. Shapes: `x` is x_i, `(B, *)`; `i` and `unit`, s_i², are `(B,)`.
    """
    precision = torch.where(schedule.is_top(i), 0.0, schedule.sigma[i].pow(-2))
    energy = AtLevel(net, schedule.time[i - 1], unit, condition.labels, condition.weights)
    return Recovery(energy, x, precision)


@dataclass(frozen=True)
class LevelSampler:
    """x_T, …, x_0: at each level a proposal y, K Langevin steps on E(y|x_i), and x_{i−1} = y/m_i (Alg. 2).

    Args:
        net: Ê, of the weights that evaluation uses.
        schedule: The noise levels.
        chain: The Langevin chain of one level.
        propose: Where the chain of a level starts.
        condition: The classes.
        steps: K at each level.
        known: What is known of the images, put back at each level; None where nothing is.
        generator: Random numbers.
    """

    net: LevelEnergyNet
    schedule: NoiseSchedule
    chain: RecoveryChain
    propose: Proposal
    condition: ClassCondition
    steps: int
    known: Known | MeasuredAtLevels | None = None
    generator: torch.Generator | None = None

    def path(self, x: Tensor) -> Iterator[Tensor]:
        """The states at the levels T, T − 1, …, 0, from x_T: T + 1 batches `(n, *)`."""
        if self.known is not None:
            x = self.known.put_back(x, self.schedule.levels, 1.0)
        yield x
        for level in range(self.schedule.levels, 0, -1):
            x = self._down(x, level)
            yield x

    def _down(self, x: Tensor, level: int) -> Tensor:
        """x_{i−1} of x_i, i being the level."""
        i = torch.full((len(x),), level, device=x.device)
        scale = column(self.schedule.scale(i), x)
        unit = self.chain.unit(self.schedule, i)
        y = self.propose(x, i)
        energy = recovery_energy(self.net, self.schedule, x, i, unit, self.condition)
        if self.known is None:
            y = self.chain(energy, y, unit, self.steps, self.generator)
        else:
            start = self.known.put_back(y, level - 1, scale)
            for state in self.chain.path(energy, start, unit, self.steps, self.generator):
                y = state.copy_(self.known.put_back(state, level - 1, scale))
        return y / scale
