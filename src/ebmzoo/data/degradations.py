"""What degrades an image: linear operators with their adjoints and pseudo-inverses, and the noise on top."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ebmzoo.data.masks import Half, Mask
from ebmzoo.energy import at_least_fp32
from ebmzoo.errors import UserError


class Operator(ABC):
    """y = A x + σε, ε ~ N(0, I): a linear A with its adjoint Aᵀ and its Moore–Penrose pseudo-inverse A⁺, all exact.

    A⁺y is the shortest x that explains y best; A⁺A projects on what y tells of x, and I − A⁺A on what it does not.
    Source: LIEBM §4.4; Wang et al. 2023 (DDNM), Eq. 6.
    Shapes: x is `(B, C, S, S)` in [-1, 1]; y is `(B, *measured(C, S))`. Results have the precision of what is given.
    """

    name: str
    noise: float
    """σ, the standard deviation of the noise on y."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """A x."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Aᵀy."""

    @abstractmethod
    def pinv(self, y: Tensor) -> Tensor:
        """A⁺y."""

    @abstractmethod
    def amplification(self, size: int) -> float:
        """The largest singular value of A⁺ for images of side `size`: how much it can enlarge the noise of y."""

    def project(self, x: Tensor) -> Tensor:
        """A⁺A x."""
        return self.pinv(self(x))

    def null(self, x: Tensor) -> Tensor:
        """(I − A⁺A) x."""
        return x - self.project(x)

    def lacks(self, channels: int, size: int) -> str | None:
        """None for images that it can degrade, else what they would need, as the rest of a sentence."""
        return None

    def measured(self, channels: int, size: int) -> tuple[int, int, int]:
        """The shape of y, (C', S', S'), for images of that shape."""
        return channels, size, size

    def check(self, channels: int, size: int) -> None:
        """Raises `UserError` for images that it cannot degrade."""
        if (lacking := self.lacks(channels, size)) is not None:
            raise UserError(f"operator {self.name} needs {lacking}, the model's have {channels} channels, side {size}")

    def degraded(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A x + σε."""
        y = self(x)
        if self.noise == 0:
            return y
        return y + self.noise * torch.randn(y.shape, generator=generator, device=y.device, dtype=y.dtype)


def _check_noise(noise: float) -> None:
    if not (noise >= 0 and math.isfinite(noise)):
        raise UserError(f"operator: noise is {noise}; it must be a finite number, 0 or more")


@dataclass(frozen=True)
class Identity(Operator):
    """A = I: what is left is the noise."""

    noise: float = 0.25
    name = "denoise"

    def __post_init__(self) -> None:
        _check_noise(self.noise)

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
    """A x = Σ_c w_c x_c, one channel of three; A⁺y = w y/|w|².

    With equal weights, as in DDNM, A⁺y is grey; `luma` has those of image files.

    Raises:
        UserError: all weights are 0.
    """

    weights: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3)
    noise: float = 0.0
    name = "color"

    def __post_init__(self) -> None:
        _check_noise(self.noise)
        if not any(self.weights):
            raise UserError(f"operator color: weights are {list(self.weights)}; one must not be 0")

    @classmethod
    def luma(cls) -> Grayscale:
        """The weights by which programs turn colours to grey (ITU-R BT.601)."""
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

    Raises:
        UserError: f is below 2.
    """

    factor: int
    noise: float = 0.0

    def __post_init__(self) -> None:
        _check_noise(self.noise)
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
class Blur(Operator, ABC):
    """A x = k ∗ x, circular and separable, without the frequencies that k all but erases.

    By the two-dimensional Fourier transform F, with t = F k set to 0 where |t| < `cutoff` · max |t|:

        A x = F⁻¹ (t F x),   Aᵀy = F⁻¹ (t̄ F y),   A⁺y = F⁻¹ (F y/t where t ≠ 0, else 0)

    The singular values of A are |t|. Without the cut A⁺ would be exact too, and useless: it enlarges what a frequency
    holds of noise, or of the 8 bits of a file, by 1/|t|, at most `cutoff`⁻¹ with it. What the cut takes from k ∗ x is
    smaller than `cutoff` of what was there.
    """

    @property
    @abstractmethod
    def cutoff(self) -> float:
        """Between 0 and 1, relative to the largest singular value."""

    @abstractmethod
    def taps(self) -> tuple[Tensor, int]:
        """The one-dimensional kernel, float64, and which of it is at 0."""

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
    """t, `(size, size)` complex128."""
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
    """`Blur` with k a Gaussian of standard deviation `std` pixels, cut at 4 of them.

    Raises:
        UserError: a number is out of its range.
    """

    std: float = 1.0
    cutoff: float = 0.05
    noise: float = 0.0
    name = "blur"

    def __post_init__(self) -> None:
        _check_noise(self.noise)
        _check_cutoff(self.cutoff)
        if not (self.std > 0 and math.isfinite(self.std)):
            raise UserError(f"operator blur: std is {self.std}; it must be a positive number")

    def taps(self) -> tuple[Tensor, int]:
        radius = math.ceil(4 * self.std)
        k = torch.exp(-(torch.arange(-radius, radius + 1, dtype=torch.float64) / self.std).square() / 2)
        return k / k.sum(), radius


@dataclass(frozen=True)
class UniformBlur(Blur):
    """`Blur` with k the mean of `width` × `width` pixels; of an even width one more is above and to the left.

    Raises:
        UserError: a number is out of its range.
    """

    width: int = 3
    cutoff: float = 0.05
    noise: float = 0.0
    name = "box_blur"

    def __post_init__(self) -> None:
        _check_noise(self.noise)
        _check_cutoff(self.cutoff)
        if self.width < 1:
            raise UserError(f"operator box_blur: width is {self.width}; it must be 1 or more")

    def taps(self) -> tuple[Tensor, int]:
        return torch.full((self.width,), 1 / self.width, dtype=torch.float64), (self.width - 1) // 2


@dataclass(frozen=True)
class Masking(Operator):
    """A x: x, with 0 where the mask hides it; A = Aᵀ = A⁺."""

    mask: Mask
    noise: float = 0.0
    name = "inpaint"

    def __post_init__(self) -> None:
        _check_noise(self.noise)

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


@dataclass(frozen=True)
class Projection:
    """A⁺A as an operator of its own: an orthogonal projection."""

    operator: Operator

    def __call__(self, x: Tensor) -> Tensor:
        return self.operator.project(x)


OPERATORS: dict[str, Operator] = {
    operator.name: operator
    for operator in (
        Downsample(4),
        Downsample(8),
        Grayscale.luma(),
        GaussianBlur(),
        Identity(),
        Masking(Half()),
    )
}
"""The operators by the names that tables and the command line call them, with the numbers of image files."""


def consistent(x: Tensor, y: Tensor, operator: Operator, rounds: int = 50) -> Tensor:
    """x ← clamp(A⁺y + (I − A⁺A) x), `rounds` times: towards an image in [-1, 1] whose A x is y.

    These are the alternating projections of von Neumann on two convex sets, whose limit is in both where one image is.
    One round without the clamp is DDNM's (Wang et al. 2023, Eq. 7).
    """
    known = operator.pinv(y)
    for _ in range(rounds):
        x = (known + operator.null(x)).clamp(-1, 1)
    return x
