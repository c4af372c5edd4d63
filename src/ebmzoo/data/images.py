"""Sets of images in memory: uint8 as stored, and float in [-1, 1] as networks take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b, sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebmzoo.errors import UserError

Index = slice | Tensor | Sequence[int]
UNLABELLED = ("image",)
"""The classes of a set without labels: every label is 0."""


def to_float(images: Tensor) -> Tensor:
    """Return x = u/127.5 − 1 of uint8 images of any shape, float32 in [-1, 1].

    >>> to_float(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([-1.,  1.])
    """
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Return u = round(127.5 (x + 1)), clamped to 0..255, of float images: the exact inverse of `to_float`.

    >>> to_uint8(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([  0, 128, 255], dtype=torch.uint8)
    """
    return ((images.float() + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)


def shuffled(n: int, seed: int) -> Tensor:
    """Return a permutation of 0..n−1, `(n,)` int64, that depends on `n` and `seed` alone."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def digest_of(tensors: Sequence[Tensor], facts: object = None) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of CPU tensors, their shapes and types, and plain facts."""
    found = sha256(repr((facts, [(tuple(t.shape), str(t.dtype)) for t in tensors])).encode())
    for tensor in tensors:
        found.update(np.ascontiguousarray(tensor.numpy()).data)
    return found.hexdigest()[:16]


@dataclass(frozen=True)
class Attributes:
    """Attributes of N images: image i has the value `values[a][table[i, a]]` of the attribute `names[a]`.

    >>> pets = Attributes(("kind", "size"), (("cat", "dog"), ("small", "big")), torch.tensor([[0, 1], [1, 1], [1, 0]]))
    >>> pets.where({"kind": "dog", "size": "big"})
    tensor([False,  True, False])

    Args:
        names: The names of the A attributes.
        values: The names of the values of each attribute.
        table: Indices into `values`, `(N, A)` int64.

    Raises:
        UserError: If a shape, a type or an index does not fit.
    """

    names: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    table: Tensor

    def __post_init__(self) -> None:
        if len(self.values) != len(self.names):
            raise UserError(
                f"attributes: {len(self.names)} names have {len(self.values)} lists of values; each name must have one"
            )
        if self.table.ndim != 2 or self.table.shape[1] != len(self.names) or self.table.dtype != torch.int64:
            found = f"{self.table.dtype} of shape {tuple(self.table.shape)}"
            raise UserError(f"attributes: the table is {found}; it must be int64 of shape (N, {len(self.names)})")
        for name, values, column in zip(self.names, self.values, self.table.unbind(1), strict=True):
            if len(column) and (int(column.min()) < 0 or int(column.max()) >= len(values)):
                found = f"from {int(column.min())} to {int(column.max())}"
                raise UserError(
                    f"attributes: the indices of {name} are {found}; they must be from 0 to {len(values) - 1}"
                )

    def __len__(self) -> int:
        return len(self.table)

    def column(self, name: str) -> Tensor:
        """Return the index of the attribute `name`'s value of each image, `(N,)` int64.

        Raises:
            UserError: If there is no attribute of that name.
        """
        if name not in self.names:
            raise UserError(f"{name!r} is not an attribute; it must be one of {', '.join(self.names)}")
        return self.table[:, self.names.index(name)]

    def where(self, required: Mapping[str, str]) -> Tensor:
        """Return a mask of the images that have every value of `required`, `(N,)` bool; of all images if it is empty.

        Args:
            required: A value for each of some attributes, by attribute name.

        Raises:
            UserError: If there is no such attribute or value.
        """
        mask = torch.ones(len(self), dtype=torch.bool)
        for name, value in required.items():
            column = self.column(name)
            values = self.values[self.names.index(name)]
            if value not in values:
                raise UserError(f"{value!r} is not a value of {name}; it must be one of {', '.join(values)}")
            mask &= column == values.index(value)
        return mask

    def as_classes(self, chosen: Sequence[str]) -> tuple[tuple[str, ...], Tensor]:
        """Return the values of k `chosen` attributes as one list of classes, and the classes of each image.

        Args:
            chosen: The names of the k attributes.

        Returns:
            The names of the classes, and `(N, k)` int64 indices into them: one class of each attribute.

        Raises:
            UserError: If there is no such attribute, or none is chosen.
        """
        if not chosen:
            raise UserError(f"no attribute is chosen; choose one or more of {', '.join(self.names)}")
        classes: list[str] = []
        columns = []
        for name in chosen:
            columns.append(self.column(name) + len(classes))
            classes += self.values[self.names.index(name)]
        return tuple(classes), torch.stack(columns, dim=1)

    def take(self, index: Index) -> Attributes:
        """Return the attributes of the images at `index`, in that order."""
        return Attributes(self.names, self.values, self.table[index])


@dataclass(frozen=True)
class ImageSet:
    """Images with their labels, in memory.

    Args:
        images: Images `(N, C, H, W)` uint8.
        labels: Indices into `classes`, `(N,)` int64.
        classes: The names of the classes.
        name: The name of the set in tables.
        attributes: Further attributes of each image, if there are any.

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
            raise UserError(f"{self.name}: images are {found}; they must be uint8 of shape (N, C, H, W)")
        n = len(self.images)
        if self.labels.shape != (n,) or self.labels.dtype != torch.int64:
            found = f"{self.labels.dtype} of shape {tuple(self.labels.shape)}"
            raise UserError(f"{self.name}: labels are {found}; they must be int64 of shape ({n},)")
        if n and (int(self.labels.min()) < 0 or int(self.labels.max()) >= len(self.classes)):
            found = f"from {int(self.labels.min())} to {int(self.labels.max())}"
            raise UserError(f"{self.name}: labels are {found}; they must be from 0 to {len(self.classes) - 1}")
        if self.attributes is not None and len(self.attributes) != n:
            raise UserError(f"{self.name}: {len(self.attributes)} images have attributes; all {n} must have them")

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def digest(self) -> str:
        """The digest of the images, labels, class names and attributes (`digest_of`).

        Equal digests mean equal sets in equal order, wherever and in whatever container their files are.
        """
        attributes = self.attributes
        facts = (self.classes, None if attributes is None else (attributes.names, attributes.values))
        tables = [] if attributes is None else [attributes.table]
        return digest_of([self.images, self.labels, *tables], facts)

    @cached_property
    def image_digests(self) -> Tensor:
        """A 64-bit digest of each image alone, `(N,)` int64: equal images have equal ones."""
        flat = np.ascontiguousarray(self.images.numpy()).reshape(len(self), -1)
        found = b"".join(blake2b(image.data, digest_size=8).digest() for image in flat)
        return torch.from_numpy(np.frombuffer(found, dtype=np.int64).copy())

    def record(self) -> dict[str, Any]:
        """Return the name, number and digest of the images, as protocols and checkpoints state them."""
        return {"name": self.name, "n": len(self), "digest": self.digest}

    def float(self, index: Index = slice(None)) -> Tensor:
        """Return the images at `index`, `(n, C, H, W)` float32 in [-1, 1]."""
        return to_float(self.images[index])

    def take(self, index: Index) -> ImageSet:
        """Return the set of the images at `index`, in that order."""
        attributes = None if self.attributes is None else self.attributes.take(index)
        return ImageSet(self.images[index], self.labels[index], self.classes, self.name, attributes)


def unlabelled(images: Tensor, name: str) -> ImageSet:
    """Return a set of uint8 `images` without labels."""
    return ImageSet(images, torch.zeros(len(images), dtype=torch.int64), UNLABELLED, name)
