"""What a method can do beyond what all can, declared by inheritance and asked by `isinstance`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor


class Encodes(ABC):
    """Has representations of an image that probes can read."""

    @abstractmethod
    def representations(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """By name, a function from images `(B, C, H, W)` in [-1, 1] to features `(B, D)`."""


class StartsFromGenerator(ABC):  # noqa: B024  (it promises something of `sample`, and adds no method)
    """Its chains start from a generator, which alone is already a sampler: `sample(n, steps=0)`."""


class Reconstructs(ABC):
    """Maps an image to a latent and back."""

    @abstractmethod
    def reconstruct(self, x: Tensor) -> Tensor:
        """The image's reconstruction, `(B, C, H, W)` in [-1, 1]."""
