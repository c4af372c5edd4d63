"""The diagonal Gaussian q(z|x) = N(μ, diag exp(logvar)) whose parameters inference networks predict."""

from __future__ import annotations

import torch
from torch import Tensor

FLOOR = 1e-6
"""Added to the variance in the denominator of `nll`, as in the code of Divergence Triangle and Dual-MCMC."""


def draw(mu: Tensor, logvar: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return a sample z = μ + exp(logvar/2) ε, ε ~ N(0, I), differentiable in μ and logvar; all are `(B, latent)`."""
    noise = torch.randn(mu.shape, device=mu.device, dtype=mu.dtype, generator=generator)
    return mu + (logvar / 2).exp() * noise


def nll(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Return −log q(z|x) without its constant, `(B,)`: ½ Σ [logvar + (z − μ)²/(exp(logvar) + 1e-6)]."""
    return 0.5 * (logvar + (z - mu).square() / (logvar.exp() + FLOOR)).sum(1)


def kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """Return KL(q(z|x) ‖ N(0, I)) of each latent dimension, `(B, latent)`: ½ [μ² + exp(logvar) − 1 − logvar]."""
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)
