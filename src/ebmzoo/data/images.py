"""Images as they are stored, uint8, and as networks see them, float in [-1, 1]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
class Attributes:
    """What is known of N images: image i has the value `values[a][table[i, a]]` of the attribute `names[a]`.

    Args:
        names: The name of each of the A attributes.
        values: The names of the values of each.
        table: `(N, A)` int64, indices into `values`.

    Raises:
        UserError: If a shape, a type or an index does not fit.
    """

    names: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    table: Tensor

    def __post_init__(self) -> None:
        if len(self.values) != len(self.names):
            raise UserError(
                f"attributes: {len(self.names)} names have {len(self.values)} lists of values, one is needed for each"
            )
        if self.table.ndim != 2 or self.table.shape[1] != len(self.names) or self.table.dtype != torch.int64:
            found = f"{self.table.dtype} of shape {tuple(self.table.shape)}"
            raise UserError(f"attributes: the table is {found}, but int64 of shape (N, {len(self.names)}) is needed")
        for name, values, column in zip(self.names, self.values, self.table.unbind(1), strict=True):
            if len(column) and (int(column.min()) < 0 or int(column.max()) >= len(values)):
                found = f"from {int(column.min())} to {int(column.max())}"
                raise UserError(f"attributes: {name} runs {found}, but 0 to {len(values) - 1} is needed")

    def __len__(self) -> int:
        return len(self.table)

    def column(self, name: str) -> Tensor:
        """The attribute `name` of each image, `(N,)` int64; a UserError if there is none of that name."""
        if name not in self.names:
            raise UserError(f"{name!r} is not an attribute, one of {', '.join(self.names)} is needed")
        return self.table[:, self.names.index(name)]

    def where(self, wanted: Mapping[str, str]) -> Tensor:
        """The images that have every one of the `wanted` values, `(N,)` bool; all of them if nothing is wanted.

        Raises:
            UserError: If an attribute or a value is not known.
        """
        found = torch.ones(len(self), dtype=torch.bool)
        for name, value in wanted.items():
            column = self.column(name)
            values = self.values[self.names.index(name)]
            if value not in values:
                raise UserError(f"{value!r} is not a value of {name}, one of {', '.join(values)} is needed")
            found &= column == values.index(value)
        return found

    def as_classes(self, chosen: Sequence[str]) -> tuple[tuple[str, ...], Tensor]:
        """The values of the `chosen` attributes as one list of classes, and which of them each image has, `(N, k)`.

        Raises:
            UserError: If an attribute is not known, or none is chosen.
        """
        if not chosen:
            raise UserError(f"no attribute is chosen, one or more of {', '.join(self.names)} are needed")
        classes: list[str] = []
        columns = []
        for name in chosen:
            columns.append(self.column(name) + len(classes))
            classes += self.values[self.names.index(name)]
        return tuple(classes), torch.stack(columns, dim=1)

    def take(self, index: Index) -> Attributes:
        """The attributes of the images at `index`, in that order."""
        return Attributes(self.names, self.values, self.table[index])


@dataclass(frozen=True)
class ImageSet:
    """Images with their labels, in memory.

    Args:
        images: `(N, C, H, W)` uint8.
        labels: `(N,)` int64, indices into `classes`.
        classes: The name of each class.
        name: What the set is called in tables.
        attributes: What else is known of each image, where anything is.

    Raises:
        UserError: If a shape, a type or a label does not fit.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str
    attributes: Attributes | None = None

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
        if self.attributes is not None and len(self.attributes) != n:
            raise UserError(f"{self.name}: {len(self.attributes)} images have attributes, but all {n} need them")

    def __len__(self) -> int:
        return len(self.images)

    def float(self, index: Index = slice(None)) -> Tensor:
        """The images at `index`, `(n, C, H, W)` float32 in [-1, 1]."""
        return to_float(self.images[index])

    def take(self, index: Index) -> ImageSet:
        """The set of the images at `index`, in that order."""
        attributes = None if self.attributes is None else self.attributes.take(index)
        return ImageSet(self.images[index], self.labels[index], self.classes, self.name, attributes)


def unlabelled(images: Tensor, name: str) -> ImageSet:
    """A set of `images` that have no labels."""
    return ImageSet(images, torch.zeros(len(images), dtype=torch.int64), UNLABELLED, name)
