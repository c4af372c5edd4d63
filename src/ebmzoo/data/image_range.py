"""The range of images that a method's energy takes, for papers that do not train on [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmzoo.data.fixed_noise import fixed_noise
from ebmzoo.errors import UserError


@dataclass(frozen=True)
class ImageRange:
    """A method's own range of images, [low, high], with the maps from [-1, 1] and back.

    Args:
        low: The value of black.
        high: The value of white.

    Raises:
        UserError: If `low` is not below `high`.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise UserError(f"image_range is {[self.low, self.high]}; the first must be below the second")

    def inward(self, x: Tensor) -> Tensor:
        """Map [-1, 1] to [low, high]."""
        return x if (self.low, self.high) == (-1, 1) else self.low + (x + 1) / 2 * (self.high - self.low)

    def outward(self, x: Tensor) -> Tensor:
        """Map [low, high] to [-1, 1]."""
        return x if (self.low, self.high) == (-1, 1) else (x - self.low) / (self.high - self.low) * 2 - 1


@dataclass(frozen=True)
class Outside:
    """A function of images in [-1, 1], such as an encoder, applied to images in a method's own range.

    Args:
        function: The function.
        image_range: The range of the images that the object is called with.
    """

    function: Callable[[Tensor], Tensor]
    image_range: ImageRange

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(self.image_range.outward(x))


def dequantized(x: Tensor, seed: int | None = None) -> Tensor:
    """Return x' = (255 x + u)/256, u ~ U(0, 1), which turns 256 grey levels into a density.

    The equation is that of images in [0, 1]; here both x and x' are in [-1, 1]. With a `seed`, one u is the noise of
    all images, the same on every device, so that x' of an image depends on that image alone.
    """
    if seed is None:
        u = torch.rand(x.shape, device=x.device, dtype=x.dtype)
    else:
        u = fixed_noise("uniform", (1, *x.shape[1:]), seed).to(x)
    return (255 * (x + 1) + 2 * u) / 256 - 1
