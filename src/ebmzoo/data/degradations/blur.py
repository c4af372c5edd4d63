"""Degradations by circular convolution: Gaussian and uniform blur."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ebmzoo.data.degradations.operator import Operator, check_noise
from ebmzoo.energy import at_least_fp32
from ebmzoo.errors import UserError


@dataclass(frozen=True)
class Blur(Operator, ABC):
    """A x = k ∗ x, circular and separable, without the frequencies that k almost removes.

    With the two-dimensional Fourier transform F, and t = F k set to 0 where |t| < `cutoff` · max |t|:

        A x = F⁻¹ (t F x),   Aᵀy = F⁻¹ (t̄ F y),   A⁺y = F⁻¹ (F y/t where t ≠ 0, else 0)

    The singular values of A are |t|. Without the cutoff A⁺ would still be exact, but useless: at each frequency it
    multiplies noise, or the rounding of a file to 8 bits, by 1/|t|. With the cutoff this is at most 1/`cutoff`, and the
    frequencies that it removes had less than the fraction `cutoff` of their amplitude left.
    """

    @property
    @abstractmethod
    def cutoff(self) -> float:
        """The cutoff relative to the largest singular value, between 0 and 1."""

    @abstractmethod
    def taps(self) -> tuple[Tensor, int]:
        """Return the one-dimensional kernel, float64, and the index of its origin."""

    def __call__(self, x: Tensor) -> Tensor:
        return _filtered(x, _transfer(self, x.shape[-1]))

    def adjoint(self, y: Tensor) -> Tensor:
        return _filtered(y, _transfer(self, y.shape[-1]).conj())

    def pinv(self, y: Tensor) -> Tensor:
        t = _transfer(self, y.shape[-1])
        return _filtered(y, torch.where(t == 0, 0, 1 / t))  # t̄/|t|² is 1/t

    def amplification(self, size: int) -> float:
        gains = _transfer(self, size).abs()
        return 1 / float(gains[gains > 0].min())


@lru_cache(maxsize=8)
def _transfer(blur: Blur, size: int) -> Tensor:
    """Return t, `(size, size)` complex128."""
    taps, middle = blur.taps()
    kernel = torch.zeros(size, dtype=torch.float64)
    kernel.index_add_(0, (torch.arange(len(taps)) - middle) % size, taps)
    gain = torch.fft.fft(kernel)
    t = gain[:, None] * gain
    return torch.where(t.abs() < blur.cutoff * t.abs().max(), 0, t)


def _filtered(x: Tensor, transfer: Tensor) -> Tensor:
    x = at_least_fp32(x)
    spectrum = torch.fft.fft2(x)
    filtered: Tensor = torch.fft.ifft2(spectrum * transfer.to(x.device, spectrum.dtype)).real
    return filtered


def _check_cutoff(cutoff: float) -> None:
    if not 0 < cutoff < 1:
        raise UserError(f"operator: cutoff is {cutoff}; it must be between 0 and 1")


@dataclass(frozen=True)
class GaussianBlur(Blur):
    """`Blur` whose kernel k is a Gaussian, truncated at 4 standard deviations.

    Args:
        std: The standard deviation of k in pixels.
        cutoff: The cutoff relative to the largest singular value, between 0 and 1.
        noise: σ, the standard deviation of the noise.

    Raises:
        UserError: If a number is out of its range.
    """

    std: float = 1.0
    cutoff: float = 0.05
    noise: float = 0.0
    name = "blur"

    def __post_init__(self) -> None:
        check_noise(self.noise)
        _check_cutoff(self.cutoff)
        if not (self.std > 0 and math.isfinite(self.std)):
            raise UserError(f"operator blur: std is {self.std}; it must be a positive number")

    def taps(self) -> tuple[Tensor, int]:
        radius = math.ceil(4 * self.std)
        k = torch.exp(-(torch.arange(-radius, radius + 1, dtype=torch.float64) / self.std).square() / 2)
        return k / k.sum(), radius


@dataclass(frozen=True)
class UniformBlur(Blur):
    """`Blur` whose kernel k averages `width` × `width` pixels.

    Args:
        width: The side of the kernel in pixels; an even kernel reaches one pixel further up and to the left.
        cutoff: The cutoff relative to the largest singular value, between 0 and 1.
        noise: σ, the standard deviation of the noise.

    Raises:
        UserError: If a number is out of its range.
    """

    width: int = 3
    cutoff: float = 0.05
    noise: float = 0.0
    name = "box_blur"

    def __post_init__(self) -> None:
        check_noise(self.noise)
        _check_cutoff(self.cutoff)
        if self.width < 1:
            raise UserError(f"operator box_blur: width is {self.width}; it must be 1 or more")

    def taps(self) -> tuple[Tensor, int]:
        return torch.full((self.width,), 1 / self.width, dtype=torch.float64), (self.width - 1) // 2
