"""Animations as GIF files: pictures one after another, each with a caption."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ebmzoo.report.plots import figure, window
from ebmzoo.writing import write_whole

CAPTION = 16
"""The height of a caption, in pixels."""
COLOURS = 128
"""Of an animation: one palette for all frames and no dithering, so that what stands still takes no space."""


def captioned(picture: Tensor, caption: str) -> Image.Image:
    """A uint8 picture `(3, H, W)` below its caption."""
    height, width = picture.shape[1:]
    made = Image.new("RGB", (width, height + CAPTION), "white")
    made.paste(Image.fromarray(picture.permute(1, 2, 0).numpy()), (0, CAPTION))
    ImageDraw.Draw(made).text((3, 2), caption, fill="black")
    return made


def save_gif(frames: Sequence[Image.Image], path: Path, fps: float, hold: float = 1.5) -> None:
    """Save frames as an endless GIF file of `fps` frames a second, whose last frame stays for `hold` seconds more."""
    times = [round(1000 / fps)] * len(frames)
    times[-1] += round(1000 * hold)
    first, *others = _of_one_palette(frames)
    settings: dict[str, Any] = {"append_images": others, "duration": times, "loop": 0, "save_all": True}
    write_whole(path, lambda file: first.save(file, "GIF", **settings), flush=False)


def _of_one_palette(frames: Sequence[Image.Image]) -> list[Image.Image]:
    width, height = frames[0].size
    every = Image.new("RGB", (width, height * len(frames)))
    for k, frame in enumerate(frames):
        every.paste(frame, (0, k * height))
    palette = every.quantize(COLOURS, method=Image.Quantize.MEDIANCUT)
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


def plane_picture(
    points: Tensor, fitted: Tensor | None, exact: Tensor, half_width: float, names: Sequence[str]
) -> Tensor:
    """Points of chains on the model's density, beside the exact one: one uint8 picture `(3, H, W)`.

    Args:
        points: The chains' states, `(n, 2)`.
        fitted: The model's mass in each cell, `(K, K)`, x first; None for a level without an energy.
        exact: That of the data.
        half_width: Of the square that the cells divide.
        names: The titles of both panels.

    Raises:
        UserError: matplotlib is not installed.
    """
    drawn = figure(6.4, 3.4, dpi=80)
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    most, w = float(exact.max()), half_width
    for axes, title, mass in zip(drawn.subplots(1, 2), names, (fitted, exact), strict=True):
        window(axes, w).set_title(title, fontsize=9)
        if mass is not None:
            axes.imshow(mass.T.numpy() / most, origin="lower", extent=(-w, w, -w, w), vmin=0, vmax=1.2, cmap="Blues")
        axes.set(xlabel="", ylabel="")
    drawn.axes[0].scatter(*points.clamp(-w, w).numpy().T, s=4, c="crimson", linewidths=0)
    canvas: Any = FigureCanvasAgg(drawn)
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba()))[..., :3].permute(2, 0, 1).contiguous()
