"""Masks of the pixels that inpainting fills in."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np
import torch
from PIL import ImageOps, UnidentifiedImageError
from torch import Tensor

from ebmzoo.data.image_files import first_line, opened
from ebmzoo.errors import UserError, check_seed

Side = Literal["left", "right", "top", "bottom"]


class Mask(ABC):
    """A choice of hidden pixels.

    >>> from ebmzoo.data import Half
    >>> Half("top")(4)[:, 0]
    tensor([ True,  True, False, False])
    """

    name: str
    """The name in tables."""

    @abstractmethod
    def __call__(self, size: int, seed: int = 0) -> Tensor:
        """Return the mask, `(size, size)` bool, true at one hidden pixel or more; `seed` selects a random mask."""

    def available(self) -> str | None:
        """Return None if the mask can be used, else one sentence that says what to do."""
        return None

    def __repr__(self) -> str:
        settings = ", ".join(f"{key}={value!r}" for key, value in vars(self).items() if not key.startswith("_"))
        return f"{type(self).__name__}({settings})"


class CentralSquare(Mask):
    """A central square of side round(`fraction` · size), at least one pixel (CDRL, Fig. 7, first two rows).

    Args:
        fraction: The side of the square as a fraction of the image's, above 0 and at most 1; the paper gives no number.

    Raises:
        UserError: If `fraction` is out of its range.
    """

    name = "central_square"

    def __init__(self, fraction: float = 0.5) -> None:
        if not 0 < fraction <= 1:
            raise UserError(f"fraction: {fraction} must be above 0 and at most 1")
        self.fraction = fraction

    def __call__(self, size: int, seed: int = 0) -> Tensor:
        side = max(1, round(self.fraction * size))
        first = (size - side) // 2
        hidden = torch.zeros(size, size, dtype=torch.bool)
        hidden[first : first + side, first : first + side] = True
        return hidden


class Half(Mask):
    """The left, right, top or bottom half: size // 2 columns or rows, at least one.

    Args:
        side: Which half is hidden: `left`, `right`, `top` or `bottom`.

    Raises:
        UserError: If `side` is something else.
    """

    def __init__(self, side: Side = "bottom") -> None:
        if side not in ("left", "right", "top", "bottom"):
            raise UserError(f"side: {side} must be left, right, top or bottom")
        self.side = side
        self.name = f"{side}_half"

    def __call__(self, size: int, seed: int = 0) -> Tensor:
        part = max(1, size // 2)
        hidden = torch.zeros(size, size, dtype=torch.bool)
        along = hidden.mT if self.side in ("left", "right") else hidden
        along[slice(part) if self.side in ("left", "top") else slice(size - part, None)] = True
        return hidden


class Scribbles(Mask):
    """Random bent strokes, different for each seed (CDRL, Fig. 7, last two rows; the paper's masks are not published).

    A stroke is a chain of straight segments. It starts at a uniformly random point in a uniformly random direction and
    turns by a uniformly random angle after each segment. Pixels within half a width of it are hidden; no stroke is
    thinner than a pixel. Source: Yu et al., 2019 (Free-form image inpainting with gated convolution), Algorithm 1.

    Args:
        strokes: The number of strokes.
        parts: The number of straight segments of a stroke.
        length: The length of a segment as a fraction of the image's side; end points are clamped to the image.
        width: The width of a stroke as a fraction of the image's side.
        turn: The largest angle between two segments, in degrees.
        seed: Seed that is combined with the seed of each mask.

    Raises:
        UserError: If a number is out of its range.
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
                raise UserError(f"{key}: {count} must be 1 or more")
        for key, extent in {"length": length, "width": width}.items():
            if not 0 < extent <= 1:
                raise UserError(f"{key}: {extent} must be above 0 and at most 1")
        if not 0 <= turn <= 180:
            raise UserError(f"turn: {turn} must be from 0 to 180")
        check_seed(seed=seed)
        self.strokes = strokes
        self.parts = parts
        self.length = length
        self.width = width
        self.turn = turn
        self.seed = seed

    def __call__(self, size: int, seed: int = 0) -> Tensor:
        # torch's CPU generator uses 32 bits of a seed, so the two seeds are hashed into one.
        generator = torch.Generator().manual_seed(Random(f"{self.seed}, {seed}").getrandbits(32))

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator)

        a = uniform(self.strokes, 2)
        angle = 2 * math.pi * uniform(self.strokes)
        ticks = (torch.arange(size) + 0.5) / size
        pixels = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), dim=-1)
        reach = max(self.width / 2, math.sqrt(0.5) / size)  # half a pixel's diagonal, at least
        hidden = torch.zeros(size, size, dtype=torch.bool)
        for _ in range(self.parts):
            direction = torch.stack([angle.cos(), angle.sin()], dim=1)
            b = (a + self.length * direction).clamp(0, 1)
            hidden |= (distance(pixels, a, b) <= reach).any(0)
            a, angle = b, angle + math.radians(self.turn) * (2 * uniform(self.strokes) - 1)
        return hidden


def distance(points: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return |p − a − h (b − a)|, h = (p − a)·(b − a)/|b − a|² clamped to [0, 1], `(S, *)`.

    Args:
        points: Points p, `(*, 2)`.
        a: Start points of S segments, `(S, 2)`.
        b: Their end points, `(S, 2)`.
    """
    a, e = a.view(len(a), *(1,) * (points.ndim - 1), 2), (b - a).view(len(a), *(1,) * (points.ndim - 1), 2)
    p = points - a
    h = ((p * e).sum(-1) / e.square().sum(-1).clamp(min=1e-12)).clamp(0, 1)
    far: Tensor = torch.linalg.vector_norm(p - h[..., None] * e, dim=-1)
    return far


class FromFile(Mask):
    """A mask from an image file, as `read_mask` reads it, of the images' own size.

    >>> FromFile("masks/glasses.png").name
    'glasses'

    Args:
        path: The file, such as `masks/glasses.png`; the mask's name in tables is then `glasses`.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.name = Path(path).stem

    def available(self) -> str | None:
        return None if self.path.is_file() else f"there is no mask {self.path}: put an image of the images' size there"

    def __call__(self, size: int, seed: int = 0) -> Tensor:
        """Read the mask.

        Raises:
            UserError: If the file is not such a mask, or not of side `size`.
        """
        hidden = read_mask(self.path)
        if hidden.shape != (size, size):
            height, width = hidden.shape
            raise UserError(f"the mask {self.path} has {width}×{height} pixels; it must have {size}×{size}: scale it")
        return hidden


def read_mask(path: Path) -> Tensor:
    """Return the mask in an image file, `(H, W)` bool, true where hidden.

    If some pixel is transparent, the pixels whose alpha is 128 or more are hidden; otherwise those whose brightest
    channel is. Half of the range is the threshold because JPEG's compression leaves black pixels almost black. As in
    photographs, the orientation that a camera notes in the file is applied.

    Raises:
        UserError: If the file is not an image, or hides nothing.
    """
    try:
        with opened(path) as image:
            picture = ImageOps.exif_transpose(image).convert("RGBA")
    except UserError as error:
        raise UserError(f"the mask {error}") from error
    except UnidentifiedImageError as error:
        raise UserError(f"the mask {path} is not an image file") from error
    except Exception as error:  # a damaged file makes the decoders raise almost anything
        reason = (error.strerror if isinstance(error, OSError) else None) or first_line(error)
        raise UserError(f"the mask {path} cannot be read as an image ({reason})") from error
    pixels = np.array(picture)
    alpha = pixels[..., 3]
    # Some programs add an alpha channel that is opaque everywhere and has no meaning.
    hidden = torch.from_numpy((alpha if alpha.min() < 255 else pixels[..., :3].max(-1)) >= 128)
    if not hidden.any():
        raise UserError(
            f"the mask {path} hides nothing: paint the hidden pixels white, or paint them on a transparent background"
        )
    return hidden


def masked(x: Tensor, hidden: Tensor) -> Tensor:
    """Return images `(B, C, H, W)` in [-1, 1] with mid-grey, 0, where `hidden` (bool, broadcast to them) is true."""
    return x.masked_fill(hidden, 0.0)
