"""What a linear degradation of images provides: the operator, its adjoint, its pseudo-inverse and the noise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmzoo.errors import UserError


class Operator(ABC):
    """y = A x + σε, ε ~ N(0, I): a linear A with its adjoint Aᵀ and its Moore–Penrose pseudo-inverse A⁺, all exact.

    A⁺y is the shortest x that explains y best. A⁺A projects on the part of x that y determines, I − A⁺A on the rest.
    Source: LIEBM §4.4; Wang et al., 2023 (DDNM), Eq. 6.
    Shapes: x is `(B, C, S, S)` in [-1, 1]; y is `(B, *measured(C, S))`. Results have the precision of the input.
    """

    name: str
    noise: float
    """σ, the standard deviation of the noise on y."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Return A x."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Return Aᵀy."""

    @abstractmethod
    def pinv(self, y: Tensor) -> Tensor:
        """Return A⁺y."""

    @abstractmethod
    def amplification(self, size: int) -> float:
        """Return the largest singular value of A⁺ for images of side `size`: the most that it enlarges noise on y."""

    def project(self, x: Tensor) -> Tensor:
        """Return A⁺A x."""
        return self.pinv(self(x))

    def null(self, x: Tensor) -> Tensor:
        """Return (I − A⁺A) x."""
        return x - self.project(x)

    def lacks(self, channels: int, size: int) -> str | None:
        """Return None if it can degrade such images, else the images that it needs, to complete "needs …"."""
        return None

    def measured(self, channels: int, size: int) -> tuple[int, int, int]:
        """Return the shape of y, (C', S', S'), for images (C, S, S)."""
        return channels, size, size

    def check(self, channels: int, size: int) -> None:
        """Check that it can degrade images (C, S, S).

        Raises:
            UserError: If it cannot.
        """
        if (lacking := self.lacks(channels, size)) is not None:
            raise UserError(f"operator {self.name} needs {lacking}, the model's have {channels} channels, side {size}")

    def degraded(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return A x + σε."""
        y = self(x)
        if self.noise == 0:
            return y
        return y + self.noise * torch.randn(y.shape, generator=generator, device=y.device, dtype=y.dtype)


def check_noise(noise: float) -> None:
    """Check that `noise` is a standard deviation.

    Raises:
        UserError: If it is negative or not finite.
    """
    if not (noise >= 0 and math.isfinite(noise)):
        raise UserError(f"operator: noise is {noise}; it must be a finite number, 0 or more")


@dataclass(frozen=True)
class Projection:
    """A⁺A as an operator of its own: an orthogonal projection.

    >>> from ebmzoo.data.degradations import Downsample
    >>> x = torch.rand(1, 1, 4, 4)
    >>> once = Projection(Downsample(2))(x)
    >>> torch.allclose(Projection(Downsample(2))(once), once)
    True

    Args:
        operator: The operator A.
    """

    operator: Operator

    def __call__(self, x: Tensor) -> Tensor:
        return self.operator.project(x)


def consistent(x: Tensor, y: Tensor, operator: Operator, rounds: int = 50) -> Tensor:
    """Return x after `rounds` times x ← clamp(A⁺y + (I − A⁺A) x), which approach an image in [-1, 1] with A x = y.

    These are von Neumann's alternating projections on two convex sets; they converge to a point of both if there is
    one. A single round without the clamp is DDNM's (Wang et al., 2023, Eq. 7).

    >>> from ebmzoo.data.degradations import Downsample
    >>> y = torch.full((1, 1, 2, 2), 0.5)
    >>> consistent(torch.zeros(1, 1, 4, 4), y, Downsample(2)).unique()
    tensor([0.5000])

    Args:
        x: Images `(B, C, S, S)`.
        y: Their measurements `(B, *measured(C, S))`.
        operator: The operator A.
        rounds: The number of rounds.
    """
    determined = operator.pinv(y)
    for _ in range(rounds):
        x = (determined + operator.null(x)).clamp(-1, 1)
    return x
