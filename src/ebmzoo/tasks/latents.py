"""What samples are given for a class, a value of an attribute or an image, latents or classes; and samples given it."""

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
    """Whether the method samples given latents, and this model was built so that it can."""
    return isinstance(method, LatentConditional) and method.can_condition_on_latents


def has_classes(method: Method) -> bool:
    """Whether the method samples given classes, and this model was built with some."""
    return isinstance(method, ClassConditional) and method.classes > 0


class ConditionEncoder(ABC):
    """How a method is told a class, or a value of an attribute: by a tensor; k of them stacked are a composition.

    Args:
        method: what samples.
        data: whose classes and attributes they are.
        batch_size: images in one chain.
    """

    def __init__(self, method: Method, data: ImageData, batch_size: int = 250) -> None:
        self.method, self.data, self.batch_size = method, data, batch_size

    @abstractmethod
    def of_class(self, label: int) -> Tensor:
        """What tells the method the class `data.classes[label]`.

        Raises:
            UserError: no training image is of that class, where images are needed.
        """

    @abstractmethod
    def of_value(self, attribute: str, value: str) -> Tensor:
        """What tells the method that `attribute` is to have `value`.

        Raises:
            UserError: there is no such value, no training image has it, or the method was not trained with it.
        """

    @abstractmethod
    def draw(self, rows: Tensor, steps: int | None = None) -> tuple[Tensor, Samples]:
        """One sample for each row: uint8 `(n, C, H, W)` on the CPU, and the last batch as it came."""

    @abstractmethod
    def protocol(self, unit: str) -> dict[str, Any]:
        """What a protocol tells of how each `unit`, class or value, is told."""

    def without_classes(self) -> str | None:
        """One sentence that says why there is no class to sample; None where there is."""
        if len(self.data.classes) < 2:
            return f"{self.data.name} has no classes: there is no class to sample"
        return None

    def having(self, attribute: str, value: str) -> Tensor:
        """Which training images have that value, `(N,)` bool, one or more; errors as of `of_value`."""
        known = self.data.train_set.attributes
        assert known is not None
        mask = known.where({attribute: value})
        if not mask.any():
            raise UserError(f"no training image of {self.data.name} has {attribute} {value}")
        return mask


class ByLatent(ConditionEncoder):
    """By a mean latent z̄, `(d,)`, of the first `n_encode` training images, for a method with `LatentConditional`."""

    def __init__(self, method: Method, data: ImageData, batch_size: int = 250, n_encode: int = 5000) -> None:
        super().__init__(method, data, batch_size)
        self.n_encode = n_encode

    def of_class(self, label: int) -> Tensor:
        mask = self.data.train_set.labels == label
        if not mask.any():
            told = f"no training image of {self.data.name} is of class {self.data.classes[label]}"
            raise UserError(f"{told}, to average latents of")
        return self._mean(mask)

    def of_value(self, attribute: str, value: str) -> Tensor:
        return self._mean(self.having(attribute, value))

    def _mean(self, mask: Tensor) -> Tensor:
        return mean_latent(self.method, self.data.train_set.images[first_indices(mask, self.n_encode)], self.batch_size)

    def draw(self, rows: Tensor, steps: int | None = None) -> tuple[Tensor, Samples]:
        return sample_latents(self.method, rows, self.batch_size, steps)

    def protocol(self, unit: str) -> dict[str, Any]:
        most = int(self.data.train_set.labels.bincount().max()) if unit == "class" else self.n_encode
        return {f"encoded_a_{unit}": min(self.n_encode, most)}


class ByClass(ConditionEncoder):
    """By the index, `()` int64, of one of the classes `data.training_classes`, for a method with `ClassConditional`.

    Args:
        method: what samples.
        data: whose classes and attributes they are, with `concepts` as the model was trained with.
        batch_size: images in one chain.
        guidance: w of classifier-free guidance.

    Raises:
        UserError: the model was trained with another number of classes.
    """

    def __init__(self, method: Method, data: ImageData, batch_size: int = 250, guidance: float = 0.0) -> None:
        super().__init__(method, data, batch_size)
        self.guidance = guidance
        self.names, self.labels = data.training_classes
        assert isinstance(method, ClassConditional)
        if method.classes != len(self.names):
            raise UserError(
                f"data.concepts is {data.concepts}, which makes {len(self.names)} classes of {data.name}, but the "
                f"model was trained with {method.classes}: set it as in training"
            )

    def of_class(self, label: int) -> Tensor:
        return torch.tensor(self.names.index(self.data.classes[label]))

    def of_value(self, attribute: str, value: str) -> Tensor:
        mask, known = self.having(attribute, value), self.data.train_set.attributes
        assert known is not None
        columns = dict(zip(self.data.concepts, self.labels.unbind(1), strict=True)) if self.data.concepts else {}
        if not columns:
            columns = {name: self.labels for name in known.names if torch.equal(known.column(name), self.labels)}
        if attribute not in columns:
            told = ", ".join(columns) or "the labels"
            raise UserError(f"the model was not trained with {attribute}, only with {told}: data.concepts names it")
        return columns[attribute][mask][0]

    def draw(self, rows: Tensor, steps: int | None = None) -> tuple[Tensor, Samples]:
        return sample_classes(self.method, rows, self.batch_size, steps, self.guidance)

    def protocol(self, unit: str) -> dict[str, Any]:
        return {"guidance": self.guidance}

    def without_classes(self) -> str | None:
        if (told := super().without_classes()) is None and not set(self.data.classes) <= set(self.names):
            return (
                f"the model was trained with {', '.join(self.data.concepts or ())}, not the label of {self.data.name}"
            )
        return told


def condition_encoder(
    method: Method, data: ImageData, batch_size: int, n_encode: int, guidance: float
) -> ConditionEncoder:
    """By latents where the method has them, else by classes."""
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
        UserError: there are no images.
    """
    if len(images) == 0:
        raise UserError("a mean latent needs images, found none")
    return normalize(encoded(method, images, batch_size).mean(0), dim=0)


def sample_latents(
    method: Method, z: Tensor, batch_size: int, steps: int | None = None, start: Tensor | None = None
) -> tuple[Tensor, Samples]:
    """One sample for each row of `z`, `(n, d)` or `(n, k, d)`: uint8 `(n, C, H, W)` on the CPU, and the last batch.

    `start`, `(n, C, H, W)` in [-1, 1], is for a method that starts from images.
    """
    assert isinstance(method, LatentConditional)

    def made(rows: Tensor) -> Samples:
        given = z[rows.to(z.device)].to(method.device)
        if start is None:
            return method.sample_from_latents(given, steps=steps)
        assert isinstance(method, StartsFromImages)
        return method.sample_from_latents(given, steps=steps, start=start[rows].to(method.device))

    return in_batches(made, len(z), batch_size)


def sample_classes(
    method: Method,
    labels: Tensor,
    batch_size: int,
    steps: int | None = None,
    guidance: float = 0.0,
    seed: int | None = None,
) -> tuple[Tensor, Samples]:
    """One sample for each row of `labels`, `(n,)` or `(n, k)`: uint8 `(n, C, H, W)` on the CPU, and the last batch.

    With a `seed` every batch has a random generator of its own, so that equal seeds start equal chains.
    """
    assert isinstance(method, ClassConditional)

    def made(rows: Tensor) -> Samples:
        random = None if seed is None else torch.Generator(method.device).manual_seed(seed + int(rows[0]))
        return method.sample_from_classes(
            labels[rows].to(method.device), guidance=guidance, steps=steps, generator=random
        )

    return in_batches(made, len(labels), batch_size)


def in_batches(made: Callable[[Tensor], Samples], n: int, batch_size: int) -> tuple[Tensor, Samples]:
    """`made` of 0, …, n − 1 by batches: uint8 `(n, C, H, W)` on the CPU, and the last batch as it came."""
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be 1 or more")
    images: list[Tensor] = []
    for rows in tracked(torch.split(torch.arange(n), batch_size), "latents", unit="batch"):
        sampled = made(rows)
        images.append(to_uint8(sampled.images).cpu())
    return torch.cat(images), sampled


def first_indices(mask: Tensor, n: int) -> Tensor:
    """The indices of the first `n` that are true, or of all where there are fewer."""
    return mask.nonzero()[:n, 0]


def check_guidance(key: str, guidance: float) -> None:
    """Raises `UserError` where w is no finite number, 0 or more."""
    if not (guidance >= 0 and math.isfinite(guidance)):
        raise UserError(f"{key} is {guidance}; it must be a finite number, 0 or more")
