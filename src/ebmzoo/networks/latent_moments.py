"""The mean and covariance of a network's latents, and the map that gives N(0, I) both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

SHRINKAGE = 1e-3
"""r, how much of Σ is replaced by a multiple of I with its trace: layer norm leaves one direction of Σ empty."""


@dataclass(frozen=True)
class Affine:
    """z = μ + L u: shapes μ `(d,)`, L `(d, d)`, u and z `(B, d)`, fp32 also under autocast."""

    mean: Tensor
    factor: Tensor

    def __call__(self, u: Tensor) -> Tensor:
        with torch.autocast(u.device.type, enabled=False):
            return self.mean + u @ self.factor.T


@final
class LatentMoments(nn.Module):
    """Running μ = E z and Σ = E (z − μ)(z − μ)ᵀ; until the first batch 0 and I.

    z = μ + L u with LLᵀ = (1 − r) Σ + r (tr Σ/d) I takes u ~ N(0, I) to a law with the latents' moments. A Langevin
    step on u,

        u ← u − η ∂U/∂u + √(2η) ξ,   is   z ← z − η LLᵀ ∇U(z) + √(2η) L ξ,

    the chain on z preconditioned by their covariance, which has the same stationary law. Batches weigh alike until the
    weight of one is `rate`. A checkpoint without moments, of before they were kept, leaves them 0 and I.

    Shapes: `z` is `(B, d)`.
    """

    mean: Tensor
    second: Tensor
    batches: Tensor

    def __init__(self, latent: int, rate: float = 0.01) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("mean", torch.zeros(latent))
        self.register_buffer("second", torch.eye(latent))
        self.register_buffer("batches", torch.zeros(()))

    def of(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of a batch and of its zzᵀ."""
        with torch.autocast(z.device.type, enabled=False):
            return z.mean(0), z.T @ z / len(z)

    @torch.no_grad()
    def follow(self, mean: Tensor, second: Tensor) -> None:
        """Take a batch in, by what `of` says of it."""
        weight = (1 / (self.batches + 1)).clamp_min(self.rate)
        self.mean.lerp_(mean, weight)
        self.second.lerp_(second, weight)
        self.batches += 1

    def map(self) -> Affine:
        """u to z, by the moments of now."""
        covariance = self.second - torch.outer(self.mean, self.mean)
        level = SHRINKAGE * covariance.diagonal().mean() * torch.eye(len(covariance)).to(covariance)
        # `cholesky` itself would make the host wait, to ask whether it went well; the shrinkage sees to that
        factor = torch.linalg.cholesky_ex((1 - SHRINKAGE) * covariance + level)[0]
        return Affine(self.mean.clone(), factor)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name, buffer in self.named_buffers():
            state_dict.setdefault(prefix + name, buffer)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
