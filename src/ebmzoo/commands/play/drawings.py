"""Pictures and tables of chains, for the page of `ebmzoo play`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebmzoo.commands.play.outcomes import Moment, PictureScore, Walk
from ebmzoo.data.images import to_float
from ebmzoo.report.animation import captioned, save_gif
from ebmzoo.report.pictures import grid

Picture = NDArray[np.uint8]
"""`(H, W, 3)`, as gradio shows it."""

FPS = 10.0
BINS = 24
"""Columns of a histogram."""


def shown(number: Tensor | float) -> str:
    """A number in four digits, or all of those before the point.

    >>> shown(12345.6), shown(0.0123456)
    ('12,346', '0.01235')
    """
    value = float(number)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def enlarged(images: Tensor, width: int = 288) -> Picture:
    """Images, uint8 `(n, C, H, W)` or in [-1, 1], in a square grid some `width` pixels wide."""
    x = to_float(images) if images.dtype == torch.uint8 else images
    columns = int(np.ceil(np.sqrt(len(x))))
    return grid(x, columns, least=max(x.shape[-1], width // columns)).permute(1, 2, 0).numpy()


def frame(moment: Moment, number: int) -> Picture:
    """A state of the chains below its number, its caption and its mean energy."""
    text = f"{number}: {moment.caption}, mean energy {shown(moment.energies.mean())}"
    picture = torch.from_numpy(enlarged(moment.images)).permute(2, 0, 1)
    return np.array(captioned(picture, text))


def save_animation(frames: Sequence[Picture], path: Path) -> None:
    """The frames as a GIF file without an end."""
    from PIL import Image

    save_gif([Image.fromarray(each) for each in frames], path, FPS)


def energy_rows(walk: Walk) -> list[dict[str, Any]]:
    """For each state of the chains the mean, the lowest and the highest energy, as rows of a table."""
    rows = []
    for number, moment in enumerate(walk.moments):
        values = {"highest": moment.energies.max(), "mean": moment.energies.mean(), "lowest": moment.energies.min()}
        rows += [{"state": number, "energy": float(value), "of the chains": name} for name, value in values.items()]
    return rows


def histogram_rows(found: PictureScore) -> list[dict[str, Any]]:
    """How many test images have which energy, and the picture's column, as rows; none without test images."""
    if found.of_test is None:
        return []
    energies = found.of_test[0].double()
    low, high = min(float(energies.min()), found.energy), max(float(energies.max()), found.energy)
    width = (high - low) / BINS or 1.0

    def column(energy: float) -> int:
        return min(BINS - 1, int((energy - low) / width))

    counts, own = [0] * BINS, column(found.energy)
    for energy in energies.tolist():
        counts[column(energy)] += 1
    most = max(counts)
    rows: list[dict[str, Any]] = [
        {"energy": low + (k + 0.5) * width, "images": count, "of": "test images"} for k, count in enumerate(counts)
    ]
    return [*rows, {"energy": low + (own + 0.5) * width, "images": max(1, most // 4), "of": "your picture"}]
