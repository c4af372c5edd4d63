"""Annealed importance sampling: bounds on log Z of an energy, from below by forward chains, from above by reverse."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmzoo.energy import Energy, with_gradient
from ebmzoo.errors import UserError
from ebmzoo.progress import tracked
from ebmzoo.sampling.langevin import ChainDivergedError, during_chain


class Base(ABC):
    """A normalised density p₀ to anneal from; what it draws has the type and the device of `like`."""

    @abstractmethod
    def draw(self, n: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """`n` exact draws, of the shape of one of `like`."""

    @abstractmethod
    def energy(self, x: Tensor) -> Tensor:
        """−log p₀(x) with its constant, `(B,)` float64."""

    @abstractmethod
    def gradient(self, x: Tensor) -> Tensor:
        """−∇ log p₀(x)."""

    @property
    @abstractmethod
    def scale(self) -> float:
        """A step size that is never too short for p₀: the pilot's are no longer."""

    def reflect(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Where a particle of velocity `v` that came to `x` is in truth, and its velocity: walls throw it back."""
        return x, v


@dataclass(frozen=True)
class Normal(Base):
    """N(mean, std² I) on all of space: for an energy whose exp(−E) has a finite integral."""

    mean: float = 0.0
    std: float = 1.0

    def draw(self, n: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        shape = (n, *like.shape[1:])
        return self.mean + self.std * torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)

    def energy(self, x: Tensor) -> Tensor:
        z = (x.double() - self.mean).flatten(1) / self.std
        return z.square().sum(1) / 2 + z.shape[1] * math.log(self.std * math.sqrt(2 * math.pi))

    def gradient(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std**2

    @property
    def scale(self) -> float:
        return 2 * self.std


@dataclass(frozen=True)
class Box(Base):
    """Uniform on [low, high]^D: every energy that is finite there has a Z, of exp(−E) on the box and nothing outside.

    A particle that leaves the box is reflected at its walls, which keeps the transitions reversible and of volume one
    (Neal 2011, §5.5.1.5); to reject it instead would hold chains still near the corners, where dark images are.
    """

    low: float = -1.0
    high: float = 1.0

    def draw(self, n: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        u = torch.rand((n, *like.shape[1:]), dtype=like.dtype, device=like.device, generator=generator)
        return self.low + (self.high - self.low) * u

    def energy(self, x: Tensor) -> Tensor:
        value = x[0].numel() * math.log(self.high - self.low)
        return torch.full((len(x),), value, dtype=torch.float64, device=x.device)

    def gradient(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    @property
    def scale(self) -> float:
        return self.high - self.low

    def reflect(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        width = self.high - self.low
        at = (x - self.low).remainder(2 * width)  # a path of two widths brings it back with the velocity that it had
        turned = at > width
        return self.low + torch.where(turned, 2 * width - at, at), torch.where(turned, -v, v)


@dataclass(frozen=True)
class Tempered:
    """E(x)/T: the law exp(−E/T) of a chain at temperature T."""

    energy: Energy
    temperature: float

    def __call__(self, x: Tensor) -> Tensor:
        return self.energy(x) / self.temperature


@dataclass(frozen=True)
class States:
    """Where chains are, `x` `(B, *)`, with E `(B,)` in float64 and ∇E there."""

    x: Tensor
    energy: Tensor
    gradient: Tensor

    @classmethod
    def at(cls, energy: Energy, x: Tensor) -> States:
        """The states `x`, by one evaluation of E and its gradient."""
        value, gradient = with_gradient(energy, x)
        return cls(x, value.double(), gradient)

    def where(self, chosen: Tensor, other: States) -> States:
        """Of each chain these where `chosen` `(B,)`, else the other's."""
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
    """One transition that leaves exp(−E_β), E_β = (1 − β) E₀ + β E, exactly invariant: its end, and which accepted.

    v ~ N(0, I) and then, `leapfrog` times,

        v ← v − ε/2 ∇E_β(x);  x ← x + ε v, reflected at the walls of the base;  v ← v − ε/2 ∇E_β(x)

    which is accepted with probability min(1, exp(H − H')), H = E_β(x) + |v|²/2. One leapfrog step is MALA.
    Source: Neal 2011, MCMC using Hamiltonian dynamics, §5.3.2.
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
    accepted = log_u < h - total(end, v)  # what is not a number is not accepted
    return end.where(accepted, at), accepted


@dataclass(frozen=True)
class Ladder:
    """β₀ = 0 < β₁ < … < β_{K+1} = 1, and the step size ε of the transitions at β₁, …, β_{K+1}."""

    betas: list[float]
    step_sizes: list[float]


@dataclass(frozen=True)
class Weights:
    """Log weights `(B,)` float64 of chains that were annealed, and the share of transitions accepted at each β."""

    log: Tensor
    acceptance: list[float]

    @property
    def log_mean(self) -> float:
        """log of the mean weight."""
        return float(self.log.logsumexp(0)) - math.log(len(self.log))

    @property
    def ess(self) -> float:
        """(Σw)²/Σw², from 1 to B."""
        return math.exp(2 * float(self.log.logsumexp(0)) - float((2 * self.log).logsumexp(0)))

    @property
    def error(self) -> float:
        """The standard error of `log_mean` to first order, √(1/ESS − 1/B)."""
        return math.sqrt(max(0.0, 1 / self.ess - 1 / len(self.log)))


@dataclass(frozen=True)
class LogZ:
    """What was found of log Z.

    E[exp(lower)] = Z, so that E[lower] ≤ log Z and lower > log Z + t has a probability below e^{−t}; likewise for
    `upper`, which is a bound only as far as the reverse chains started from exp(−E)/Z itself. NaN without them.
    """

    forward: Weights
    reverse: Weights | None = None

    @property
    def lower(self) -> float:
        """log of the mean of w, in nats."""
        return self.forward.log_mean

    @property
    def upper(self) -> float:
        """−log of the mean of the reverse 1/w, in nats."""
        return math.nan if self.reverse is None else -self.reverse.log_mean


@dataclass(frozen=True)
class AnnealedImportanceSampling:
    """Z = ∫ exp(−E) from chains between a normalised base p₀ and exp(−E), along p_β ∝ p₀^{1−β} e^{−βE}.

    x₀ ~ p₀; for k = 1, …, K + 1:  log w ← log w − (β_k − β_{k−1}) (E(x_{k−1}) − E₀(x_{k−1})), and for k ≤ K x_k by a
    transition from x_{k−1} that leaves p_{β_k} invariant. Then E[w] = Z. The reverse chain starts from exp(−E)/Z and
    goes down: E[1/w] = 1/Z. The β and the step sizes come from a pilot run of other chains, so that the chains that
    count know nothing of themselves. K = 0 is importance sampling.
    Source: Neal 2001, Annealed importance sampling; Grosse, Ghahramani and Adams 2015 for both directions.

    Args:
        temperatures: K, how many distributions lie between.
        chains: B, in each direction.
        leapfrog: steps of each transition; one is a gradient of E.
        acceptance: what the pilot's step sizes aim at.
        tries: transitions of the pilot at each β, after each of which ε ← ε exp(accepted − acceptance).

    Raises:
        UserError: a number is out of its range.
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
        """The bounds; `ends` `(n, *)` are draws of exp(−E)/Z for the reverse chains. States are of the type of `like`.

        Raises:
            ChainDivergedError: a weight was not a number.
        """
        ladder = self.pilot(energy, base, like, generator)
        forward = self.forward(energy, base, like, ladder, generator)
        return LogZ(forward, None if ends is None else self.reverse(energy, base, ends, ladder, generator))

    def forward(
        self, energy: Energy, base: Base, like: Tensor, ladder: Ladder, generator: torch.Generator | None = None
    ) -> Weights:
        """From p₀ up to exp(−E): log w."""
        x = base.draw(self.chains, like, generator)
        return self._annealed(energy, base, x, ladder.betas, [*ladder.step_sizes[:-1]], "forward chains", generator)

    def reverse(
        self, energy: Energy, base: Base, ends: Tensor, ladder: Ladder, generator: torch.Generator | None = None
    ) -> Weights:
        """From exp(−E) down to p₀: log 1/w."""
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
        """The states after `steps` transitions at β = 1, which leave exp(−E) invariant."""
        with during_chain(energy, x.device, "ambient"):
            at = States.at(energy, x)
            for _ in tracked(range(steps), "settling"):
                at, _ = hamiltonian_step(energy, base, 1.0, at, ladder.step_sizes[-1], self.leapfrog, generator)
        return at.x

    def pilot(self, energy: Energy, base: Base, like: Tensor, generator: torch.Generator | None = None) -> Ladder:
        """β at equal distances ∫ sd(E − E₀) dβ, the sd under p_β, and step sizes near `acceptance`, by other chains.

        The distance is what a step of log w varies by (Gelman and Meng 1998, §4.3); a tenth of it is given to the even
        steps of the pilot's own β_k = (k/(K + 1))⁴, so that no β is left alone where the pilot's chains saw nothing.
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
        placed = torch.tensor(betas, dtype=torch.float64)
        sd = torch.tensor(spreads, dtype=torch.float64)
        length = ((sd[1:] + sd[:-1]) / 2 * placed.diff()).cumsum(0)
        even = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        distance = torch.cat([torch.zeros(1, dtype=torch.float64), 0.9 * length / length[-1] + 0.1 * even])
        if not length.isfinite().all() or length[-1] == 0:
            distance = torch.arange(steps + 1, dtype=torch.float64) / steps
        wanted = torch.arange(steps + 1, dtype=torch.float64) / steps * distance[-1]
        chosen = _interpolated(wanted, distance, placed).tolist()
        chosen[0], chosen[-1] = 0.0, 1.0
        log_sizes = torch.tensor(sizes, dtype=torch.float64).log()
        return Ladder(chosen, _interpolated(wanted, distance, log_sizes).exp()[1:].tolist())

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
        """log w = −Σ_k (β_k − β_{k−1}) (E − E₀)(x_{k−1}) along `betas`, whichever way they go."""
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
            raise ChainDivergedError("the weights of annealed chains are not numbers: the energy is not finite")
        return Weights(log_w.cpu(), acceptance)


def _spread(at: States, base: Base) -> float:
    """The standard deviation of E − E₀ over chains, of those where it is finite."""
    difference = at.energy - base.energy(at.x)
    finite = difference[difference.isfinite()]
    return float(finite.std()) if len(finite) > 1 else math.nan


def _interpolated(at: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The piecewise linear function through (x, y), x rising, at points between its ends."""
    right = torch.searchsorted(x, at).clamp(1, len(x) - 1)
    share = (at - x[right - 1]) / (x[right] - x[right - 1])
    return torch.lerp(y[right - 1], y[right], share)
