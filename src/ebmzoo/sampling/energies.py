"""Energies composed of other energies of the same variable; `Langevin` samples any of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmzoo.energy import Energy, savable


@dataclass(frozen=True)
class Product:
    """The energy of a product of densities: E(x) = Σᵢ wᵢ Eᵢ(x).

    Source: Du et al. (2020), Eq. 3. Shapes: `x` is `(B, *)`; the energy is `(B,)`.

    >>> square = lambda x: x.square().sum(1)
    >>> Product((square, square), weights=(1.0, 2.0))(torch.ones(1, 2))
    tensor([6.])

    Args:
        energies: E₁, E₂, ….
        weights: w₁, w₂, …, one for each energy; None means that all are 1.
    """

    energies: tuple[Energy, ...]
    weights: tuple[float, ...] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        weights = self.weights or (1.0,) * len(self.energies)
        total = x.new_zeros(len(x))
        for weight, energy in zip(weights, self.energies, strict=True):
            total = total + weight * energy(x)
        return total


@dataclass(frozen=True)
class Tilted:
    """The energy E(x) + |x|²/2s² of the density exp(−E) times the reference density N(0, s²I).

    Source: Xie et al. (2018, CoopNets), Eq. 1. Shapes: `x` is `(B, *)`; the energy is `(B,)`.

    >>> Tilted(lambda x: torch.zeros(len(x)), std=2.0)(torch.full((1, 2), 2.0))
    tensor([1.])

    Args:
        energy: E.
        std: s, positive.
    """

    energy: Energy
    std: float

    def __call__(self, x: Tensor) -> Tensor:
        return self.energy(x) + x.square().flatten(1).sum(1) / (2 * self.std**2)


@dataclass(frozen=True)
class Tempered:
    """The energy E(x)/T, whose density exp(−E/T) is the stationary law of a chain at temperature T.

    Shapes: `x` is `(B, *)`; the energy is `(B,)`.

    >>> Tempered(lambda x: x.sum(1), temperature=0.5)(torch.ones(1, 2))
    tensor([4.])

    Args:
        energy: E.
        temperature: T, positive.
    """

    energy: Energy
    temperature: float

    def __call__(self, x: Tensor) -> Tensor:
        return self.energy(x) / self.temperature


@dataclass(frozen=True)
class Observed:
    """The posterior energy E(x) + |A x − y|²/2σ² of an image x with the measurement y = A x + σε.

    Source: LIEBM, Eq. 16 and 17, which compare A⁺A x with A⁺y. Shapes: `x` is `(B, *)`; the energy is `(B,)`.

    >>> energy = Observed(lambda x: torch.zeros(len(x)), operator=lambda x: x[:, :1], y=torch.zeros(1, 1), sigma=0.5)
    >>> energy(torch.ones(1, 2))  # only the first element is measured
    tensor([2.])

    Args:
        energy: E.
        operator: A, any differentiable function from `(B, *)` to the shape of `y`.
        y: The measurement.
        sigma: σ, positive; infinity gives E alone.
    """

    energy: Energy
    operator: Callable[[Tensor], Tensor]
    y: Tensor
    sigma: float

    def __call__(self, x: Tensor) -> Tensor:
        residual = self.operator(x) - savable(self.y)
        return self.energy(x) + residual.square().flatten(1).sum(1) / (2 * self.sigma**2)


@dataclass(frozen=True)
class Repelling:
    """The joint energy Σᵢ E(xᵢ) − Σ_{i<j} |B(xᵢ − xⱼ)|²/σ² of images that repel each other in groups.

    `together` successive images form a group. The value of an image is E(xᵢ) and half of its pairs', so that the sum
    over the batch, which `gradient` differentiates, is the joint energy. It has no lower bound: a chain needs `bounds`.
    Source: Energy Matching, §4 (interaction energy). Shapes: `x` is `(B, *)`; the energy is `(B,)`.

    >>> energy = Repelling(lambda x: torch.zeros(len(x)), sigma=2.0, together=2)
    >>> energy(torch.tensor([[0.0], [2.0], [5.0]]))  # the last image is alone
    tensor([-0.5000, -0.5000,  0.0000])

    Args:
        energy: E.
        sigma: σ, positive.
        together: The images of a group, 2 or more; the last group may have fewer.
        operator: B, a linear function of `(B, *)`; None is the identity.
    """

    energy: Energy
    sigma: float
    together: int
    operator: Callable[[Tensor], Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        seen = x if self.operator is None else self.operator(x)
        pairs = [
            (group[:, None] - group[None]).square().sum((1, 2)) / 2
            for group in torch.split(seen.flatten(1), self.together)
        ]
        return self.energy(x) - torch.cat(pairs) / self.sigma**2
