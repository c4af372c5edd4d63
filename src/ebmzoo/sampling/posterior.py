"""The posterior p(z|x) of a generator's latents, and the chain that samples it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmzoo.energy import savable
from ebmzoo.errors import UserError
from ebmzoo.sampling.langevin import Langevin


@dataclass(frozen=True)
class Posterior:
    """The energy of p(z|x) ∝ exp(−U(z)) for x = G(z) + σε and z ~ N(0, I):

        U(z) = |x − G(z)|²/2σ² + |z|²/2.

    Source: Dual-MCMC (Eq. 4 and 6). Shapes: `z` is `(B, latent)`; the energy is `(B,)`.

    >>> Posterior(lambda z: 2 * z, x=torch.tensor([[2.0]]), sigma=1.0)(torch.tensor([[0.5]]))
    tensor([0.6250])

    Args:
        generator: G, latents `(B, latent)` to images `(B, C, H, W)`.
        x: Images `(B, C, H, W)` in the generator's range.
        sigma: σ, in the units of the images.
    """

    generator: Callable[[Tensor], Tensor]
    x: Tensor
    sigma: float

    def __call__(self, z: Tensor) -> Tensor:
        squared_error = (savable(self.x) - self.generator(z)).square().flatten(1).sum(1)
        return squared_error / (2 * self.sigma**2) + z.square().sum(1) / 2


def positive(value: float, key: str) -> float:
    """Return `value`, a standard deviation.

    Raises:
        UserError: If it is not positive and finite; the error names `key`.
    """
    if not (value > 0 and math.isfinite(value)):
        raise UserError(f"{key} is {value}; it must be a positive number")
    return value


@dataclass(frozen=True)
class PosteriorSampler:
    """Langevin dynamics on the posterior of a generator's latents: z ← z − η ∇U(z) + τ ξ, with U of `Posterior`.

    The papers' step s is η = s²/2, τ = s: temperature one, and z ~ p(z|x) after many small steps.
    Source: Dual-MCMC (Eq. 6); the defaults are those of its code: 10 steps of s = 0.1, σ = 0.3.

    For G(z) = z and σ = 1, U has its minimum at x/2:

    >>> sampler = PosteriorSampler(Langevin(steps=2, step_size=0.25, noise=0.0), sigma=1.0)
    >>> sampler(lambda z: z, x=torch.tensor([[2.0]]), z=torch.tensor([[0.0]]))
    tensor([[0.7500]])

    Args:
        sampler: The chain on z.
        sigma: σ, the standard deviation of x given z, in the units of the images.
        legacy_sigma: Omit the ½ of the likelihood as Dual-MCMC's code does, |x − G(z)|²/σ², so that σ becomes σ/√2.

    Raises:
        UserError: If σ is not positive and finite.
    """

    sampler: Langevin = Langevin(steps=10, step_size=0.005, noise=0.1)  # noqa: RUF009  (frozen)
    sigma: float = 0.3
    legacy_sigma: bool = False

    def __post_init__(self) -> None:
        positive(self.sigma, "posterior.sigma")

    @property
    def likelihood_sigma(self) -> float:
        """σ of the likelihood in U: `sigma`, or `sigma`/√2 with `legacy_sigma`."""
        return self.sigma / math.sqrt(2) if self.legacy_sigma else self.sigma

    def posterior(self, generator: Callable[[Tensor], Tensor], x: Tensor) -> Posterior:
        """Return U for the images `x`, `(B, C, H, W)`."""
        return Posterior(generator, x, self.likelihood_sigma)

    def __call__(self, generator: Callable[[Tensor], Tensor], x: Tensor, z: Tensor) -> Tensor:
        """Return the latents `(B, latent)` of the images `x` after the chain from `z`, detached.

        Raises:
            ChainDivergedError: If a state is infinite or NaN.
        """
        return self.sampler(self.posterior(generator, x), z)

    def path(
        self,
        generator: Callable[[Tensor], Tensor],
        x: Tensor,
        z: Tensor,
        *,
        steps: int | None = None,
        random: torch.Generator | None = None,
    ) -> Iterator[Tensor]:
        """Yield all K + 1 states of the chain from `z`; K is `steps`, or the sampler's own if it is None."""
        sampler = self.sampler.lasting(steps)
        return sampler.path(self.posterior(generator, x), z, generator=random)
