"""Degradations of single pixels and of blocks of pixels: noise, grey, low resolution and masks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from ebmzoo.data.degradations.operator import Operator, check_noise
from ebmzoo.data.masks import Mask
from ebmzoo.errors import UserError


@dataclass(frozen=True)
class Identity(Operator):
    """A = I: the noise is the only degradation.

    Args:
        noise: σ, the standard deviation of the noise.

    Raises:
        UserError: If `noise` is negative or not finite.
    """

    noise: float = 0.25
    name = "denoise"

    def __post_init__(self) -> None:
        check_noise(self.noise)

    def __call__(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        return y

    def pinv(self, y: Tensor) -> Tensor:
        return y

    def amplification(self, size: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Grayscale(Operator):
    """A x = Σ_c w_c x_c, one channel instead of three; A⁺y = w y/|w|².

    With equal weights, as in DDNM, A⁺y is grey. `luma` has the weights that image files use.

    Args:
        weights: The weights w of the three channels.
        noise: σ, the standard deviation of the noise.

    Raises:
        UserError: If all weights are 0, or `noise` is negative or not finite.
    """

    weights: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3)
    noise: float = 0.0
    name = "color"

    def __post_init__(self) -> None:
        check_noise(self.noise)
        if not any(self.weights):
            raise UserError(f"operator color: weights are {list(self.weights)}; one or more must differ from 0")

    @classmethod
    def luma(cls) -> Grayscale:
        """Return the operator with the usual weights of a conversion to grey (ITU-R BT.601)."""
        return cls((0.299, 0.587, 0.114))

    def __call__(self, x: Tensor) -> Tensor:
        return (self._column(x) * x).sum(1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._column(y) * y

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y) / sum(w**2 for w in self.weights)

    def amplification(self, size: int) -> float:
        return 1 / math.hypot(*self.weights)

    def lacks(self, channels: int, size: int) -> str | None:
        return None if channels == 3 else "images of 3 channels"

    def measured(self, channels: int, size: int) -> tuple[int, int, int]:
        return 1, size, size

    def _column(self, x: Tensor) -> Tensor:
        return x.new_tensor(self.weights).view(1, 3, 1, 1)


@dataclass(frozen=True)
class Downsample(Operator):
    """A x: the means of blocks of f × f pixels; Aᵀy = A⁺y/f², and A⁺y repeats each mean over its block.

    Args:
        factor: The side f of a block.
        noise: σ, the standard deviation of the noise.

    Raises:
        UserError: If `factor` is below 2, or `noise` is negative or not finite.
    """

    factor: int
    noise: float = 0.0

    def __post_init__(self) -> None:
        check_noise(self.noise)
        if self.factor < 2:
            raise UserError(f"operator: factor is {self.factor}; it must be 2 or more")

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"sr{self.factor}"

    def __call__(self, x: Tensor) -> Tensor:
        f, (b, c, height, width) = self.factor, x.shape
        return x.reshape(b, c, height // f, f, width // f, f).mean((3, 5))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.pinv(y) / self.factor**2

    def pinv(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.factor, 2).repeat_interleave(self.factor, 3)

    def amplification(self, size: int) -> float:
        return float(self.factor)

    def lacks(self, channels: int, size: int) -> str | None:
        return None if size % self.factor == 0 else f"images whose side is a multiple of {self.factor}"

    def measured(self, channels: int, size: int) -> tuple[int, int, int]:
        return channels, size // self.factor, size // self.factor


@dataclass(frozen=True)
class Masking(Operator):
    """A x: x with 0 at the pixels that the mask hides; A = Aᵀ = A⁺.

    Args:
        mask: Which pixels are hidden.
        noise: σ, the standard deviation of the noise.

    Raises:
        UserError: If `noise` is negative or not finite.
    """

    mask: Mask
    noise: float = 0.0
    name = "inpaint"

    def __post_init__(self) -> None:
        check_noise(self.noise)

    def __call__(self, x: Tensor) -> Tensor:
        return x.masked_fill(_hidden(self.mask, x.shape[-1]).to(x.device), 0.0)

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def pinv(self, y: Tensor) -> Tensor:
        return self(y)

    def amplification(self, size: int) -> float:
        return 1.0


@lru_cache(maxsize=8)
def _hidden(mask: Mask, size: int) -> Tensor:
    return mask(size)
