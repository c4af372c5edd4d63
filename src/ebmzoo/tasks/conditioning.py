"""Conditions for a class, an attribute value or an image, as latents or class indices, and samples under them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.images import to_uint8
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import ClassConditional, LatentConditional
from ebmzoo.methods.base.method import Method
from ebmzoo.methods.base.samples import Samples
from ebmzoo.methods.families.conditional_chain import StartsFromImages
from ebmzoo.metrics.probe import encode
from ebmzoo.progress import tracked


def conditions_on_latents(method: Method) -> bool:
    """Whether the method can be conditioned on latents and this model was built with that ability."""
    return isinstance(method, LatentConditional) and method.can_condition_on_latents


def has_classes(method: Method) -> bool:
    """Whether the method is class-conditional and this model was built with classes."""
    return isinstance(method, ClassConditional) and method.classes > 0


class ConditionEncoder(ABC):
    """Encodes a class or an attribute value as a tensor, a condition; k stacked conditions are a composition.

    Args:
        method: The method that samples.
        data: The data with the classes and attributes.
        batch_size: Images per batch of chains.
    """

    def __init__(self, method: Method, data: ImageData, batch_size: int = 250) -> None:
        self.method = method
        self.data = data
        self.batch_size = batch_size

    @abstractmethod
    def encode_class(self, label: int) -> Tensor:
        """The condition for the class `data.classes[label]`.

        Raises:
            UserError: Training images of the class are needed, and there are none.
        """

    @abstractmethod
    def encode_value(self, attribute: str, value: str) -> Tensor:
        """The condition for `attribute` images_with `value`.

        Raises:
            UserError: There is no such value, no training image has it, or the method was not trained with it.
        """

    @abstractmethod
    def draw(self, rows: Tensor, steps: int | None = None) -> tuple[Tensor, Samples]:
        """Draw one sample per row: uint8 `(n, C, H, W)` on the CPU, and the `Samples` of the last batch."""

    @abstractmethod
    def protocol(self, unit: str) -> dict[str, Any]:
        """The entries of a protocol that describe the condition of each `unit`, `class` or `value`."""

    def no_class_reason(self) -> str | None:
        """A sentence that explains why no class can be sampled; None if classes can."""
        if len(self.data.classes) < 2:
            return f"{self.data.name} has no classes: there is no class to sample"
        return None

    def images_with(self, attribute: str, value: str) -> Tensor:
        """The mask of training images with that value, `(N,)` bool, at least one True; raises as `encode_value`."""
        known = self.data.train_set.attributes
        assert known is not None
        mask = known.where({attribute: value})
        if not mask.any():
            raise UserError(f"no training image of {self.data.name} has {attribute} {value}")
        return mask


class ByLatent(ConditionEncoder):
    """The mean latent z̄, `(d,)`, of the first `n_encode` training images, for a `LatentConditional` method."""

    def __init__(self, method: Method, data: ImageData, batch_size: int = 250, n_encode: int = 5000) -> None:
        super().__init__(method, data, batch_size)
        self.n_encode = n_encode

    def encode_class(self, label: int) -> Tensor:
        mask = self.data.train_set.labels == label
        if not mask.any():
            name = self.data.classes[label]
            raise UserError(f"{self.data.name} has no training image of class {name} whose latents could be averaged")
        return self._mean(mask)

    def encode_value(self, attribute: str, value: str) -> Tensor:
        return self._mean(self.images_with(attribute, value))

    def _mean(self, mask: Tensor) -> Tensor:
        return mean_latent(self.method, self.data.train_set.images[first_indices(mask, self.n_encode)], self.batch_size)

    def draw(self, rows: Tensor, steps: int | None = None) -> tuple[Tensor, Samples]:
        return sample_latents(self.method, rows, self.batch_size, steps)

    def protocol(self, unit: str) -> dict[str, Any]:
        most = int(self.data.train_set.labels.bincount().max()) if unit == "class" else self.n_encode
        return {f"encoded_a_{unit}": min(self.n_encode, most)}


class ByClass(ConditionEncoder):
    """The index, `()` int64, of one of the classes `data.training_classes`, for a `ClassConditional` method.

    Args:
        method: The method that samples.
        data: The data with the classes and attributes, and with the `concepts` of the model's training.
        batch_size: Images per batch of chains.
        guidance: Weight w of classifier-free guidance, 0 or more.

    Raises:
        UserError: The model was trained with another number of classes.
    """

    def __init__(self, method: Method, data: ImageData, batch_size: int = 250, guidance: float = 0.0) -> None:
        super().__init__(method, data, batch_size)
        self.guidance = guidance
        self.names, self.labels = data.training_classes
        assert isinstance(method, ClassConditional)
        if method.classes != len(self.names):
            raise UserError(
                f"data.concepts is {data.concepts}, which gives {data.name} {len(self.names)} classes, but the "
                f"model was trained with {method.classes}; set it as in training"
            )

    def encode_class(self, label: int) -> Tensor:
        return torch.tensor(self.names.index(self.data.classes[label]))

    def encode_value(self, attribute: str, value: str) -> Tensor:
        mask, known = self.images_with(attribute, value), self.data.train_set.attributes
        assert known is not None
        columns = dict(zip(self.data.concepts, self.labels.unbind(1), strict=True)) if self.data.concepts else {}
        if not columns:
            columns = {name: self.labels for name in known.names if torch.equal(known.column(name), self.labels)}
        if attribute not in columns:
            trained = ", ".join(columns) or "the labels"
            raise UserError(f"the model was not trained with {attribute}, only with {trained}; see data.concepts")
        return columns[attribute][mask][0]

    def draw(self, rows: Tensor, steps: int | None = None) -> tuple[Tensor, Samples]:
        return sample_classes(self.method, rows, self.batch_size, steps, self.guidance)

    def protocol(self, unit: str) -> dict[str, Any]:
        return {"guidance": self.guidance}

    def no_class_reason(self) -> str | None:
        if (reason := super().no_class_reason()) is None and not set(self.data.classes) <= set(self.names):
            return (
                f"the model was trained with {', '.join(self.data.concepts or ())}, not the label of {self.data.name}"
            )
        return reason


def condition_encoder(
    method: Method, data: ImageData, batch_size: int, n_encode: int, guidance: float
) -> ConditionEncoder:
    """The encoder of conditions for a method: latents if it supports them, and class indices otherwise."""
    if conditions_on_latents(method):
        return ByLatent(method, data, batch_size, n_encode)
    return ByClass(method, data, batch_size, guidance)


def encoded(method: Method, images: Tensor, batch_size: int = 250) -> Tensor:
    """z = h(x)/|h(x)| of uint8 images `(N, C, H, W)`: `(N, d)`, on the method's device."""
    assert isinstance(method, LatentConditional)
    with method.evaluating():
        return encode(method, images, batch_size, read=method.encode)


def mean_latent(method: Method, images: Tensor, batch_size: int = 250) -> Tensor:
    """z̄ = Σᵢ zᵢ / |Σᵢ zᵢ|, `(d,)`, of uint8 images `(N, C, H, W)`. Source: CLEL, §4.3; LIEBM, §4.3.

    Raises:
        UserError: There are no images.
    """
    if len(images) == 0:
        raise UserError("a mean latent needs images, found none")
    return normalize(encoded(method, images, batch_size).mean(0), dim=0)


def sample_latents(
    method: Method, z: Tensor, batch_size: int, steps: int | None = None, start: Tensor | None = None
) -> tuple[Tensor, Samples]:
    """Draw one sample per row of `z`, `(n, d)` or `(n, k, d)`: uint8 `(n, C, H, W)` on the CPU, and the last batch.

    `start`, `(n, C, H, W)` in [-1, 1], is for a method that can start from images.
    """
    assert isinstance(method, LatentConditional)

    def made(rows: Tensor) -> Samples:
        latents = z[rows.to(z.device)].to(method.device)
        if start is None:
            return method.sample_from_latents(latents, steps=steps)
        assert isinstance(method, StartsFromImages)
        return method.sample_from_latents(latents, steps=steps, start=start[rows].to(method.device))

    return in_batches(made, len(z), batch_size)


def sample_classes(
    method: Method,
    labels: Tensor,
    batch_size: int,
    steps: int | None = None,
    guidance: float = 0.0,
    seed: int | None = None,
) -> tuple[Tensor, Samples]:
    """Draw one sample per row of `labels`, `(n,)` or `(n, k)`: uint8 `(n, C, H, W)` on the CPU, and the last batch.

    With a `seed` every batch has its own random generator, so that equal seeds give chains with equal starts.
    """
    assert isinstance(method, ClassConditional)

    def made(rows: Tensor) -> Samples:
        random = None if seed is None else torch.Generator(method.device).manual_seed(seed + int(rows[0]))
        return method.sample_from_classes(
            labels[rows].to(method.device), guidance=guidance, steps=steps, generator=random
        )

    return in_batches(made, len(labels), batch_size)


def in_batches(made: Callable[[Tensor], Samples], n: int, batch_size: int) -> tuple[Tensor, Samples]:
    """Call `made` on 0, …, n − 1 in batches: uint8 `(n, C, H, W)` on the CPU, and the `Samples` of the last batch."""
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be 1 or more")
    images: list[Tensor] = []
    for rows in tracked(torch.split(torch.arange(n), batch_size), "latents", unit="batch"):
        sampled = made(rows)
        images.append(to_uint8(sampled.images).cpu())
    return torch.cat(images), sampled


def first_indices(mask: Tensor, n: int) -> Tensor:
    """The indices of the first `n` True entries, or of all if there are fewer."""
    return mask.nonzero()[:n, 0]


def check_guidance(key: str, guidance: float) -> None:
    """Check the weight w of guidance.

    Raises:
        UserError: w is not a finite number, 0 or more.
    """
    if not (guidance >= 0 and math.isfinite(guidance)):
        raise UserError(f"{key} is {guidance}; it must be a finite number, 0 or more")
