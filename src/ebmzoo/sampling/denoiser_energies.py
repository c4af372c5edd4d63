"""Energies made of a denoiser."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebmzoo.energy import savable
from ebmzoo.networks.denoiser import Denoiser
from ebmzoo.sampling.noise_schedule import column


@dataclass(frozen=True)
class DenoisingError:
    """The denoising error U(x) = |x − r(x + σε, σ)|² / 2 max(σ, floor)² with ε ~ N(0, I), low where r restores x.

    Up to a constant it is −log N(x; r(x̃, σ), σ²I) at x̃ = x + σε. The gradient also flows through x̃.
    Source: Denoising-EBM, Eq. 7 (texture energy), where the text before it must read U ≈ −log q(x|x̃).
    Shapes: `x` is `(B, C, H, W)`; the energy is `(B,)`.

    Args:
        denoiser: r.
        sigma: σ, `(B,)`.
        floor: Lower limit of σ in the denominator; 0 is Eq. 7 itself.
        noise: A fixed ε that broadcasts to x; None draws a new one at each call.
        generator: Source of ε; None is torch's global generator.
    """

    denoiser: Denoiser
    sigma: Tensor
    floor: float = 0.0
    noise: Tensor | None = None
    generator: torch.Generator | None = None

    def __call__(self, x: Tensor) -> Tensor:
        xi = self.noise
        if xi is None:
            xi = torch.randn(x.shape, device=x.device, dtype=x.dtype, generator=self.generator)
        sigma = savable(self.sigma)
        error: Tensor = x - self.denoiser(x + column(sigma, x) * xi, sigma)
        return error.square().flatten(1).sum(1) / (2 * sigma.clamp_min(self.floor).square())


@dataclass(frozen=True)
class DenoisingPotential:
    """The energy E(x) = x·(x − r(x, σ))/2σ² of a denoiser.

    Its force −∇E is (r(x) − x)/σ² if r is linear and symmetric, r(x) = Kx with K = Kᵀ.
    Source: Romano, Elad & Milanfar (2017), Regularization by denoising, Eq. 4.
    Shapes: `x` is `(B, C, H, W)`; the energy is `(B,)`.

    Args:
        denoiser: r.
        sigma: σ, `(B,)`.
    """

    denoiser: Denoiser
    sigma: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        sigma = savable(self.sigma)
        residual: Tensor = x - self.denoiser(x, sigma)
        return (x * residual).flatten(1).sum(1) / (2 * sigma.square())


@dataclass(frozen=True)
class OfScore:
    """−s(x)·x, with s(x) = (r(x, σ) − x)/σ² taken as a constant, so that its gradient is −s(x).

    With it `Langevin` follows a vector field that need not be a gradient; the value itself has no meaning.
    Source: Vincent (2011); Denoising-EBM, Eq. 2. Shapes: `x` is `(B, C, H, W)`; the value is `(B,)`.

    Args:
        denoiser: r.
        sigma: σ, `(B,)`.
    """

    denoiser: Denoiser
    sigma: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            score: Tensor = (self.denoiser(x, self.sigma) - x) / column(self.sigma, x).square()
        return -(score * x).flatten(1).sum(1)
