"""What is hidden of an image that is to be filled in."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ebmzoo.data.decode import first_line
from ebmzoo.errors import UserError

Side = Literal["left", "right", "top", "bottom"]


class Mask(ABC):
    """Which pixels of an image are hidden; `name` is what tables call it."""

    name: str

    @abstractmethod
    def __call__(self, size: int, seed: int = 0) -> Tensor:
        """`(size, size)` bool, true where hidden: one pixel or more. `seed` is of a mask that is random."""

    def available(self) -> str | None:
        """None when usable, else one sentence that says what to do."""
        return None

    def __repr__(self) -> str:
        told = ", ".join(f"{key}={value!r}" for key, value in vars(self).items() if not key.startswith("_"))
        return f"{type(self).__name__}({told})"


class CentralSquare(Mask):
    """A square of side round(`fraction` · size), at least one pixel, in the middle (CDRL, Fig. 7, first two rows).

    Args:
        fraction: of the image's side, above 0 and at most 1; the paper prints none.
    """

    name = "central_square"

    def __init__(self, fraction: float = 0.5) -> None:
        if not 0 < fraction <= 1:
            raise UserError(f"fraction: {fraction} is not possible, above 0 and at most 1 is needed")
        self.fraction = fraction

    def __call__(self, size: int, seed: int = 0) -> Tensor:
        side = max(1, round(self.fraction * size))
        first = (size - side) // 2
        hidden = torch.zeros(size, size, dtype=torch.bool)
        hidden[first : first + side, first : first + side] = True
        return hidden


class Half(Mask):
    """The left, right, top or bottom size // 2 columns or rows, at least one.

    Args:
        side: which half is hidden.
    """

    def __init__(self, side: Side = "bottom") -> None:
        if side not in ("left", "right", "top", "bottom"):
            raise UserError(f"side: {side} is not possible, left, right, top or bottom is needed")
        self.side, self.name = side, f"{side}_half"

    def __call__(self, size: int, seed: int = 0) -> Tensor:
        part = max(1, size // 2)
        hidden = torch.zeros(size, size, dtype=torch.bool)
        along = hidden.mT if self.side in ("left", "right") else hidden
        along[slice(part) if self.side in ("left", "top") else slice(size - part, None)] = True
        return hidden


class Scribbles(Mask):
    """Bent strokes, another drawing for each seed (CDRL, Fig. 7, last two rows; its masks are not printed).

    A stroke is a chain of straight parts from a uniform point of the image in a uniform direction, which each part
    turns by a uniform angle; hidden is what is within half a width of it, and no stroke is thinner than a pixel.
    After Yu et al., 2019 (Free-form image inpainting with gated convolution), Algorithm 1.

    Args:
        strokes: how many.
        parts: straight parts of a stroke.
        length: of a part, in sides of the image; ends are kept within the image.
        width: of a stroke, in sides of the image.
        turn: the largest angle between two parts, in degrees.
        seed: of the drawings, beside the seed of each.
    """

    name = "scribbles"

    def __init__(
        self,
        strokes: int = 4,
        parts: int = 5,
        length: float = 0.25,
        width: float = 0.1,
        turn: float = 120.0,
        seed: int = 0,
    ) -> None:
        for key, count in {"strokes": strokes, "parts": parts}.items():
            if count < 1:
                raise UserError(f"{key}: {count} is not possible, 1 or more is needed")
        for key, extent in {"length": length, "width": width}.items():
            if not 0 < extent <= 1:
                raise UserError(f"{key}: {extent} is not possible, above 0 and at most 1 is needed")
        if not 0 <= turn <= 180:
            raise UserError(f"turn: {turn} is not possible, 0 to 180 is needed")
        if seed < 0:
            raise UserError(f"seed: {seed} is not possible, 0 or more is needed")
        self.strokes, self.parts, self.length = strokes, parts, length
        self.width, self.turn, self.seed = width, turn, seed

    def __call__(self, size: int, seed: int = 0) -> Tensor:
        # Of a seed torch's CPU generator reads 32 bits, so two seeds need mixing to be one.
        generator = torch.Generator().manual_seed(Random(f"{self.seed}, {seed}").getrandbits(32))

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator)

        a = uniform(self.strokes, 2)
        angle = 2 * math.pi * uniform(self.strokes)
        ticks = (torch.arange(size) + 0.5) / size
        pixels = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), dim=-1)
        reach = max(self.width / 2, math.sqrt(0.5) / size)  # the latter is as far as a point is from its pixel's centre
        hidden = torch.zeros(size, size, dtype=torch.bool)
        for _ in range(self.parts):
            direction = torch.stack([angle.cos(), angle.sin()], dim=1)
            b = (a + self.length * direction).clamp(0, 1)
            hidden |= (distance(pixels, a, b) <= reach).any(0)
            a, angle = b, angle + math.radians(self.turn) * (2 * uniform(self.strokes) - 1)
        return hidden


def distance(points: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """|p − a − h (b − a)|, h = (p − a)·(b − a)/|b − a|² in [0, 1]: of points `(*, 2)` from S segments `(S, 2)`."""
    a, e = a.view(len(a), *(1,) * (points.ndim - 1), 2), (b - a).view(len(a), *(1,) * (points.ndim - 1), 2)
    p = points - a
    h = ((p * e).sum(-1) / e.square().sum(-1).clamp(min=1e-12)).clamp(0, 1)
    far: Tensor = torch.linalg.vector_norm(p - h[..., None] * e, dim=-1)
    return far


class FromFile(Mask):
    """An image file as `read_mask` understands it, of the images' own size.

    Args:
        path: the file, such as `masks/glasses.png`; tables call the mask by its name, here `glasses`.
    """

    def __init__(self, path: str) -> None:
        self.path, self.name = Path(path), Path(path).stem

    def available(self) -> str | None:
        return None if self.path.is_file() else f"there is no mask {self.path}: put an image of the images' size there"

    def __call__(self, size: int, seed: int = 0) -> Tensor:
        hidden = read_mask(self.path)
        if hidden.shape != (size, size):
            height, width = hidden.shape
            raise UserError(f"the mask {self.path} has {width}×{height} pixels, {size}×{size} are needed: scale it")
        return hidden


def read_mask(path: Path) -> Tensor:
    """`(H, W)` bool of an image file: hidden is what is not black, or where some is transparent, what is not.

    Raises:
        UserError: it is no image, or hides nothing.
    """
    try:
        with Image.open(path) as image:
            picture = image.convert("RGBA")
    except UnidentifiedImageError as error:
        raise UserError(f"the mask {path} is not an image file") from error
    except Exception as error:  # a damaged file makes the decoders raise almost anything
        reason = (error.strerror if isinstance(error, OSError) else None) or first_line(error)
        raise UserError(f"the mask {path} cannot be read as an image ({reason})") from error
    pixels = np.array(picture)
    alpha = pixels[..., 3]
    # A program may add an alpha channel that is opaque all over and says nothing.
    hidden = torch.from_numpy(alpha > 0 if alpha.min() < 255 else pixels[..., :3].max(-1) > 0)
    if not hidden.any():
        raise UserError(f"the mask {path} hides nothing: paint white, or on a transparent ground, what is to be hidden")
    return hidden


def masked(x: Tensor, hidden: Tensor) -> Tensor:
    """Images `(B, C, H, W)` in [-1, 1] with mid-grey, 0, where `hidden`, bool that broadcasts to them."""
    return x.masked_fill(hidden, 0.0)
