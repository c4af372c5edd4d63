"""The range of images that a method's energy sees, where its paper does not train on [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmzoo.errors import UserError


@dataclass(frozen=True)
class ImageRange:
    """[low, high], with the maps from the framework's [-1, 1] and back: a method's own door.

    Raises:
        UserError: low is not below high.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise UserError(f"image_range is {[self.low, self.high]}; the first must be below the second")

    def inward(self, x: Tensor) -> Tensor:
        """[-1, 1] to [low, high]."""
        return x if (self.low, self.high) == (-1, 1) else self.low + (x + 1) / 2 * (self.high - self.low)

    def outward(self, x: Tensor) -> Tensor:
        """[low, high] to [-1, 1]."""
        return x if (self.low, self.high) == (-1, 1) else (x - self.low) / (self.high - self.low) * 2 - 1


@dataclass(frozen=True)
class Outside:
    """A function of [-1, 1] images, such as an encoder, for images in a method's own range."""

    function: Callable[[Tensor], Tensor]
    image_range: ImageRange

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(self.image_range.outward(x))


def dequantized(x: Tensor) -> Tensor:
    """(255 x + u)/256 of images in [0, 1], u ~ U(0, 1): the 256 levels become a density. Here of [-1, 1], and to it."""
    u = torch.rand(x.shape, device=x.device, dtype=x.dtype)
    return (255 * (x + 1) + 2 * u) / 256 - 1
