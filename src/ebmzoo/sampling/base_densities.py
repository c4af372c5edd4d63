"""Normalised densities that annealed importance sampling starts from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class Base(ABC):
    """A normalised density p₀ that annealing starts from; its samples have the type and the device of `like`."""

    @abstractmethod
    def draw(self, n: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return `n` exact samples, `(n, *)`, each with the shape of one of `like`, `(B, *)`."""

    @abstractmethod
    def energy(self, x: Tensor) -> Tensor:
        """Return −log p₀(x) with its constant: `(B, *)` to `(B,)` float64."""

    @abstractmethod
    def gradient(self, x: Tensor) -> Tensor:
        """Return −∇ log p₀(x), `(B, *)`."""

    @property
    @abstractmethod
    def scale(self) -> float:
        """A step size that is long enough for p₀, the upper limit of the pilot's step sizes."""

    def reflect(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return position and velocity after reflection at the walls of the support, if it has any."""
        return x, v


@dataclass(frozen=True)
class Normal(Base):
    """N(mean, std² I) on the whole space, for an energy with a finite integral of exp(−E).

    >>> Normal().energy(torch.zeros(1, 2)).exp()  # 1/p₀(0) = 2π
    tensor([6.2832], dtype=torch.float64)

    Args:
        mean: Mean of every element.
        std: Standard deviation of every element, positive.
    """

    mean: float = 0.0
    std: float = 1.0

    def draw(self, n: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        shape = (n, *like.shape[1:])
        return self.mean + self.std * torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)

    def energy(self, x: Tensor) -> Tensor:
        z = (x.double() - self.mean).flatten(1) / self.std
        return z.square().sum(1) / 2 + z.shape[1] * math.log(self.std * math.sqrt(2 * math.pi))

    def gradient(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std**2

    @property
    def scale(self) -> float:
        return 2 * self.std


@dataclass(frozen=True)
class Box(Base):
    """Uniform on [low, high]^D: Z is then the integral of exp(−E) over the box, for every energy that is finite there.

    A particle that leaves the box is reflected at its walls, so that transitions remain reversible and of volume one
    (Neal 2011, §5.5.1.5). Rejecting it instead would trap chains near the corners, where dark images are.

    >>> Box(0.0, 1.0).reflect(torch.tensor([[1.25]]), torch.tensor([[2.0]]))
    (tensor([[0.7500]]), tensor([[-2.]]))

    Args:
        low: Lower end of the range of every element.
        high: Upper end, above `low`.
    """

    low: float = -1.0
    high: float = 1.0

    def draw(self, n: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        u = torch.rand((n, *like.shape[1:]), dtype=like.dtype, device=like.device, generator=generator)
        return self.low + (self.high - self.low) * u

    def energy(self, x: Tensor) -> Tensor:
        value = x[0].numel() * math.log(self.high - self.low)
        return torch.full((len(x),), value, dtype=torch.float64, device=x.device)

    def gradient(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    @property
    def scale(self) -> float:
        return self.high - self.low

    def reflect(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        width = self.high - self.low
        # After a path of two widths a particle is back at the same point with the same velocity.
        position = (x - self.low).remainder(2 * width)
        reflected = position > width
        return self.low + torch.where(reflected, 2 * width - position, position), torch.where(reflected, -v, v)
