"""The canvas of `ebmzoo play`: a picture on which a person paints the mask that hides a part of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ebmzoo.commands.play.chain import Player
from ebmzoo.commands.play.controls import PAINTED
from ebmzoo.commands.play.drawings import Picture
from ebmzoo.errors import UserError


def canvas_of(player: Player, gr: Any, chosen: Sequence[Any]) -> Any:
    """A canvas that is shown while `PAINTED` is chosen, with the picture that is chosen.

    Args:
        player: The model.
        gr: The module, gradio.
        chosen: The controls of the file, of the test image's number, and of the degradation.
    """
    canvas = gr.ImageEditor(
        label="Paint what is to be hidden",
        sources=(),
        transforms=(),
        layers=False,
        brush=gr.Brush(default_size=24, colors=["#d32f2f"], color_mode="fixed"),
        buttons=[],
        visible=False,
        elem_id="canvas",
    )

    def show(file: str | None, index: Any, degradation: str) -> Any:
        if degradation != PAINTED:
            return gr.update(visible=False)
        try:
            return gr.update(visible=True, value=to_paint_on(player.picture(file, index)))
        except UserError:  # said when it is to be restored
            return gr.update(visible=False, value=None)

    changes = [control.change for control in chosen]
    gr.on(changes, show, list(chosen), canvas, api_visibility="private", show_progress="hidden")
    return canvas


def to_paint_on(picture: Tensor, width: int = 288) -> Picture:
    """A picture, uint8 `(1, C, H, W)`, some `width` pixels wide and without a margin, each of its pixels a square."""
    each = max(1, width // picture.shape[-1])
    x = picture[0].expand(3, -1, -1).permute(1, 2, 0)
    return x.repeat_interleave(each, 0).repeat_interleave(each, 1).numpy()


def painted(layers: Sequence[NDArray[np.uint8]], size: int) -> Tensor:
    """The mask `(size, size)` of layers of paint, RGBA `(H, W, 4)`: true at pixels of which half or more is painted."""
    hidden = torch.zeros(size, size, dtype=torch.bool)
    for layer in layers:
        alpha = torch.from_numpy(np.ascontiguousarray(layer[..., 3])).float()[None, None] / 255
        hidden |= adaptive_avg_pool2d(alpha, size)[0, 0] >= 0.5
    return hidden
