"""What `ebmzoo sample` is to sample given: a class, an image, or a composition, as latents of a method."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from lightning.pytorch import LightningDataModule
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ebmzoo.data import ImageData, ImageSet
from ebmzoo.data.decode import Frame, decode
from ebmzoo.errors import UserError
from ebmzoo.methods.base import Method
from ebmzoo.tasks.latents import conditions, encoded, first, mean_latent
from ebmzoo.training.config import ZooParser, mendable

ENCODED = 5000
"""The latent of a class or a value is the mean over at most so many training images."""
NAMED = 12
"""How many names an error lists."""


class Condition(ABC):
    """One of the flags `--class`, `--like` and `--compose`, with its value; as text, what the samples are."""

    flag: str

    @staticmethod
    def asked(class_: str | None, like: str | None, compose: str | None) -> Condition | None:
        """What the flags ask for, if anything; a UserError if it is more than one thing."""
        found: list[Condition] = []
        if class_ is not None:
            found.append(OfClass(class_))
        if like is not None:
            found.append(Like(like))
        if compose is not None:
            found.append(Composition(compose))
        if len(found) > 1:
            raise UserError(f"{' and '.join(given.flag for given in found)} exclude each other: give one of them")
        return found[0] if found else None

    def latents(self, method: Method, config: str, batch_size: int) -> Tensor:
        """z `(d,)`, or `(k, d)` to compose; `config` is the checkpoint's, which names the training images.

        Raises:
            UserError: the method samples nothing given, or the flag's value does not fit the model or its data.
        """
        if not conditions(method):
            raise UserError(
                f"{self.flag} needs a method that samples given its encoder's latents, such as LIEBM with an encoder, "
                f"and this checkpoint holds a {type(method).__name__} that does not"
            )
        return self._latents(method, config, batch_size)

    @abstractmethod
    def _latents(self, method: Method, config: str, batch_size: int) -> Tensor: ...


@dataclass(frozen=True)
class OfClass(Condition):
    """The normalised mean latent of a class's training images."""

    wanted: str
    flag = "--class"

    def _latents(self, method: Method, config: str, batch_size: int) -> Tensor:
        images = training_images(config)
        return _mean(method, images, images.labels == class_of(images, self.wanted, self.flag), batch_size)

    def __str__(self) -> str:
        return f"of class {self.wanted}"


@dataclass(frozen=True)
class Like(Condition):
    """The latent of an image."""

    path: str
    flag = "--like"

    def _latents(self, method: Method, config: str, batch_size: int) -> Tensor:
        shape = method.sample(1, steps=0).images.shape[1:]
        return encoded(method, read_image(Path(self.path), (shape[0], shape[1], shape[2])))[0]

    def __str__(self) -> str:
        return f"like {self.path}"


@dataclass(frozen=True)
class Composition(Condition):
    """A mean latent for each value of an attribute, or for each class."""

    wanted: str
    flag = "--compose"

    def _latents(self, method: Method, config: str, batch_size: int) -> Tensor:
        images = training_images(config)
        masks = [members(images, value.strip(), self.flag) for value in self.wanted.split(",")]
        return torch.stack([_mean(method, images, mask, batch_size) for mask in masks])

    def __str__(self) -> str:
        return f"of {self.wanted}"


def _mean(method: Method, images: ImageSet, mask: Tensor, batch_size: int) -> Tensor:
    return mean_latent(method, images.images[first(mask, ENCODED)], batch_size)


def training_images(config: str) -> ImageSet:
    """The training images of the `data:` of a config's YAML text.

    Raises:
        UserError: it has none, or they cannot be read.
    """
    parser = ZooParser()
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)
    section = (yaml.safe_load(config) or {}).get("data")
    with mendable():
        data = None if section is None else parser.instantiate(parser.parse_object({"data": section})).data
    if not isinstance(data, ImageData):
        raise UserError("the checkpoint's config names no image data, whose training images are needed")
    return data.train_set


def class_of(images: ImageSet, wanted: str, flag: str) -> int:
    """The class of that name, else of that index; a UserError with the classes that there are."""
    k = len(images.classes)
    if wanted in images.classes:
        return images.classes.index(wanted)
    if wanted.isdecimal() and int(wanted) < k:
        return int(wanted)
    hint = "" if wanted.removeprefix("-").isdecimal() else _near(wanted, images.classes)
    raise UserError(
        f"{flag}: {images.name} has no class {wanted!r}, only 0 to {k - 1}: {_listed(images.classes)}{hint}"
    )


def members(images: ImageSet, wanted: str, flag: str) -> Tensor:
    """Which images have an attribute with the value `wanted`, or are of the class `wanted`, `(N,)` bool.

    Raises:
        UserError: there is no such value or class, or no image has it.
    """
    if images.attributes is None:
        mask = images.labels == class_of(images, wanted, flag)
    else:
        every = [value for values in images.attributes.values for value in values]
        holders = zip(images.attributes.names, images.attributes.values, strict=True)
        name = next((name for name, values in holders if wanted in values), None)
        if name is None:
            told = _near(wanted, every) or f", only {_listed(every)}"
            raise UserError(f"{flag}: no attribute of {images.name} has the value {wanted!r}{told}")
        mask = images.attributes.where({name: wanted})
    if not mask.any():
        raise UserError(f"{flag}: no training image of {images.name} has the value {wanted!r}")
    return mask


def _near(wanted: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(wanted, names, n=3)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")


def read_image(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """An image file as uint8 `(1, C, H, W)` of exactly that shape (C, H, W), colours to grey where C is 1.

    Raises:
        UserError: it is no image, or of another size.
    """
    channels, height, width = shape
    try:
        with Image.open(path) as image:
            size = image.size
    except UnidentifiedImageError as error:
        raise UserError(f"--like: {path} is not an image file") from error
    if size != (width, height):
        found = f"{size[0]}×{size[1]} pixels"
        raise UserError(f"--like: {path} has {found}, but the model's images have {width}×{height}: scale it to that")
    _, images = decode([(str(path), path.read_bytes)], Frame(height, channels), max_gib=float("inf"))
    return images
