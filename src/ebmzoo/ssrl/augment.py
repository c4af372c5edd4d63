"""The random views of SimCLR, computed for a whole batch on its device, with separate parameters for each image."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor, nn

from ebmzoo.errors import UserError
from ebmzoo.ssrl import kornia_augment
from ebmzoo.ssrl.colours import HUE, colour_jitter, grayscale
from ebmzoo.ssrl.crops import cubic, resized


def resampling(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Return the matrices `(B, size, size)` that resample start … start+length−1 to `size` pixels, antialiased bicubic.

    Row i is k((j + ½ − start − s(i + ½)) / max(s, 1)) for the pixels j of the crop, s = length/size, over its sum; k is
    the cubic kernel with a = −1/2.
    """
    start, length = start.view(-1, 1, 1).float(), length.view(-1, 1, 1).float()
    pixels = torch.arange(size, device=start.device) + 0.5
    scale = length / size
    source = pixels - start
    weights = cubic((source - scale * pixels[:, None]) / scale.clamp(min=1), a=-0.5)
    weights = weights * ((source > 0) & (source < length))
    return weights / weights.sum(-1, keepdim=True)


def resized_crop(images: Tensor, boxes: Tensor) -> Tensor:
    """Return a box of each image, resized by antialiased bicubic interpolation; arguments as of `crops.resized`."""
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
    """Return `n` random boxes `(n, 4)` with the distribution of torchvision's `RandomResizedCrop`.

    The box is the first of ten tries, with area U(scale) and log-aspect U(log ratio), that fits into the image; if none
    does, it is the largest central box with an aspect in `ratio`.
    """
    u = torch.rand(4, n, 10, device=device, generator=generator)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * u[0])
    aspect = ratio[0] * (ratio[1] / ratio[0]) ** u[1]
    h, w = (area / aspect).sqrt().round(), (area * aspect).sqrt().round()
    fits = (h >= 1) & (h <= height) & (w >= 1) & (w <= width)
    top = (u[2] * (height - h + 1)).floor().minimum(height - h)
    left = (u[3] * (width - w + 1)).floor().minimum(width - w)
    tries = torch.stack([top, left, h, w], -1)
    first = fits.int().argmax(1)
    drawn = tries[torch.arange(n, device=device), first]
    h0, w0 = min(height, round(width / ratio[0])), min(width, round(height * ratio[1]))
    central = [torch.full((n,), float(side), device=device) for side in ((height - h0) // 2, (width - w0) // 2, h0, w0)]
    return torch.where(fits.any(1, keepdim=True), drawn, torch.stack(central, 1))


class Augment(nn.Module):
    """Random colour jitter, greyscale, resized crop and flip of each image, `(B, C, H, W)` in [-1, 1].

    Every parameter, including the order of the four colour changes, is drawn separately for each image, as by a data
    loader that transforms one image at a time. Everything runs on the device of the images in float32, also under
    autocast; values outside [-1, 1] are clipped. Only brightness and contrast of images with one channel change.
    Source: Ermolov et al. (2021), for the order of the transformations; CLEL's code for the mode `kornia-0.6`.

    >>> views = Augment()(torch.zeros(5, 3, 8, 8))
    >>> views.shape, bool(views.abs().max() <= 1)
    (torch.Size([5, 3, 8, 8]), True)

    Args:
        crop_scale: Least and greatest area of the crop, as a fraction of the image.
        crop_ratio: Least and greatest aspect of the crop, width over height.
        jitter: Strengths s of brightness, contrast, saturation: factors U(max(0, 1 − s), 1 + s); and of hue: U(−s, s).
        jitter_prob: Probability that an image's colours are jittered.
        grayscale_prob: Probability that an image becomes grey.
        flip_prob: Probability that an image is mirrored left to right.
        mode: `torchvision` changes colours as torchvision does, or `kornia-0.6` as kornia 0.6.3: the crop comes first,
            without antialiasing; brightness is added and contrast scales from black; one order of the four changes is
            drawn for a batch; only a jittered image is clipped.

    Raises:
        UserError: If a range is empty, the mode is unknown or a probability is outside [0, 1]; if images have neither
            one channel nor three.
    """

    def __init__(
        self,
        crop_scale: tuple[float, float] = (0.2, 1.0),
        crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
        jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1),
        jitter_prob: float = 0.8,
        grayscale_prob: float = 0.1,
        flip_prob: float = 0.5,
        mode: Literal["torchvision", "kornia-0.6"] = "torchvision",
    ) -> None:
        super().__init__()
        if not 0 < crop_scale[0] <= crop_scale[1] <= 1:
            raise UserError(f"crop_scale: {list(crop_scale)} must be two fractions in (0, 1], the smaller one first")
        if not 0 < crop_ratio[0] <= crop_ratio[1]:
            raise UserError(f"crop_ratio: {list(crop_ratio)} must be two positive numbers, the smaller one first")
        if min(jitter) < 0 or jitter[HUE] > 0.5:
            raise UserError(f"jitter: {list(jitter)} must not be negative, and the hue's, the last, at most 0.5")
        probabilities = {"jitter_prob": jitter_prob, "grayscale_prob": grayscale_prob, "flip_prob": flip_prob}
        for name, probability in probabilities.items():
            if not 0 <= probability <= 1:
                raise UserError(f"{name}: {probability} must be a probability between 0 and 1")
        if mode not in ("torchvision", "kornia-0.6"):
            raise UserError(f"mode: {mode!r} must be 'torchvision' or 'kornia-0.6'")
        if mode == "kornia-0.6" and jitter[0] > 1:
            raise UserError(
                f"jitter: {list(jitter)} must have a brightness, the first, of at most 1 in mode kornia-0.6"
            )
        self.mode = mode
        self.crop_scale = crop_scale
        self.crop_ratio = crop_ratio
        self.jitter = jitter
        self.jitter_prob = jitter_prob
        self.grayscale_prob = grayscale_prob
        self.flip_prob = flip_prob

    def colour_factors(self, n: int, device: torch.device, generator: Generator | None = None) -> Tensor:
        """Return factors of brightness, contrast and saturation, and the turn of the hue, `(n, 4)`."""
        u = torch.rand(4, n, device=device, generator=generator)
        factors = [max(0.0, 1 - s) + (1 + s - max(0.0, 1 - s)) * u[i] for i, s in enumerate(self.jitter[:HUE])]
        return torch.stack([*factors, self.jitter[HUE] * (2 * u[HUE] - 1)], 1)

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        n, channels, height, width = images.shape
        coloured = channels in (1, 3)
        if not coloured and (self.jitter_prob > 0 or self.grayscale_prob > 0):
            raise UserError(
                f"Augment: images of {channels} channels have no colours to change; it must be 1 (grey) or 3 (RGB), "
                "or jitter_prob and grayscale_prob must be 0"
            )
        device = images.device

        def happens(probability: float) -> Tensor:
            return (torch.rand(n, device=device, generator=generator) < probability).view(-1, 1, 1, 1)

        if self.mode == "kornia-0.6":
            with torch.autocast(device.type, enabled=False):
                return self._as_kornia(images.float(), coloured, generator)
        with torch.autocast(device.type, enabled=False):
            x = ((images.float() + 1) / 2).clamp(0, 1)
            if coloured:
                order = torch.rand(n, 4, device=device, generator=generator).argsort(1)
                jittered = colour_jitter(x, self.colour_factors(n, device, generator), order)
                x = torch.where(happens(self.jitter_prob), jittered, x)
                x = torch.where(happens(self.grayscale_prob), grayscale(x), x)
            boxes = crop_boxes(n, height, width, self.crop_scale, self.crop_ratio, device=device, generator=generator)
            x = resized_crop(x, boxes).clamp(0, 1)
            x = torch.where(happens(self.flip_prob), x.flip(3), x)
            return 2 * x - 1

    def _as_kornia(self, images: Tensor, coloured: bool, generator: Generator | None) -> Tensor:
        n, _, height, width = images.shape
        device = images.device

        def happens(probability: float) -> Tensor:
            return (torch.rand(n, device=device, generator=generator) < probability).view(-1, 1, 1, 1)

        scale, ratio = self.crop_scale, self.crop_ratio
        boxes = kornia_augment.crop_boxes(n, height, width, scale, ratio, device=device, generator=generator)
        x = kornia_augment.resized_crop((images + 1) / 2, boxes)
        if coloured:
            factors = self.colour_factors(n, device, generator)
            # Without a generator on the CPU, so that the host does not wait for the device.
            order = torch.randperm(4, generator=generator, device=None if generator is None else device).tolist()
            jittered = kornia_augment.colour_jitter(x, factors, order)
            x = torch.where(happens(self.jitter_prob), jittered, x)
            x = torch.where(happens(self.grayscale_prob), grayscale(x), x)
        x = torch.where(happens(self.flip_prob), x.flip(3), x)
        return 2 * x - 1
