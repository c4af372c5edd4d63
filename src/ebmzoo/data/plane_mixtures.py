"""Densities on the plane that are mixtures of Gaussians of one width: a ring of Gaussians, moons, and rings."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ebmzoo.data.normal_integrals import normal_mass
from ebmzoo.data.plane import PlaneData, PointSet
from ebmzoo.errors import UserError


class PlaneMixture(PlaneData):
    """Equally likely Gaussians of one width: p(x') = e^{−E(x')}/Z with known E and Z, at every noise level.

    E(x') = −log Σ_k exp(−|x' − ᾱμ_k|²/2s²), Z = 2π s² K, s² = ᾱ² std² + σ̄².

    Args:
        means: μ_k, `(K, 2)`.
        std: The standard deviation of a Gaussian on each axis.
        labels: The class of each component, `(K,)`.
        **common: Arguments of `PlaneData`.

    Raises:
        UserError: `std` is out of its range, or a mean is not finite.
    """

    def __init__(self, means: Tensor, std: float, labels: Tensor, **common: Any) -> None:
        super().__init__(**common)
        if not (std > 0 and math.isfinite(std)):
            raise UserError(f"std: {std} must be a positive number")
        self.means, self.std, self.labels = means.double(), std, labels
        self.reach = float(self.means.abs().max()) + 4 * std
        self.classes = tuple(str(label) for label in range(int(labels.max()) + 1))

    @property
    def components(self) -> int:
        """The number of Gaussians, K."""
        return len(self.means)

    def draw(self, n: int, generator: torch.Generator | None = None) -> PointSet:
        component = torch.randint(self.components, (n,), generator=generator)
        noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
        return PointSet((self.means[component] + self.std * noise).float(), self.labels[component])

    def energy(self, points: Tensor, alpha_bar: float = 1.0, sigma_bar: float = 0.0) -> Tensor:
        """Return E(x') of points `(N, 2)`: `(N,)` float64."""
        squares = (points.double()[:, None] - alpha_bar * self.means).square().sum(2)
        return -torch.logsumexp(-squares / (2 * self._variance(alpha_bar, sigma_bar)), dim=1)

    def log_z(self, alpha_bar: float = 1.0, sigma_bar: float = 0.0) -> float:
        """Return log Z = log(2π s² K)."""
        return math.log(2 * math.pi * self._variance(alpha_bar, sigma_bar) * self.components)

    def density(self, points: Tensor, alpha_bar: float = 1.0, sigma_bar: float = 0.0) -> Tensor:
        return (-self.energy(points, alpha_bar, sigma_bar) - self.log_z(alpha_bar, sigma_bar)).exp()

    def masses(self, edges: Tensor, alpha_bar: float = 1.0, sigma_bar: float = 0.0) -> Tensor:
        z = (edges.double() - alpha_bar * self.means[:, :, None]) / math.sqrt(self._variance(alpha_bar, sigma_bar))
        x, y = normal_mass(z[..., :-1], z[..., 1:]).unbind(1)
        return torch.einsum("ck,cl->kl", x, y) / self.components

    def _variance(self, alpha_bar: float, sigma_bar: float) -> float:
        return (alpha_bar * self.std) ** 2 + sigma_bar**2


class GaussianMixture(PlaneMixture):
    """A ring of equally likely Gaussians, of which the class is the index.

    >>> data = GaussianMixture(components=8, n_train=100, n_test=10)
    >>> data.train_set.points.shape, data.energy(torch.zeros(1, 2)).shape
    (torch.Size([100, 2]), torch.Size([1]))

    Args:
        components: The number of Gaussians, K.
        radius: The radius of the ring of means μ_k.
        std: The standard deviation of a Gaussian on each axis.
        **common: Arguments of `PlaneData`.

    Raises:
        UserError: If a number is out of its range.
    """

    name = "gaussian_mixture"

    def __init__(self, components: int = 8, radius: float = 0.7, std: float = 0.1, **common: Any) -> None:
        if components < 1:
            raise UserError(f"components: {components} must be 1 or more")
        if not (radius >= 0 and math.isfinite(radius)):
            raise UserError(f"radius: {radius} must be a finite number, 0 or more")
        means = radius * _circle(components)
        super().__init__(means=means, std=std, labels=torch.arange(components), **common)


class Rings(PlaneMixture):
    """Concentric rings of one density along them, with Gaussian noise: the class is the index of the ring, from inside.

    The noise is that of Gaussians a standard deviation apart, whose sum is even to 1e-8.

    >>> Rings(rings=2, n_train=100, n_test=10).classes
    ('0', '1')

    Args:
        rings: The number of rings; the radius of the i-th is i/rings · radius.
        radius: The radius of the outermost ring.
        std: The standard deviation of the noise on each axis.
        **common: Arguments of `PlaneData`.

    Raises:
        UserError: If a number is out of its range.
    """

    name = "rings"

    def __init__(self, rings: int = 3, radius: float = 0.8, std: float = 0.05, **common: Any) -> None:
        if rings < 1:
            raise UserError(f"rings: {rings} must be 1 or more")
        _check_curve(radius, std)
        radii = [radius * (i + 1) / rings for i in range(rings)]
        curves = [r * _circle(math.ceil(2 * math.pi * r / std)) for r in radii]
        super().__init__(means=torch.cat(curves), std=std, labels=_labels(curves), **common)


class Moons(PlaneMixture):
    """Two half circles, each of which ends in the other, with Gaussian noise: the class is the index of the moon.

    The upper one is around (−radius/2, −radius/4), the lower one around (radius/2, radius/4). The noise is that of
    Gaussians a standard deviation apart.

    >>> Moons(n_train=100, n_test=10).classes
    ('0', '1')

    Args:
        radius: The radius of either half circle.
        std: The standard deviation of the noise on each axis.
        **common: Arguments of `PlaneData`.

    Raises:
        UserError: If a number is out of its range.
    """

    name = "moons"

    def __init__(self, radius: float = 0.5, std: float = 0.05, **common: Any) -> None:
        _check_curve(radius, std)
        angles = torch.linspace(0, math.pi, math.ceil(math.pi * radius / std) + 1, dtype=torch.float64)
        upper = radius * torch.stack([angles.cos() - 0.5, angles.sin() - 0.25], dim=1)  # around its centre
        super().__init__(means=torch.cat([upper, -upper]), std=std, labels=_labels([upper, upper]), **common)


def _circle(n: int) -> Tensor:
    """`n` points of the unit circle, evenly spaced: `(n, 2)` float64."""
    angles = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def _labels(curves: list[Tensor]) -> Tensor:
    return torch.cat([torch.full((len(curve),), i) for i, curve in enumerate(curves)])


def _check_curve(radius: float, std: float) -> None:
    if not (radius > 0 and math.isfinite(radius)):
        raise UserError(f"radius: {radius} must be a positive number")
    if not (radius / 500 <= std < math.inf):  # the components are as many as standard deviations along the curves
        raise UserError(f"std: {std} must be a finite number, {radius / 500:.2g} (radius/500) or more")
