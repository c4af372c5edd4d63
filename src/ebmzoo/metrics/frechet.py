"""The Fréchet distance between two sets of features, from running means and covariances in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from ebmzoo.errors import UserError


class FeatureStatistics:
    """Running mean and covariance of feature vectors, in float64 on the CPU; the features themselves are not kept.

    >>> statistics = FeatureStatistics(dim=2)
    >>> statistics.update(torch.tensor([[0.0, 0.0], [2.0, 0.0]]))
    >>> statistics.n, statistics.mean.tolist(), statistics.covariance.tolist()
    (2, [1.0, 0.0], [[2.0, 0.0], [0.0, 0.0]])

    Args:
        dim: The length D of a feature vector.
    """

    def __init__(self, dim: int) -> None:
        self.n = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64)
        """Σ(x−μ)(x−μ)ᵀ, `(D, D)`."""

    @classmethod
    def of(cls, features: Tensor) -> FeatureStatistics:
        """Return the statistics of one set `(N, D)`.

        Raises:
            UserError: If `features` has another shape or a value that is not finite.
        """
        if features.ndim != 2:
            raise UserError(f"features must have shape (N, D), found {tuple(features.shape)}")
        statistics = cls(features.shape[1])
        statistics.update(features)
        return statistics

    @classmethod
    def of_moments(cls, n: int, mean: Tensor, scatter: Tensor) -> FeatureStatistics:
        """Return the statistics of n features with this `mean` `(D,)` and `scatter` `(D, D)`, both float64."""
        statistics = cls(len(mean))
        statistics.n, statistics.mean, statistics.scatter = n, mean, scatter
        return statistics

    def update(self, features: Tensor) -> None:
        """Add N features `(N, D)`: M ← M + Σ(x−m)(x−m)ᵀ + (m−μ)(m−μ)ᵀ nN/(n+N) (Chan et al., 1979).

        M is the scatter matrix and μ the mean of the n features so far, m the mean of the new ones.

        Raises:
            UserError: If `features` has another shape or a value that is not finite.
        """
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise UserError(f"features must have shape (N, {len(self.mean)}), found {tuple(features.shape)}")
        if not features.isfinite().all():
            raise UserError("the features contain NaN or infinity: the images or the extractor have diverged")
        x = features.detach().to("cpu", torch.float64)
        if not len(x):
            return
        total = self.n + len(x)
        mean = x.mean(0)
        shift = mean - self.mean
        x = x - mean
        self.scatter += x.T @ x + torch.outer(shift, shift) * (self.n * len(x) / total)
        self.mean += shift * (len(x) / total)
        self.n = total

    @property
    def covariance(self) -> Tensor:
        """Σ(x−μ)(x−μ)ᵀ / (n−1), `(D, D)`.

        Raises:
            UserError: If there are fewer than 2 features.
        """
        if self.n < 2:
            raise UserError(f"a Fréchet distance needs at least 2 images on each side, found {self.n}")
        return self.scatter / (self.n - 1)

    def distance(self, other: FeatureStatistics) -> float:
        """Return d² = |μ₁−μ₂|² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½), in [0, ∞) (Heusel et al., 2017, Eq. 6).

        With Σᵢ = SᵢSᵢᵀ, tr(Σ₁Σ₂)^½ is the sum of the singular values of S₁ᵀS₂, which also holds for n ≤ D.

        Raises:
            UserError: If a side has fewer than 2 features, or their lengths differ.
        """
        if len(self.mean) != len(other.mean):
            raise UserError(
                f"features of length {len(self.mean)} and {len(other.mean)} cannot be compared: use one extractor"
            )
        c1, c2 = self.covariance, other.covariance
        cross = torch.linalg.svdvals(_root(c1).T @ _root(c2)).sum()
        d2 = (self.mean - other.mean).square().sum() + c1.trace() + c2.trace() - 2 * cross
        return max(0.0, float(d2))


def _root(covariance: Tensor) -> Tensor:
    """Return S with SSᵀ = Σ; eigenvalues below rounding are set to zero, as their roots would not be small."""
    w, v = torch.linalg.eigh(covariance)
    floor = w[-1] * len(w) * torch.finfo(w.dtype).eps
    root: Tensor = v * w.where(w > floor, 0.0).sqrt()
    return root


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Return the Fréchet distance d² between two sets of features, in [0, ∞): `FeatureStatistics.distance`.

    >>> x = torch.tensor([[-1.0], [1.0]])
    >>> frechet_distance(x, x + 3)  # equal covariances: the squared distance of the means
    9.0

    Args:
        real: Features of real images, `(N, D)`.
        fake: Features of generated images, `(M, D)`.

    Raises:
        UserError: If a side has fewer than 2 features, lengths differ, or a value is not finite.
    """
    return FeatureStatistics.of(real).distance(FeatureStatistics.of(fake))
