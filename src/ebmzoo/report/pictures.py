"""Pictures of images in a grid, with or without labels, and of points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.utils import make_grid

from ebmzoo.data.images import to_uint8
from ebmzoo.errors import UserError
from ebmzoo.report.plots import figure, save, window
from ebmzoo.writing import write_whole

DPI = 64
"""Pixels per inch of a labelled grid: a power of two, with which its size in pixels is exact."""
LEAST = 32
"""The least width of an image in a grid, in pixels."""


def grid(images: Tensor, columns: int | None = None, least: int = LEAST) -> Tensor:
    """Arrange images `(n, C, H, W)` in [-1, 1] as one uint8 picture `(3, H, W)`, each at least `least` pixels wide.

    W&B and PNG files get uint8: a float picture in [0, 1] comes out black in W&B.
    """
    x = to_uint8(images.detach().cpu())
    factor = max(1, math.ceil(least / x.shape[-1]))
    if factor > 1:
        x = interpolate(x, scale_factor=factor, mode="nearest")
    columns = columns or math.ceil(math.sqrt(len(x)))
    picture: Tensor = make_grid(x, nrow=columns, padding=2, pad_value=255)
    return picture


def save_png(picture: Tensor, path: Path) -> None:
    """Save a uint8 picture `(3, H, W)` as a PNG file, whole or not at all, creating the folder if necessary."""
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    write_whole(path, lambda file: image.save(file, "PNG"), flush=False)


def save_grid(images: Tensor, path: Path, columns: int | None = None) -> None:
    """Save images `(n, C, H, W)` in [-1, 1] as one PNG file."""
    save_png(grid(images, columns), path)


def save_strips(strips: Tensor, path: Path, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Save images `(R, C, channels, H, W)` in [-1, 1] with a label for each of the R rows and C columns as a PNG file.

    SVG and PDF files beside it keep the labels as text. Without matplotlib there is only the PNG file, unlabelled.
    """
    picture = grid(strips.flatten(0, 1), len(columns), least=64)
    try:
        drawn = _labelled(picture, rows, columns)
    except UserError:
        save_png(picture, path)
    else:
        save(drawn, path)


def numbered(what: str, n: int) -> list[str]:
    """The labels `<what> 1` to `<what> n`."""
    return [f"{what} {i + 1}" for i in range(n)]


def _labelled(picture: Tensor, rows: Sequence[str], columns: Sequence[str]) -> Any:
    """A figure of a grid, pixel for pixel, in its lower right corner, with its labels to the left and above.

    The labels of columns are upright if one is wider than its column.
    """
    height, width = picture.shape[1:]
    drawn = figure(1, 1, DPI, layout=None)
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    size = max(13.0, width / 50)  # of the font, in pixels
    font = FontProperties(size=size * 72 / DPI)

    def widest(labels: Sequence[str]) -> float:
        widths = (text_to_path.get_text_width_height_descent(label, font, False)[0] for label in labels)
        return max(widths, default=0.0) * DPI / 72

    gap, pitch_x, pitch_y = size / 2, (width - 2) / len(columns), (height - 2) / len(rows)
    upright = widest(columns) > pitch_x - gap
    left, top = math.ceil(widest(rows) + 2 * gap), math.ceil((widest(columns) if upright else size) + 2 * gap)
    whole_x, whole_y = left + width, top + height
    drawn.set_size_inches(whole_x / DPI, whole_y / DPI)
    axes = drawn.add_axes((left / whole_x, 0, width / whole_x, height / whole_y))
    axes.imshow(picture.permute(1, 2, 0).numpy(), interpolation="none", aspect="auto")
    axes.axis("off")
    text = {"fontproperties": font, "parse_math": False}
    for i, label in enumerate(rows):
        y = 1 - (top + 1 + (i + 0.5) * pitch_y) / whole_y
        drawn.text((left - gap) / whole_x, y, label, ha="right", va="center_baseline", **text)
    for j, label in enumerate(columns):
        x, y = (left + 1 + (j + 0.5) * pitch_x) / whole_x, 1 - (top - gap) / whole_y
        drawn.text(x, y, label, ha="center", va="bottom" if upright else "baseline", rotation=90 * upright, **text)
    return drawn


def scatter(points: Tensor, half_width: float) -> Tensor:
    """Draw points `(n, 2)` as one uint8 picture `(3, H, W)` of the square of that half-width around 0.

    Raises:
        UserError: matplotlib is not installed.
    """
    drawn = figure(4, 4, dpi=100)
    window(drawn.subplots(), half_width).scatter(*points.detach().cpu().float().numpy().T, s=1, c="black")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(drawn)
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba()))[..., :3].permute(2, 0, 1).contiguous()
