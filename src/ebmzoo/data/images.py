"""Images as they are stored, uint8, and as networks see them, float in [-1, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmzoo.errors import UserError

Index = slice | Tensor | Sequence[int]
UNLABELLED = ("image",)
"""The classes of a set that has none: every label is 0."""


def to_float(images: Tensor) -> Tensor:
    """x = u/127.5 − 1: uint8 images of any shape to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """u = round(127.5 (x + 1)), clamped to 0..255: float images of any shape to uint8; inverts `to_float` exactly."""
    return ((images.float() + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)


def shuffled(n: int, seed: int) -> Tensor:
    """A permutation of 0..n−1, `(n,)` int64: a function of `n` and `seed` alone."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class ImageSet:
    """Images with their labels, in memory.

    Args:
        images: `(N, C, H, W)` uint8.
        labels: `(N,)` int64, indices into `classes`.
        classes: The name of each class.
        name: What the set is called in tables.

    Raises:
        UserError: If a shape, a type or a label does not fit.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            found = f"{self.images.dtype} of shape {tuple(self.images.shape)}"
            raise UserError(f"{self.name}: images are {found}, but uint8 of shape (N, C, H, W) is needed")
        n = len(self.images)
        if self.labels.shape != (n,) or self.labels.dtype != torch.int64:
            found = f"{self.labels.dtype} of shape {tuple(self.labels.shape)}"
            raise UserError(f"{self.name}: labels are {found}, but int64 of shape ({n},) is needed")
        if n and (int(self.labels.min()) < 0 or int(self.labels.max()) >= len(self.classes)):
            found = f"from {int(self.labels.min())} to {int(self.labels.max())}"
            raise UserError(f"{self.name}: labels run {found}, but 0 to {len(self.classes) - 1} is needed")

    def __len__(self) -> int:
        return len(self.images)

    def float(self, index: Index = slice(None)) -> Tensor:
        """The images at `index`, `(n, C, H, W)` float32 in [-1, 1]."""
        return to_float(self.images[index])

    def take(self, index: Index) -> ImageSet:
        """The set of the images at `index`, in that order."""
        return ImageSet(self.images[index], self.labels[index], self.classes, self.name)


def unlabelled(images: Tensor, name: str) -> ImageSet:
    """A set of `images` that have no labels."""
    return ImageSet(images, torch.zeros(len(images), dtype=torch.int64), UNLABELLED, name)
