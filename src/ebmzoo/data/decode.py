"""Image files of every kind to uint8 arrays of one shape."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ebmzoo.errors import UserError

Pixels = NDArray[np.uint8]
Entry = tuple[str, Callable[[], bytes]]
"""A file's name and how to get its bytes."""

CHUNK = 1024


@dataclass(frozen=True)
class Frame:
    """How a picture of any size and mode becomes `(channels, size, size)`.

    Args:
        size: Side of the result.
        channels: 3 for RGB, 1 for grey.
        crop: `centre` scales the shorter side to `size` and keeps the middle square, `none` scales each side by itself,
            `top_left` cuts a corner without scaling, from a picture that is large enough.
        box: Left, upper, right, lower: what is cut out first.
    """

    size: int
    channels: int
    crop: Literal["centre", "none", "top_left"] = "centre"
    box: tuple[int, int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"size: {self.size} is not possible, 1 or more is needed")
        if self.channels not in (1, 3):
            raise UserError(f"channels: {self.channels} is not possible, 3 (RGB) or 1 (grey) is needed")

    def __call__(self, image: Image.Image) -> Pixels:
        """One picture to `(channels, size, size)`: scaling is bicubic and antialiased, what is transparent is white."""
        image = opaque(ImageOps.exif_transpose(image)).convert("RGB" if self.channels == 3 else "L")
        if self.box is not None:
            image = image.crop(self.box)
        (width, height), side = image.size, self.size
        if self.crop == "top_left" and min(width, height) >= side:
            image = image.crop((0, 0, side, side))
        elif self.crop != "none" and width != height:
            scale = min(width, height)
            left, upper = (width - scale) // 2, (height - scale) // 2
            image = image.resize((side, side), Image.Resampling.BICUBIC, (left, upper, left + scale, upper + scale))
        elif (width, height) != (side, side):
            image = image.resize((side, side), Image.Resampling.BICUBIC)
        pixels = np.asarray(image).reshape(side, side, self.channels).transpose(2, 0, 1)
        return np.ascontiguousarray(pixels)


def opaque(image: Image.Image) -> Image.Image:
    """The picture in 8 bits on white: alpha is composited, 16-bit grey v becomes round(v/257)."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        deep = np.asarray(image).astype(np.float64)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError("more than 16 bits per pixel")
        return Image.fromarray(np.rint(deep / 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def decode(entries: Iterable[Entry], frame: Frame, *, max_gib: float) -> tuple[list[str], Tensor]:
    """Names and `(N, channels, size, size)` uint8 of the image files `entries`, in their order, decoded in threads.

    Raises:
        UserError: If a file is no image, naming it, or if all together are more than `max_gib`.
    """

    def one(entry: Entry) -> Pixels:
        name, read = entry
        try:
            with Image.open(BytesIO(read())) as image:
                return frame(image)
        # A damaged file makes the decoders raise almost anything.
        except Exception as error:
            reason = "not an image file" if isinstance(error, UnidentifiedImageError) else first_line(error)
            raise UserError(f"{name} cannot be read as an image ({reason}): mend or remove it") from error

    names: list[str] = []
    arrays: list[Pixels] = []
    rest = iter(entries)
    with ThreadPoolExecutor() as pool:
        while chunk := list(islice(rest, CHUNK)):
            check_memory(len(names) + len(chunk), frame, max_gib)
            names += [name for name, _ in chunk]
            arrays += pool.map(one, chunk)
    empty = np.zeros((0, frame.channels, frame.size, frame.size), np.uint8)
    return names, torch.from_numpy(np.stack(arrays) if arrays else empty)


def size_of(path: str | Path) -> tuple[int, int]:
    """(width, height) that the image file says it has; its pixels are not read.

    Raises:
        UserError: there is no such file, or it is no image, or says that it is huge.
    """
    try:
        with Image.open(path) as image:
            return image.size
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not an image file") from error
    except Exception as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or first_line(error)
        raise UserError(f"{path} cannot be read as an image ({reason})") from error


def first_line(error: Exception) -> str:
    """What is wrong, short enough to stand inside a sentence."""
    return next(iter(str(error).splitlines()), "").strip(" .:") or type(error).__name__


def check_memory(n: int, frame: Frame, max_gib: float) -> None:
    """Raise a UserError if `n` framed images are more than `max_gib`."""
    gib = n * frame.channels * frame.size**2 / 2**30
    if gib > max_gib:
        raise UserError(
            f"max_gib: {n} or more images at size {frame.size} take {gib:.3g} GiB of memory, more than {max_gib:g}: "
            "raise max_gib, lower size or give fewer images"
        )


def reframe(images: Pixels | Tensor, frame: Frame) -> Tensor:
    """`(N, H, W)` or `(N, H, W, C)` uint8 to `(N, channels, size, size)`, untouched where the shape already fits."""
    array: Pixels = np.asarray(images)
    array = array[..., None] if array.ndim == 3 else array
    if array.shape[1:] == (frame.size, frame.size, frame.channels) and frame.box is None:
        return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))
    pictures = list(array[..., 0] if array.shape[-1] == 1 else array)
    with ThreadPoolExecutor() as pool:
        framed = list(pool.map(lambda picture: frame(Image.fromarray(picture)), pictures))
    return torch.from_numpy(np.stack(framed))
