"""Changes of colours as torchvision makes them, for a whole batch with separate parameters for each image."""

from __future__ import annotations

import torch
from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def grayscale(x: Tensor) -> Tensor:
    """Return the luma (ITU-R BT.601) of RGB `(B, 3, H, W)` as `(B, 1, H, W)`; one channel is returned unchanged."""
    return x if x.shape[1] == 1 else 0.2989 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]


def blend(x: Tensor, kind: Tensor, factor: Tensor) -> Tensor:
    """Return f x + (1 − f) r, clipped to [0, 1], with `factor` f and `kind` each `(B,)`.

    r is black for brightness, the image's mean grey for contrast, and the pixel's grey for saturation; for any other
    kind f must be 1, which is the identity.
    """
    kind, factor = kind.view(-1, 1, 1, 1), factor.view(-1, 1, 1, 1)
    grey = grayscale(x)
    reference = grey * (kind == SATURATION) + grey.mean((2, 3), keepdim=True) * (kind == CONTRAST)
    return (factor * x + (1 - factor) * reference).clamp(0, 1)


def turn_hue(x: Tensor, turn: Tensor) -> Tensor:
    """Return RGB with its hue turned by `turn`, `(B,)`, of the colour circle; saturation and value (HSV) stay equal."""
    value, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    chroma = value - low
    r, g, b = x[:, :1], x[:, 1:2], x[:, 2:]
    red, green = value == r, value == g
    difference = torch.where(red, g - b, torch.where(green, b - r, r - g))
    sector = torch.where(red, 0.0, torch.where(green, 2.0, 4.0))
    hue = sector + difference / torch.where(chroma > 0, chroma, 1.0) + 6 * turn.view(-1, 1, 1, 1)
    # R, G, B are V − C·clamp(2 − |d|, 0, 1), d being the hue's distance from 3, 5, 7, their opposites, modulo 6.
    d = hue - (3 + 2 * torch.arange(3, device=x.device)).view(3, 1, 1)
    d = d - 6 * (d / 6).round()
    return value - chroma * (2 - d.abs()).clamp(0, 1)


def colour_jitter(x: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Return images in [0, 1] with changed brightness, contrast, saturation and hue, in an order drawn for each image.

    `factors` and `order`, a permutation of 0 … 3 in each row, are `(B, 4)`. Images with one channel have no saturation
    and hue to change.
    """
    place = (order == HUE).int().argmax(1)

    def blends(x: Tensor, slots: range, active: Tensor) -> Tensor:
        for k in slots:
            factor = factors.gather(1, order[:, k : k + 1]).squeeze(1)
            x = blend(x, order[:, k], torch.where(active[:, k], factor, 1.0))
        return x

    # Three slots before the hue and three after it, so that the hue, the most expensive, is computed only once.
    slots = torch.arange(4, device=x.device)
    x = blends(x, range(3), slots < place[:, None])
    if x.shape[1] == 3:
        x = turn_hue(x, factors[:, HUE])
    return blends(x, range(1, 4), slots > place[:, None])
