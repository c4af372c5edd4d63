"""The crop and the colour changes of kornia 0.6.3, which CLEL's code augments with, on images in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from ebmzoo.ssrl.colours import BRIGHTNESS, CONTRAST, SATURATION, turn_hue
from ebmzoo.ssrl.crops import cubic, resized


def resampling(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Return the matrices `(B, size, size)` that resample start … start+length−1 to `size` pixels.

    Pixel i is at start + i (length − 1)/(size − 1), so that corners fall on corners; the cubic kernel has a = −3/4,
    which is torch's; there is no antialiasing, and beyond the crop its border is repeated.
    """
    start, length = start.view(-1, 1).float(), length.view(-1, 1).float()
    place = torch.arange(size, device=start.device) * (length - 1) / max(size - 1, 1)
    whole = place.floor()
    matrix = torch.zeros(len(start), size, size, device=start.device)
    for tap in range(-1, 3):
        pixel = (whole + tap).minimum(length - 1).clamp_min(0) + start
        matrix.scatter_add_(2, pixel.long()[:, :, None], cubic(place - whole - tap, a=-0.75)[:, :, None])
    return matrix


def resized_crop(images: Tensor, boxes: Tensor) -> Tensor:
    """Return a box of each image, resized by bicubic interpolation; arguments as of `crops.resized`."""
    return resized(images, boxes, resampling)


def crop_boxes(
    n: int,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    *,
    device: torch.device | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Return `n` random boxes `(n, 4)` with the distribution of kornia's `RandomResizedCrop`.

    The box is the first of ten tries that is smaller than the image on both sides; if none is, the largest one with the
    least aspect, anywhere.
    """
    u = torch.rand(2, n, 10, device=device, generator=generator)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * u[0])
    aspect = ratio[0] * (ratio[1] / ratio[0]) ** u[1]
    h, w = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (h >= 1) & (h < height) & (w >= 1) & (w < width)
    first = fits.int().argmax(1, keepdim=True)
    if height / width < ratio[0]:
        h0, w0 = height, round(height / ratio[0])
    elif height / width > ratio[0]:
        h0, w0 = round(width * ratio[0]), width
    else:
        h0, w0 = height, width
    found = fits.any(1)
    h = torch.where(found, h.gather(1, first)[:, 0], float(h0))
    w = torch.where(found, w.gather(1, first)[:, 0], float(w0))
    place = torch.rand(2, n, device=device, generator=generator)
    top = (place[0] * (height - h + 1)).floor().minimum(height - h)
    left = (place[1] * (width - w + 1)).floor().minimum(width - w)
    return torch.stack([top, left, h, w], 1)


def change(x: Tensor, kind: int, factor: Tensor) -> Tensor:
    """Return images with one colour changed, `factor` `(B,)`.

    Brightness adds `factor` − 1 and contrast multiplies by `factor`, each clipped to [0, 1]; saturation (HSV) is
    multiplied and clipped; the hue is turned by `factor` of the colour circle, with no clipping.
    """
    f = factor.view(-1, 1, 1, 1)
    if kind == BRIGHTNESS:
        return (x + f - 1).clamp(0, 1)
    if kind == CONTRAST:
        return (x * f).clamp(0, 1)
    if x.shape[1] == 1:
        return x
    if kind == SATURATION:
        value, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
        chroma = value - low
        saturation = chroma / torch.where(value == 0, 1.0, value)
        return value - value * (f * saturation).clamp(0, 1) * (value - x) / torch.where(chroma > 0, chroma, 1.0)
    return turn_hue(x, factor)


def colour_jitter(x: Tensor, factors: Tensor, order: Sequence[int]) -> Tensor:
    """Return images with brightness, contrast, saturation and hue changed, in one order for the whole batch.

    `factors` is `(B, 4)` and `order` a permutation of 0 … 3.
    """
    for kind in order:
        x = change(x, kind, factors[:, kind])
    return x
