"""Annealed importance sampling: bounds on log Z of an energy, from below by forward chains, from above by reverse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmzoo.energy import Energy
from ebmzoo.errors import UserError
from ebmzoo.progress import tracked
from ebmzoo.sampling.base_densities import Base
from ebmzoo.sampling.chain_context import during_chain
from ebmzoo.sampling.hamiltonian import States, hamiltonian_step
from ebmzoo.sampling.langevin import ChainDivergedError


@dataclass(frozen=True)
class Ladder:
    """The annealing schedule: inverse temperatures and the step sizes of the transitions.

    Args:
        betas: β₀ = 0 < β₁ < … < β_{K+1} = 1.
        step_sizes: ε of the transitions at β₁, …, β_{K+1}.
    """

    betas: list[float]
    step_sizes: list[float]


@dataclass(frozen=True)
class Weights:
    """The importance weights of annealed chains.

    >>> weights = Weights(torch.tensor([1.0, 3.0]).log(), acceptance=[])
    >>> round(weights.log_mean, 4), round(weights.ess, 4)  # log 2 and (1 + 3)²/(1² + 3²)
    (0.6931, 1.6)

    Args:
        log: log w, `(B,)` float64.
        acceptance: The fraction of transitions accepted at each β.
    """

    log: Tensor
    acceptance: list[float]

    @property
    def log_mean(self) -> float:
        """Logarithm of the mean weight."""
        return float(self.log.logsumexp(0)) - math.log(len(self.log))

    @property
    def ess(self) -> float:
        """Effective sample size (Σw)²/Σw², from 1 to B."""
        return math.exp(2 * float(self.log.logsumexp(0)) - float((2 * self.log).logsumexp(0)))

    @property
    def error(self) -> float:
        """Standard error of `log_mean` to first order, √(1/ESS − 1/B)."""
        return math.sqrt(max(0.0, 1 / self.ess - 1 / len(self.log)))


@dataclass(frozen=True)
class LogZ:
    """Stochastic bounds on log Z.

    E[exp(lower)] = Z, so that E[lower] ≤ log Z and lower > log Z + t has a probability below e^{−t}. The same holds for
    `upper`, but only as far as the reverse chains started from exp(−E)/Z itself.

    Args:
        forward: The weights w of the chains from the base to exp(−E).
        reverse: The weights 1/w of the chains from exp(−E) to the base, or None.
    """

    forward: Weights
    reverse: Weights | None = None

    @property
    def lower(self) -> float:
        """log of the mean of w, in nats."""
        return self.forward.log_mean

    @property
    def upper(self) -> float:
        """−log of the mean of the reverse 1/w, in nats; NaN without reverse chains."""
        return math.nan if self.reverse is None else -self.reverse.log_mean


@dataclass(frozen=True)
class AnnealedImportanceSampling:
    """Z = ∫ exp(−E) from chains between a normalised base p₀ and exp(−E), along p_β ∝ p₀^{1−β} e^{−βE}.

    x₀ ~ p₀; for k = 1, …, K + 1: log w ← log w − (β_k − β_{k−1}) (E(x_{k−1}) − E₀(x_{k−1})), and for k ≤ K, x_k is
    drawn from x_{k−1} by a transition that leaves p_{β_k} invariant. Then E[w] = Z. A reverse chain starts from
    exp(−E)/Z and anneals to p₀: E[1/w] = 1/Z. The β and the step sizes come from a pilot run of other chains, so that
    they are independent of the chains that are weighted. K = 0 is importance sampling.
    Source: Neal (2001), Annealed importance sampling; Grosse, Ghahramani and Adams (2015) for both directions.

    The energy of the base itself has Z = 1 exactly:

    >>> from ebmzoo.sampling.base_densities import Normal
    >>> log_z = AnnealedImportanceSampling(temperatures=1, chains=4)(Normal().energy, Normal(), torch.zeros(1, 2))
    >>> abs(log_z.lower) < 1e-6
    True

    Args:
        temperatures: K, the number of intermediate distributions.
        chains: B, the number of chains in each direction.
        leapfrog: Leapfrog steps of each transition; one step is one gradient of E.
        acceptance: Acceptance rate that the pilot's step sizes aim at, between 0 and 1.
        tries: Transitions of the pilot at each β, each followed by ε ← ε exp(accepted − acceptance).

    Raises:
        UserError: If a number is out of its range.
    """

    temperatures: int = 200
    chains: int = 64
    leapfrog: int = 3
    acceptance: float = 0.7
    tries: int = 2

    def __post_init__(self) -> None:
        for key, least in {"temperatures": 0, "chains": 2, "leapfrog": 1, "tries": 1}.items():
            if (count := getattr(self, key)) < least:
                raise UserError(f"{key} is {count}; it must be {least} or more")
        if not 0 < self.acceptance < 1:
            raise UserError(f"acceptance is {self.acceptance}; it must be between 0 and 1")

    def __call__(
        self,
        energy: Energy,
        base: Base,
        like: Tensor,
        ends: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> LogZ:
        """Return the bounds on log Z.

        Args:
            energy: E, `(B, *)` to `(B,)`.
            base: p₀.
            like: A tensor `(n, *)` with the shape, type and device of the states.
            ends: Samples of exp(−E)/Z, `(n, *)`, for the reverse chains; None for no upper bound.
            generator: Source of randomness; None is torch's global generator.

        Raises:
            ChainDivergedError: If a weight is NaN or all weights are zero.
        """
        ladder = self.pilot(energy, base, like, generator)
        forward = self.forward(energy, base, like, ladder, generator)
        return LogZ(forward, None if ends is None else self.reverse(energy, base, ends, ladder, generator))

    def forward(
        self, energy: Energy, base: Base, like: Tensor, ladder: Ladder, generator: torch.Generator | None = None
    ) -> Weights:
        """Return the weights w of the chains from p₀ to exp(−E)."""
        x = base.draw(self.chains, like, generator)
        return self._annealed(energy, base, x, ladder.betas, [*ladder.step_sizes[:-1]], "forward chains", generator)

    def reverse(
        self, energy: Energy, base: Base, ends: Tensor, ladder: Ladder, generator: torch.Generator | None = None
    ) -> Weights:
        """Return the weights 1/w of the chains from exp(−E) to p₀."""
        sizes = ladder.step_sizes[:-1][::-1]
        return self._annealed(energy, base, ends, ladder.betas[::-1], sizes, "reverse chains", generator)

    def settled(
        self,
        energy: Energy,
        base: Base,
        x: Tensor,
        ladder: Ladder,
        steps: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the states `(B, *)` after `steps` transitions at β = 1, which leave exp(−E) invariant."""
        with during_chain(energy, x.device, "ambient"):
            at = States.at(energy, x)
            for _ in tracked(range(steps), "settling"):
                at, _ = hamiltonian_step(energy, base, 1.0, at, ladder.step_sizes[-1], self.leapfrog, generator)
        return at.x

    def pilot(self, energy: Energy, base: Base, like: Tensor, generator: torch.Generator | None = None) -> Ladder:
        """Return β at equal distances ∫ sd(E − E₀) dβ, sd under p_β, and step sizes near `acceptance`.

        The distance is the standard deviation of one update of log w (Gelman and Meng 1998, §4.3). A tenth of it is
        distributed evenly over the pilot's own β_k = (k/(K + 1))⁴, so that regions where the pilot's chains measured no
        spread also get some β.
        """
        steps = self.temperatures + 1
        betas = [(k / steps) ** 4 for k in range(steps + 1)]
        sizes, spreads = [base.scale / 10], []
        with during_chain(energy, like.device, "ambient"):
            at = States.at(energy, base.draw(self.chains, like, generator))
            spreads.append(_spread(at, base))
            for beta in tracked(betas[1:], "pilot"):
                size = sizes[-1]
                for _ in range(self.tries):
                    at, accepted = hamiltonian_step(energy, base, beta, at, size, self.leapfrog, generator)
                    size *= math.exp(float(accepted.double().mean()) - self.acceptance)
                    size = min(size, base.scale)
                sizes.append(size)
                spreads.append(_spread(at, base))
        pilot_betas = torch.tensor(betas, dtype=torch.float64)
        sd = torch.tensor(spreads, dtype=torch.float64)
        length = ((sd[1:] + sd[:-1]) / 2 * pilot_betas.diff()).cumsum(0)
        even = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        distance = torch.cat([torch.zeros(1, dtype=torch.float64), 0.9 * length / length[-1] + 0.1 * even])
        if not length.isfinite().all() or length[-1] == 0:
            distance = torch.arange(steps + 1, dtype=torch.float64) / steps
        equal_distances = torch.arange(steps + 1, dtype=torch.float64) / steps * distance[-1]
        chosen = _interpolated(equal_distances, distance, pilot_betas).tolist()
        chosen[0], chosen[-1] = 0.0, 1.0
        log_sizes = torch.tensor(sizes, dtype=torch.float64).log()
        return Ladder(chosen, _interpolated(equal_distances, distance, log_sizes).exp()[1:].tolist())

    def _annealed(
        self,
        energy: Energy,
        base: Base,
        x: Tensor,
        betas: Sequence[float],
        step_sizes: Sequence[float],
        what: str,
        generator: torch.Generator | None,
    ) -> Weights:
        """Return log w = −Σ_k (β_k − β_{k−1}) (E − E₀)(x_{k−1}) along `betas`, rising or falling."""
        acceptance = []
        with during_chain(energy, x.device, "ambient"):
            at = States.at(energy, x)
            log_w = torch.zeros(len(x), dtype=torch.float64, device=x.device)
            for k in tracked(range(1, len(betas)), what):
                log_w = log_w - (betas[k] - betas[k - 1]) * (at.energy - base.energy(at.x))
                if k < len(betas) - 1:
                    size = step_sizes[k - 1]
                    at, accepted = hamiltonian_step(energy, base, betas[k], at, size, self.leapfrog, generator)
                    acceptance.append(float(accepted.double().mean()))
        if log_w.isnan().any() or not (log_w > -math.inf).any():
            raise ChainDivergedError("the weights of annealed chains are NaN or all zero: the energy is not finite")
        return Weights(log_w.cpu(), acceptance)


def _spread(at: States, base: Base) -> float:
    """Return the standard deviation of E − E₀ over the chains where it is finite."""
    difference = at.energy - base.energy(at.x)
    finite = difference[difference.isfinite()]
    return float(finite.std()) if len(finite) > 1 else math.nan


def _interpolated(at: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the values at `at` of the piecewise linear function through (x, y), for increasing x."""
    right = torch.searchsorted(x, at).clamp(1, len(x) - 1)
    share = (at - x[right - 1]) / (x[right] - x[right - 1])
    return torch.lerp(y[right - 1], y[right], share)
