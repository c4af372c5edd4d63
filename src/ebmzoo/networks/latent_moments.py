"""The mean and covariance of a network's latents, and the affine map that takes N(0, I) to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

SHRINKAGE = 1e-3
"""r, the weight of a multiple of I with the trace of Σ: after layer norm, Σ has variance zero in one direction."""


@dataclass(frozen=True)
class Affine:
    """The map z = μ + L u, fp32 also under autocast; shapes: μ `(d,)`, L `(d, d)`, u and z `(B, d)`."""

    mean: Tensor
    factor: Tensor

    def __call__(self, u: Tensor) -> Tensor:
        with torch.autocast(u.device.type, enabled=False):
            return self.mean + u @ self.factor.T


@final
class LatentMoments(nn.Module):
    """Running μ = E z and Σ = E (z − μ)(z − μ)ᵀ, which are 0 and I before the first batch.

    z = μ + L u with LLᵀ = (1 − r) Σ + r (tr Σ/d) I maps u ~ N(0, I) to a distribution with the latents' moments. A
    Langevin step on u,

        u ← u − η ∂U/∂u + √(2η) ξ,   is   z ← z − η LLᵀ ∇U(z) + √(2η) L ξ,

    the chain on z preconditioned by their covariance, which has the same stationary law. All batches have equal weight
    until that weight has fallen to `rate`, which is then the weight of each new one. A checkpoint from before moments
    were saved leaves them 0 and I. Shapes: `z` is `(B, d)`.

    Args:
        latent: d.
        rate: Least weight of a new batch, in [0, 1].
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

    def of_batch(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means of z, `(d,)`, and of zzᵀ, `(d, d)`, over a batch."""
        with torch.autocast(z.device.type, enabled=False):
            return z.mean(0), z.T @ z / len(z)

    @torch.no_grad()
    def update(self, mean: Tensor, second: Tensor) -> None:
        """Add a batch with these moments, as `of_batch` returns them, to the running means."""
        weight = (1 / (self.batches + 1)).clamp_min(self.rate)
        self.mean.lerp_(mean, weight)
        self.second.lerp_(second, weight)
        self.batches += 1

    def map(self) -> Affine:
        """Return the map from u to z for the present moments."""
        covariance = self.second - torch.outer(self.mean, self.mean)
        level = SHRINKAGE * covariance.diagonal().mean() * torch.eye(len(covariance)).to(covariance)
        # `cholesky` would make the host wait for its error code; with the shrinkage it cannot fail
        factor = torch.linalg.cholesky_ex((1 - SHRINKAGE) * covariance + level)[0]
        return Affine(self.mean.clone(), factor)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name, buffer in self.named_buffers():
            state_dict.setdefault(prefix + name, buffer)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
