"""The generator posterior p(z|x), and the chain that samples it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmzoo.errors import UserError
from ebmzoo.sampling.langevin import Langevin


@dataclass(frozen=True)
class Posterior:
    """U(z) = |x − G(z)|²/2σ² + |z|²/2, of which p(z|x) ∝ exp(−U(z)) for x = G(z) + σε and z ~ N(0, I).

    Source: Dual-MCMC (Eq. 4 and 6).
    Shapes: `z` is `(B, latent)`, `x` is `(B, C, H, W)` in the generator's range; the energy is `(B,)`.
    """

    generator: Callable[[Tensor], Tensor]
    x: Tensor
    sigma: float

    def __call__(self, z: Tensor) -> Tensor:
        # An image made under inference mode cannot be saved for a backward pass; its copy can.
        x = self.x.clone() if self.x.is_inference() else self.x
        squared_error = (x - self.generator(z)).square().flatten(1).sum(1)
        return squared_error / (2 * self.sigma**2) + z.square().sum(1) / 2


def positive(value: float, key: str) -> float:
    """`value`, or a `UserError` that names the key if it is no standard deviation."""
    if not (value > 0 and math.isfinite(value)):
        raise UserError(f"{key} is {value}; it must be a positive number")
    return value


@dataclass(frozen=True)
class PosteriorSampler:
    """Langevin on the generator posterior: z ← z − η ∇U(z) + τ ξ, with U of `Posterior`.

    The papers' step s is η = s²/2, τ = s: temperature one, and z ~ p(z|x) after many small steps.
    Source: Dual-MCMC (Eq. 6); the numbers are its code's: 10 steps of s = 0.1, σ = 0.3.

    Args:
        sampler: the chain on z.
        sigma: σ, the standard deviation of x given z, in the units of the images.
        legacy_sigma: as the code of Dual-MCMC, without the ½ of the likelihood: |x − G(z)|²/σ², hence σ/√2 for σ.

    Raises:
        UserError: σ is not positive.
    """

    sampler: Langevin = Langevin(steps=10, step_size=0.005, noise=0.1)  # noqa: RUF009  (frozen)
    sigma: float = 0.3
    legacy_sigma: bool = False

    def __post_init__(self) -> None:
        positive(self.sigma, "posterior.sigma")

    @property
    def likelihood_sigma(self) -> float:
        """σ of the likelihood that the chain follows."""
        return self.sigma / math.sqrt(2) if self.legacy_sigma else self.sigma

    def posterior(self, generator: Callable[[Tensor], Tensor], x: Tensor) -> Posterior:
        """U(·) of the images `x`."""
        return Posterior(generator, x, self.likelihood_sigma)

    def __call__(self, generator: Callable[[Tensor], Tensor], x: Tensor, z: Tensor) -> Tensor:
        """The latents of `x` after the chain from `z`, `(B, latent)`, detached."""
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
        """Every state of the chain from `z`, K + 1 in all; K is `steps` where given."""
        sampler = self.sampler.lasting(steps)
        return sampler.path(self.posterior(generator, x), z, generator=random)
