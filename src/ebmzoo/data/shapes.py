"""Drawn shapes with known attributes: ground truth for conditional and compositional sampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.linalg import vector_norm

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.images import Attributes, ImageSet
from ebmzoo.errors import UserError, check_seed

Label = Literal["shape", "colour", "size", "position", "background"]
LEAST = 16
"""The smallest side at which the shapes can be distinguished."""
CHUNK = 1024
"""The number of images that are drawn at once."""


def circle(p: Tensor, radius: float) -> Tensor:
    """Return the signed distance d = |p| − r to a circle of the given radius r."""
    d: Tensor = vector_norm(p, dim=-1) - radius
    return d


def star(p: Tensor, points: int, outer: float, inner: float) -> Tensor:
    """Return the signed distance to a star with tips at radius `outer`, the first on top, and notches at `inner`.

    By symmetry p is folded to an angle in [0, π/points] from a tip, where the outline is a single segment from the tip
    a to the notch a + e: d = ±|p − a − h e| with h = (p − a)·e / |e|² clamped to [0, 1]. With
    `inner` = `outer` cos(π/points) it is a regular polygon.
    """
    sector = 2 * math.pi / points
    angle = torch.atan2(p[..., 0], -p[..., 1])
    angle = (angle - sector * torch.round(angle / sector)).abs()
    r = vector_norm(p, dim=-1)
    x, y = r * angle.cos() - outer, r * angle.sin()
    ex, ey = inner * math.cos(sector / 2) - outer, inner * math.sin(sector / 2)
    h = ((x * ex + y * ey) / (ex**2 + ey**2)).clamp(0, 1)
    side = torch.where(ex * y - ey * x > 0, -1.0, 1.0)
    return side * torch.hypot(x - h * ex, y - h * ey)


def cross(p: Tensor, length: float, width: float) -> Tensor:
    """Return the signed distance to two crossed bars of half-length `length` and half-width `width`."""
    q = p.abs()

    def bar(half: Sequence[float]) -> Tensor:
        over = q - q.new_tensor(half)
        d: Tensor = vector_norm(over.clamp(min=0), dim=-1) + over.amax(-1).clamp(max=0)
        return d

    return torch.minimum(bar((length, width)), bar((width, length)))


def square(p: Tensor, half: float) -> Tensor:
    """Return the signed distance to an upright square of side 2 `half`."""
    return cross(p, half, half)


SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "circle": partial(circle, radius=0.95),
    "square": partial(square, half=0.85),
    "triangle": partial(star, points=3, outer=1.2, inner=0.6),
    "star": partial(star, points=5, outer=1.2, inner=0.5),
    "cross": partial(cross, length=1.05, width=0.35),
}
"""Signed distances of points `(..., 2)` from outlines of radius about 1, negative inside; x is right, y is down."""
HUES = {"red": 0.0, "yellow": 55.0, "green": 120.0, "cyan": 180.0, "blue": 235.0, "magenta": 300.0}
RADII = {"small": 0.125, "large": 0.19}
CENTRES = {
    "top_left": (0.27, 0.27),
    "top_right": (0.73, 0.27),
    "bottom_left": (0.27, 0.73),
    "bottom_right": (0.73, 0.73),
}
GREYS = {"dark": 0.12, "light": 0.85}
SATURATION, BRIGHTNESS = 0.85, 0.95
JITTER = (0.03, 0.03, 0.06, 8.0, 0.03)
"""Half-widths of the uniform jitter of x, y, the radius (relative), the hue (in degrees) and the grey."""
NAMES: tuple[Label, ...] = ("shape", "colour", "size", "position", "background")
VALUES = tuple(tuple(named) for named in (SHAPES, HUES, RADII, CENTRES, GREYS))
COMBINATIONS = Attributes(NAMES, VALUES, torch.cartesian_prod(*(torch.arange(len(named)) for named in VALUES)))
"""Every combination of values once: a table of `(480, 5)`."""


def rgb(hue: Tensor) -> Tensor:
    """Return c = v (1 − s max(0, min(k, 4 − k, 1))), k = (m + hue/60) mod 6, m = 5, 3, 1: from HSV to RGB, `(N, 3)`.

    Args:
        hue: Hues in degrees, `(N,)`.
    """
    k = (hue.new_tensor([5.0, 3.0, 1.0]) + hue[:, None] / 60) % 6
    return BRIGHTNESS * (1 - SATURATION * torch.minimum(k, 4 - k).clamp(0, 1))


def render(table: Tensor, size: int, seed: int | None = None) -> Tensor:
    """Return images x = g + c (f − g), c = clamp(½ − d·size, 0, 1): colour f on grey g with an edge one pixel wide.

    d is the signed distance of a pixel's centre from the outline, as a fraction of the image's side. Within its class
    each image has its own position (± 0.03 of the side on both axes), radius (± 6 %), hue (± 8°) and grey (± 0.03).
    They are uniform and do not depend on `size`: a seed shows the same scenes at any size.

    Args:
        table: The indices of shape, colour, size, position and background, `(N, 5)` int64.
        size: Side of the images in pixels.
        seed: Seed of the jitter; None for the centre of each class.

    Returns:
        Images `(N, 3, size, size)` uint8.

    Raises:
        UserError: If `size` is too small, or the table does not fit.
    """
    if size < LEAST:
        raise UserError(f"size: {size} must be {LEAST} or more, so that the shapes can be distinguished")
    kind, colour, extent, position, background = Attributes(NAMES, VALUES, table).table.unbind(1)
    u = torch.zeros(len(table), 5)
    if seed is not None:
        u = torch.rand(len(table), 5, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    u = u * u.new_tensor(JITTER)
    centre = torch.tensor(list(CENTRES.values()))[position] + u[:, :2]
    radius = torch.tensor(list(RADII.values()))[extent] * (1 + u[:, 2])
    f = rgb(torch.tensor(list(HUES.values()))[colour] + u[:, 3])[:, :, None, None]
    g = (torch.tensor(list(GREYS.values()))[background] + u[:, 4])[:, None, None, None]
    ticks = (torch.arange(size) + 0.5) / size
    pixels = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), dim=-1)
    images = torch.empty(len(table), 3, size, size, dtype=torch.uint8)
    for index, distance in enumerate(SHAPES.values()):
        for i in torch.split((kind == index).nonzero()[:, 0], CHUNK):
            r = radius[i, None, None]
            d = r * distance((pixels - centre[i, None, None]) / r[..., None])
            c = (0.5 - d * size).clamp(0, 1)[:, None]
            images[i] = ((g[i] + c * (f[i] - g[i])) * 255).round().to(torch.uint8)
    return images


def balanced(combinations: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Return `n` rows of `combinations` in random rounds of all rows, so that their counts differ by one at most."""
    rounds = math.ceil(n / len(combinations))
    order = torch.cat([torch.randperm(len(combinations), generator=generator) for _ in range(rounds)])
    return combinations[order[:n]]


class Shapes(ImageData):
    """One antialiased shape on a plain background: 5 shapes × 6 colours × 2 sizes × 4 positions × 2 backgrounds.

    In each set the counts of any two combinations differ by one at most, and images vary by the jitter of `render`.
    `train_set.attributes` and `test_set.attributes` have all five values of each image. With `flip` half of a batch is
    mirrored, which makes the position wrong.

    Args:
        size: Side of the images in pixels, 16 or more; the scenes do not depend on it.
        n_train: The number of training images.
        n_test: The number of test images.
        held_out: Combinations that no training image has, as in `[{shape: star, colour: red}, {shape: cross}]`: an
            image is held out if it has all values of one of them. The test set contains them; see `held_out_mask`.
        label: The attribute that is the label.
        picture_seed: Seed of the images. It differs from `seed`, so that runs with different seeds share one data set.
        **common: Arguments of `ImageData`.

    Raises:
        UserError: If a number is out of its range, there is no such attribute or value, nothing is left to train on,
            or `flip` would make the label wrong.
    """

    name, channels = "shapes", 3
    n_train: int

    def __init__(
        self,
        size: int = 32,
        n_train: int = 10_000,
        n_test: int = 2_000,
        held_out: list[dict[str, str]] | None = None,
        label: Label = "shape",
        picture_seed: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        least = {
            "size": (size, LEAST),
            "n_train": (n_train, 1),
            "n_test": (n_test, 1),
        }
        for key, (number, needed) in least.items():
            if number < needed:
                raise UserError(f"{key}: {number} must be {needed} or more")
        check_seed(picture_seed=picture_seed)
        if label not in NAMES:
            raise UserError(f"label: {label!r} is not an attribute; it must be one of {', '.join(NAMES)}")
        if self.flip and label == "position":
            raise UserError("flip: true makes the label position wrong; it must be false")
        self.size = size
        self.n_train = n_train
        self.n_test = n_test
        self.picture_seed = picture_seed
        self.held_out = tuple(held_out or ())
        self.label = label
        if self._held_out(COMBINATIONS).all():
            raise UserError("held_out: every combination is held out, so that none is left to train on: hold out fewer")

    @property
    def held_out_mask(self) -> Tensor:
        """A mask of the images of `test_set` that have a held-out combination, `(n_test,)` bool."""
        assert self.test_set.attributes is not None
        return self._held_out(self.test_set.attributes)

    def load(self) -> tuple[ImageSet, ImageSet]:
        """Draw the training and the test images."""
        allowed = COMBINATIONS.table[~self._held_out(COMBINATIONS)]
        return self._drawn(allowed, self.n_train, 0), self._drawn(COMBINATIONS.table, self.n_test, 1)

    def _held_out(self, attributes: Attributes) -> Tensor:
        def matches(rule: Mapping[str, str]) -> Tensor:
            try:
                return attributes.where(rule)
            except UserError as error:
                raise UserError(f"held_out: {error}") from error

        nothing = torch.zeros(len(attributes), dtype=torch.bool)
        return torch.stack([nothing, *map(matches, self.held_out)]).any(0)

    def _drawn(self, combinations: Tensor, n: int, part: int) -> ImageSet:
        generator = torch.Generator().manual_seed(2 * self.picture_seed + part)
        jitter = int(torch.randint(2**62, (), generator=generator))
        attributes = Attributes(NAMES, VALUES, balanced(combinations, n, generator))
        images = render(attributes.table, self.size, jitter)
        classes = VALUES[NAMES.index(self.label)]
        return ImageSet(images, attributes.column(self.label).contiguous(), classes, self.name, attributes)
