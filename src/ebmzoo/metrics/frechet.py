"""The Fréchet distance between two sets of features, from running means and covariances in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from ebmzoo.errors import UserError


class FeatureStatistics:
    """Running mean and covariance of feature vectors, in float64 on the CPU; no feature is kept.

    Args:
        dim: length D of a feature vector.
    """

    def __init__(self, dim: int) -> None:
        self.n = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self._scatter = torch.zeros(dim, dim, dtype=torch.float64)

    @classmethod
    def of(cls, features: Tensor) -> FeatureStatistics:
        """The statistics of one set `(N, D)`."""
        if features.ndim != 2:
            raise UserError(f"features must have shape (N, D), found {tuple(features.shape)}.")
        statistics = cls(features.shape[1])
        statistics.update(features)
        return statistics

    def update(self, features: Tensor) -> None:
        """Adds `(N, D)` features: M ← M + Σ(x−m)(x−m)ᵀ + (m−μ)(m−μ)ᵀ nN/(n+N) (Chan et al., 1979).

        Raises:
            UserError: wrong shape, or NaN or infinite features.
        """
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise UserError(f"features must have shape (N, {len(self.mean)}), found {tuple(features.shape)}.")
        if not features.isfinite().all():
            raise UserError("the features hold NaN or infinity: the images or the extractor have diverged.")
        x = features.detach().to("cpu", torch.float64)
        if not len(x):
            return
        total = self.n + len(x)
        mean = x.mean(0)
        shift = mean - self.mean
        x = x - mean
        self._scatter += x.T @ x + torch.outer(shift, shift) * (self.n * len(x) / total)
        self.mean += shift * (len(x) / total)
        self.n = total

    @property
    def covariance(self) -> Tensor:
        """Σ(x−μ)(x−μ)ᵀ / (n−1), `(D, D)`; needs two features or more."""
        if self.n < 2:
            raise UserError(f"a Fréchet distance needs at least 2 images on each side, found {self.n}.")
        return self._scatter / (self.n - 1)

    def distance(self, other: FeatureStatistics) -> float:
        """d² = |μ₁−μ₂|² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½), in [0, ∞) (Heusel et al., 2017, equation 6).

        With Σᵢ = SᵢSᵢᵀ, tr(Σ₁Σ₂)^½ is the sum of the singular values of S₁ᵀS₂, which also holds when n ≤ D.
        """
        if len(self.mean) != len(other.mean):
            raise UserError(
                f"features of length {len(self.mean)} and {len(other.mean)} cannot be compared: use one extractor."
            )
        c1, c2 = self.covariance, other.covariance
        cross = torch.linalg.svdvals(_root(c1).T @ _root(c2)).sum()
        d2 = (self.mean - other.mean).square().sum() + c1.trace() + c2.trace() - 2 * cross
        return max(0.0, float(d2))


def _root(covariance: Tensor) -> Tensor:
    """S with SSᵀ = Σ; eigenvalues below rounding are taken for zero, as their roots would not be small."""
    w, v = torch.linalg.eigh(covariance)
    floor = w[-1] * len(w) * torch.finfo(w.dtype).eps
    root: Tensor = v * w.where(w > floor, 0.0).sqrt()
    return root


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """The Fréchet distance d² between features `(N, D)` and `(M, D)`: `FeatureStatistics.distance`, in float64."""
    return FeatureStatistics.of(real).distance(FeatureStatistics.of(fake))
