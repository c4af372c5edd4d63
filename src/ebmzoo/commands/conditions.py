"""The conditions of `ebmzoo sample`: a class, a composition, an image, or the visible part of an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ebmzoo.commands.class_names import class_of, index_of, members
from ebmzoo.data import ImageData, ImageSet, prepare, to_uint8
from ebmzoo.data.decode import Frame, decode
from ebmzoo.data.image_files import entry, size_of
from ebmzoo.data.masks import masked, read_mask
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import Inpaints
from ebmzoo.methods.base.method import Method
from ebmzoo.methods.base.samples import Samples
from ebmzoo.tasks.conditioning import (
    ByClass,
    check_guidance,
    conditions_on_latents,
    encoded,
    first_indices,
    has_classes,
    in_batches,
    mean_latent,
    sample_classes,
    sample_latents,
)

Reading = Callable[[], ImageData]
"""Loads the data that the method was trained on, for the conditions that need it."""

MAX_ENCODED = 5000
"""The maximum number of training images in the mean latent of a class or a value."""


class Condition(ABC):
    """One of the flags `--class`, `--like`, `--compose` and `--inpaint` with its value; `str` describes the samples."""

    flag: str

    @staticmethod
    def from_flags(
        class_: str | None = None,
        like: str | None = None,
        compose: str | None = None,
        guidance: float | None = None,
        inpaint: str | None = None,
        mask: str | None = None,
    ) -> Condition | None:
        """The condition that the flags state, if any.

        Raises:
            UserError: The flags exclude each other, or one lacks the flag that it belongs to.
        """
        found: list[Condition] = []
        if class_ is not None:
            found.append(OfClass(class_, guidance))
        if like is not None:
            found.append(Like(like))
        if compose is not None:
            found.append(Composition(compose, guidance))
        if inpaint is not None:
            found.append(Filling(inpaint, mask))
        if len(found) > 1:
            raise UserError(
                f"{' and '.join(condition.flag for condition in found)} exclude each other: use one of them"
            )
        if mask is not None and inpaint is None:
            raise UserError("--mask needs --inpaint, the image to inpaint")
        if inpaint is not None and mask is None:
            raise UserError("--inpaint needs --mask, an image of the same size that is white where the image is hidden")
        if guidance is not None:
            if class_ is None and compose is None:
                raise UserError("--guidance needs --class or --compose, the condition to guide towards")
            check_guidance("--guidance", guidance)
        return found[0] if found else None

    @abstractmethod
    def draw(self, method: Method, read: Reading, n: int, batch_size: int, steps: int | None) -> tuple[Tensor, Samples]:
        """`n` samples as uint8 `(n, C, H, W)` on the CPU, and the last batch; `read` loads the data.

        Raises:
            UserError: The method does not support the condition, or the value does not fit the model or its data.
        """

    def references(self, method: Method) -> list[Tensor]:
        """The images that a grid shows before the samples, each uint8 `(1, C, H, W)`."""
        return []

    def unsupported(self, method: Method, what: str) -> UserError:
        """The error that the method does not support the condition; `what` says which methods do."""
        return UserError(
            f"{self.flag} needs a method that {what}, and this checkpoint holds a {type(method).__name__} that does not"
        )


class NamedCondition(Condition):
    """Names of classes or attribute values: labels for a model trained with classes, otherwise mean latents."""

    wanted: str
    guidance: float | None

    def draw(self, method: Method, read: Reading, n: int, batch_size: int, steps: int | None) -> tuple[Tensor, Samples]:
        if has_classes(method):
            labels = self.labels(method, read)
            return sample_classes(method, labels.expand(n, *labels.shape), batch_size, steps, self.guidance or 0.0)
        z = self.latents(method, read, batch_size)
        return sample_latents(method, z.expand(n, *z.shape), batch_size, steps)

    def labels(self, method: Method, read: Reading) -> Tensor:
        """The label `()` of the class, or those `(k,)` of a composition; errors as of `draw`."""
        data = read()
        return self._labels(ByClass(method, data).names, data.name)

    def latents(self, method: Method, read: Reading, batch_size: int) -> Tensor:
        """The latent z `(d,)` of the class, or those `(k, d)` of a composition; errors as of `draw`."""
        if not conditions_on_latents(method):
            what = "samples given latents or classes, such as LIEBM with an encoder or CDRL with classes"
            raise self.unsupported(method, what)
        if self.guidance is not None:
            raise UserError(
                f"--guidance needs a method trained with classes, such as CDRL, and this checkpoint holds a "
                f"{type(method).__name__}, which is conditioned on latents"
            )
        return self._latents(method, read().train_set, batch_size)

    @abstractmethod
    def _labels(self, names: Sequence[str], of: str) -> Tensor: ...

    @abstractmethod
    def _latents(self, method: Method, images: ImageSet, batch_size: int) -> Tensor: ...

    def guidance_text(self) -> str:
        """The end of the condition's description."""
        return "" if self.guidance is None else f" with guidance {self.guidance:g}"


@dataclass(frozen=True)
class OfClass(NamedCondition):
    """A class: its label, or the normalised mean latent of its training images."""

    wanted: str
    guidance: float | None = None
    flag = "--class"

    def _labels(self, names: Sequence[str], of: str) -> Tensor:
        return torch.tensor(index_of(names, of, self.wanted, self.flag))

    def _latents(self, method: Method, images: ImageSet, batch_size: int) -> Tensor:
        return _mean(method, images, images.labels == class_of(images, self.wanted, self.flag), batch_size)

    def __str__(self) -> str:
        return f"of class {self.wanted}{self.guidance_text()}"


@dataclass(frozen=True)
class Composition(NamedCondition):
    """Several classes or attribute values at once: their labels, or the mean latents of their training images."""

    wanted: str
    guidance: float | None = None
    flag = "--compose"

    def _labels(self, names: Sequence[str], of: str) -> Tensor:
        return torch.tensor([index_of(names, of, name.strip(), self.flag) for name in self.wanted.split(",")])

    def _latents(self, method: Method, images: ImageSet, batch_size: int) -> Tensor:
        masks = [members(images, value.strip(), self.flag) for value in self.wanted.split(",")]
        return torch.stack([_mean(method, images, mask, batch_size) for mask in masks])

    def __str__(self) -> str:
        return f"of {self.wanted}{self.guidance_text()}"


@dataclass(frozen=True)
class Like(Condition):
    """An image: its latent under the method's encoder."""

    path: str
    flag = "--like"

    def draw(self, method: Method, read: Reading, n: int, batch_size: int, steps: int | None) -> tuple[Tensor, Samples]:
        if not conditions_on_latents(method):
            raise self.unsupported(method, "samples given its encoder's latents, such as LIEBM with an encoder")
        z = encoded(method, read_image(Path(self.path), method.image_shape, self.flag))
        return sample_latents(method, z.expand(n, -1), batch_size, steps)

    def __str__(self) -> str:
        return f"like {self.path}"


@dataclass(frozen=True)
class Filling(Condition):
    """Inpainting: the part of an image that a mask leaves visible.

    A grid shows the image first, then its visible part with the rest in grey.
    """

    path: str
    mask: str | None
    flag = "--inpaint"

    def draw(self, method: Method, read: Reading, n: int, batch_size: int, steps: int | None) -> tuple[Tensor, Samples]:
        if not isinstance(method, Inpaints):
            raise self.unsupported(method, "fills in what a mask hides, such as CDRL")
        x, hidden = self._read(method)
        known, device = masked(prepare(x), hidden), method.device

        def inpainted(rows: Tensor) -> Samples:
            return method.inpaint(known.repeat(len(rows), 1, 1, 1).to(device), hidden.to(device), steps=steps)

        return in_batches(inpainted, n, batch_size)

    def references(self, method: Method) -> list[Tensor]:
        x, hidden = self._read(method)
        return [x, to_uint8(masked(prepare(x), hidden))]

    def _read(self, method: Method) -> tuple[Tensor, Tensor]:
        """The image, uint8 `(1, C, H, W)`, and the mask of its hidden pixels, bool `(1, 1, H, W)`."""
        assert self.mask is not None
        x = read_image(Path(self.path), method.image_shape, self.flag)
        try:
            hidden = read_mask(Path(self.mask))
        except UserError as error:
            raise UserError(f"--mask: {error}") from error
        if hidden.shape != x.shape[-2:]:
            found, needed = (f"{width}×{height}" for height, width in (hidden.shape, x.shape[-2:]))
            raise UserError(f"--mask: {self.mask} has {found} pixels, but the image has {needed}: resize it")
        return x, hidden[None, None]

    def __str__(self) -> str:
        return f"of {self.path} filled in where {self.mask} hides it"


def _mean(method: Method, images: ImageSet, mask: Tensor, batch_size: int) -> Tensor:
    return mean_latent(method, images.images[first_indices(mask, MAX_ENCODED)], batch_size)


def read_image(path: Path, shape: tuple[int, int, int], flag: str) -> Tensor:
    """An image file as uint8 `(1, C, H, W)` of exactly the shape (C, H, W), converted to greyscale if C is 1.

    Raises:
        UserError: The file is not an image, or has another size.
    """
    channels, height, width = shape
    try:
        size = size_of(path)
    except UserError as error:
        raise UserError(f"{flag}: {error}") from error
    if size != (width, height):
        found = f"{size[0]}×{size[1]} pixels"
        raise UserError(f"{flag}: {path} has {found}, but the model's images have {width}×{height}: resize it")
    _, images = decode([entry(path)], Frame(height, channels), max_gib=float("inf"))
    return images
