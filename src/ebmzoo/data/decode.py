"""Decoding of image files of any size and mode to uint8 arrays of one shape."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ebmzoo.data.image_files import Entry, first_line, opened
from ebmzoo.errors import UserError

Pixels = NDArray[np.uint8]
WAITING = 16
"""The number of files that are read, and not decoded yet, at most."""


@dataclass(frozen=True)
class Frame:
    """The crop, scale and colours that turn an image of any size and mode into `(channels, size, size)`.

    Args:
        size: Side of the result in pixels.
        channels: 3 for RGB, 1 for grey.
        crop: `centre` scales the shorter side to `size` and keeps the central square. `none` scales each side to `size`
            separately. `top_left` keeps the top left corner without scaling, if the image is large enough.
        box: Left, upper, right and lower edge of a region that is cut out first, in pixels.

    Raises:
        UserError: If `size` or `channels` is out of its range.
    """

    size: int
    channels: int
    crop: Literal["centre", "none", "top_left"] = "centre"
    box: tuple[int, int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"size: {self.size} must be 1 or more")
        if self.channels not in (1, 3):
            raise UserError(f"channels: {self.channels} must be 3 (RGB) or 1 (grey)")

    def __call__(self, image: Image.Image) -> Pixels:
        """Return an image as `(channels, size, size)` uint8: bicubic, antialiased, on a white background."""
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
    """Return the image with 8 bits on white: alpha is composited, and 16-bit grey v becomes round(v/257).

    Raises:
        ValueError: If its pixels have more than 16 bits or are floating-point numbers.
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        deep = np.asarray(image)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError("more than 16 bits per pixel")
        return Image.fromarray(((deep.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def decode(entries: Iterable[Entry], frame: Frame, *, max_gib: float) -> tuple[list[str], Tensor]:
    """Return the names and images of `entries` in their order, decoded in several threads.

    Args:
        entries: Name and bytes of each image file.
        frame: How each image is cropped and scaled.
        max_gib: The most memory that the images may take.

    Returns:
        Names, and images `(N, channels, size, size)` uint8.

    Raises:
        UserError: If a file cannot be decoded, with its name, or the images take more than `max_gib`.
    """

    def one(entry: Entry) -> Pixels:
        name, read = entry
        try:
            with opened(BytesIO(read())) as image:
                return frame(image)
        # A damaged file makes the decoders raise almost anything.
        except Exception as error:
            reason = "not an image file" if isinstance(error, UnidentifiedImageError) else first_line(error)
            raise UserError(f"{name} cannot be read as an image ({reason}): repair or remove it") from error

    names: list[str] = []
    arrays: list[Pixels] = []
    waiting: deque[Future[Pixels]] = deque()
    with ThreadPoolExecutor() as pool:
        for entry in entries:
            names.append(entry[0])
            check_memory(len(names), frame, max_gib)
            if len(waiting) == WAITING:  # an archive's entries are in memory already
                arrays.append(waiting.popleft().result())
            waiting.append(pool.submit(one, entry))
        arrays += [future.result() for future in waiting]
    empty = np.zeros((0, frame.channels, frame.size, frame.size), np.uint8)
    return names, torch.from_numpy(np.stack(arrays) if arrays else empty)


def check_memory(n: int, frame: Frame, max_gib: float) -> None:
    """Check that `n` images of one frame fit into `max_gib`.

    Raises:
        UserError: If they do not.
    """
    gib = n * frame.channels * frame.size**2 / 2**30
    if gib > max_gib:
        raise UserError(
            f"max_gib: {n} or more images at size {frame.size} take {gib:.3g} GiB of memory, more than {max_gib:g}: "
            "raise max_gib, or use a smaller size or fewer images"
        )


def reframe(images: Pixels | Tensor, frame: Frame) -> Tensor:
    """Return `(N, H, W)` or `(N, H, W, C)` uint8 as `(N, channels, size, size)`, unchanged if it already fits."""
    array: Pixels = np.asarray(images)
    array = array[..., None] if array.ndim == 3 else array
    if array.shape[1:] == (frame.size, frame.size, frame.channels) and frame.box is None:
        return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))
    pictures = list(array[..., 0] if array.shape[-1] == 1 else array)
    with ThreadPoolExecutor() as pool:
        framed = list(pool.map(lambda picture: frame(Image.fromarray(picture)), pictures))
    return torch.from_numpy(np.stack(framed))
