"""What `ebmzoo sample` is to sample given: a class, an image, a composition, or what a mask leaves of an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from ebmzoo.commands.class_names import class_of, index_of, members
from ebmzoo.data import ImageData, ImageSet, prepare, to_uint8
from ebmzoo.data.decode import Frame, decode, size_of
from ebmzoo.data.masks import masked, read_mask
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import Inpaints
from ebmzoo.methods.base.method import Method
from ebmzoo.methods.base.samples import Samples
from ebmzoo.tasks.latents import (
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
from ebmzoo.training.config import ZooParser, mendable, sections
from ebmzoo.training.trust import nothing_foreign

Reading = Callable[[], ImageData]
"""Reads the data that the method was trained on, where a condition needs it."""

ENCODED = 5000
"""The latent of a class or a value is the mean over at most so many training images."""


class Condition(ABC):
    """One of the flags `--class`, `--like`, `--compose` and `--inpaint`, with its value; as text, what samples are."""

    flag: str

    @staticmethod
    def asked(
        class_: str | None = None,
        like: str | None = None,
        compose: str | None = None,
        guidance: float | None = None,
        inpaint: str | None = None,
        mask: str | None = None,
    ) -> Condition | None:
        """What the flags ask for, if anything; a UserError if it is more than one thing, or half of one."""
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
            raise UserError(f"{' and '.join(given.flag for given in found)} exclude each other: give one of them")
        if mask is not None and inpaint is None:
            raise UserError("--mask needs --inpaint, the image that it hides a part of")
        if inpaint is not None and mask is None:
            raise UserError("--inpaint needs --mask, an image of the same size that is white where to fill in")
        if guidance is not None:
            if class_ is None and compose is None:
                raise UserError("--guidance needs --class or --compose, which say towards what to guide")
            check_guidance("--guidance", guidance)
        return found[0] if found else None

    @abstractmethod
    def draw(self, method: Method, read: Reading, n: int, batch_size: int, steps: int | None) -> tuple[Tensor, Samples]:
        """`n` samples as uint8 `(n, C, H, W)` on the CPU, and the last batch; `read` gives the data.

        Raises:
            UserError: the method cannot do it, or the flag's value does not fit the model or its data.
        """

    def beside(self, method: Method) -> list[Tensor]:
        """What a grid shows before the samples, each uint8 `(1, C, H, W)`."""
        return []

    def lacking(self, method: Method, what: str) -> UserError:
        """The error that the method cannot do it, where `what` can."""
        return UserError(
            f"{self.flag} needs a method that {what}, and this checkpoint holds a {type(method).__name__} that does not"
        )


class NamedCondition(Condition):
    """Names of classes or values, as mean latents of their training images or, for a model so trained, as classes."""

    wanted: str
    guidance: float | None

    def draw(self, method: Method, read: Reading, n: int, batch_size: int, steps: int | None) -> tuple[Tensor, Samples]:
        if has_classes(method):
            labels = self.labels(method, read)
            return sample_classes(method, labels.expand(n, *labels.shape), batch_size, steps, self.guidance or 0.0)
        z = self.latents(method, read, batch_size)
        return sample_latents(method, z.expand(n, *z.shape), batch_size, steps)

    def labels(self, method: Method, read: Reading) -> Tensor:
        """The class `()`, or the classes `(k,)` to compose; errors as of `draw`."""
        data = read()
        return self._labels(ByClass(method, data).names, data.name)

    def latents(self, method: Method, read: Reading, batch_size: int) -> Tensor:
        """z `(d,)`, or `(k, d)` to compose; errors as of `draw`."""
        if not conditions_on_latents(method):
            what = "samples given latents or classes, such as LIEBM with an encoder or CDRL with classes"
            raise self.lacking(method, what)
        if self.guidance is not None:
            raise UserError(
                f"--guidance needs a method trained with classes, such as CDRL, and this checkpoint holds a "
                f"{type(method).__name__}, which samples given latents"
            )
        return self._latents(method, read().train_set, batch_size)

    @abstractmethod
    def _labels(self, names: Sequence[str], of: str) -> Tensor: ...

    @abstractmethod
    def _latents(self, method: Method, images: ImageSet, batch_size: int) -> Tensor: ...

    def guided(self) -> str:
        """What the text of a condition ends with."""
        return "" if self.guidance is None else f" with guidance {self.guidance:g}"


@dataclass(frozen=True)
class OfClass(NamedCondition):
    """A class, or its normalised mean latent."""

    wanted: str
    guidance: float | None = None
    flag = "--class"

    def _labels(self, names: Sequence[str], of: str) -> Tensor:
        return torch.tensor(index_of(names, of, self.wanted, self.flag))

    def _latents(self, method: Method, images: ImageSet, batch_size: int) -> Tensor:
        return _mean(method, images, images.labels == class_of(images, self.wanted, self.flag), batch_size)

    def __str__(self) -> str:
        return f"of class {self.wanted}{self.guided()}"


@dataclass(frozen=True)
class Composition(NamedCondition):
    """A class, or a mean latent, for each value of an attribute or each class."""

    wanted: str
    guidance: float | None = None
    flag = "--compose"

    def _labels(self, names: Sequence[str], of: str) -> Tensor:
        return torch.tensor([index_of(names, of, name.strip(), self.flag) for name in self.wanted.split(",")])

    def _latents(self, method: Method, images: ImageSet, batch_size: int) -> Tensor:
        masks = [members(images, value.strip(), self.flag) for value in self.wanted.split(",")]
        return torch.stack([_mean(method, images, mask, batch_size) for mask in masks])

    def __str__(self) -> str:
        return f"of {self.wanted}{self.guided()}"


@dataclass(frozen=True)
class Like(Condition):
    """The latent of an image."""

    path: str
    flag = "--like"

    def draw(self, method: Method, read: Reading, n: int, batch_size: int, steps: int | None) -> tuple[Tensor, Samples]:
        if not conditions_on_latents(method):
            raise self.lacking(method, "samples given its encoder's latents, such as LIEBM with an encoder")
        z = encoded(method, read_image(Path(self.path), shape_of(method), self.flag))
        return sample_latents(method, z.expand(n, -1), batch_size, steps)

    def __str__(self) -> str:
        return f"like {self.path}"


@dataclass(frozen=True)
class Filling(Condition):
    """What a mask leaves of an image; a grid shows the image first, then what is left of it, the rest grey."""

    path: str
    mask: str | None
    flag = "--inpaint"

    def draw(self, method: Method, read: Reading, n: int, batch_size: int, steps: int | None) -> tuple[Tensor, Samples]:
        if not isinstance(method, Inpaints):
            raise self.lacking(method, "fills in what a mask hides, such as CDRL")
        x, hidden = self._read(method)
        known, device = masked(prepare(x), hidden), method.device

        def made(rows: Tensor) -> Samples:
            return method.inpaint(known.repeat(len(rows), 1, 1, 1).to(device), hidden.to(device), steps=steps)

        return in_batches(made, n, batch_size)

    def beside(self, method: Method) -> list[Tensor]:
        x, hidden = self._read(method)
        return [x, to_uint8(masked(prepare(x), hidden))]

    def _read(self, method: Method) -> tuple[Tensor, Tensor]:
        """The image, uint8 `(1, C, H, W)`, and what is hidden of it, bool `(1, 1, H, W)`."""
        assert self.mask is not None
        x = read_image(Path(self.path), shape_of(method), self.flag)
        try:
            hidden = read_mask(Path(self.mask))
        except UserError as error:
            raise UserError(f"--mask: {error}") from error
        if hidden.shape != x.shape[-2:]:
            found, needed = (f"{width}×{height}" for height, width in (hidden.shape, x.shape[-2:]))
            raise UserError(f"--mask: {self.mask} has {found} pixels, but the image has {needed}: scale it to that")
        return x, hidden[None, None]

    def __str__(self) -> str:
        return f"of {self.path} filled in where {self.mask} hides it"


def _mean(method: Method, images: ImageSet, mask: Tensor, batch_size: int) -> Tensor:
    return mean_latent(method, images.images[first_indices(mask, ENCODED)], batch_size)


def image_data(config: str, trust: bool = False) -> ImageData:
    """The `data:` of a checkpoint's config.

    Raises:
        UserError: it has none, or it cannot be built, or, without `trust`, it names another's class.
    """
    parser = ZooParser()
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)
    section = sections(config).get("data")
    with mendable(), nothing_foreign(trust):
        data = None if section is None else parser.instantiate(parser.parse_object({"data": section})).data
    if not isinstance(data, ImageData):
        raise UserError("the checkpoint's config names no image data, whose training images are needed")
    return data


def shape_of(method: Method) -> tuple[int, int, int]:
    """(C, H, W) of the method's images."""
    channels, height, width = method.sample(1, steps=0).images.shape[1:]
    return channels, height, width


def read_image(path: Path, shape: tuple[int, int, int], flag: str) -> Tensor:
    """An image file as uint8 `(1, C, H, W)` of exactly that shape (C, H, W), colours to grey where C is 1.

    Raises:
        UserError: it is no image, or of another size.
    """
    channels, height, width = shape
    try:
        size = size_of(path)
    except UserError as error:
        raise UserError(f"{flag}: {error}") from error
    if size != (width, height):
        found = f"{size[0]}×{size[1]} pixels"
        raise UserError(f"{flag}: {path} has {found}, but the model's images have {width}×{height}: scale it to that")
    _, images = decode([(str(path), path.read_bytes)], Frame(height, channels), max_gib=float("inf"))
    return images
