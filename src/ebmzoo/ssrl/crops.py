"""Crops of a batch of images, each with a box of its own, resized by separable interpolation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def cubic(t: Tensor, a: float) -> Tensor:
    """Return the cubic kernel of Keys (1981, Eq. 15) with the slope a at |t| = 1, which is zero for |t| ≥ 2."""
    t = t.abs()
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return torch.where(t < 1, near, torch.where(t < 2, far, torch.zeros_like(t)))


def resized(images: Tensor, boxes: Tensor, resampling: Callable[[Tensor, Tensor, int], Tensor]) -> Tensor:
    """Return a box of each image, resized to the image's size; values may overshoot their range.

    Args:
        images: Images `(B, C, H, W)`.
        boxes: Top, left, height and width in whole pixels inside the image, `(B, 4)`.
        resampling: The matrices `(B, size, size)` of a start, a length and a size, for rows and for columns.
    """
    top, left, height, width = boxes.unbind(1)
    rows = resampling(top, height, images.shape[2])
    columns = resampling(left, width, images.shape[3])
    return torch.einsum("bij,bcjk,blk->bcil", rows, images, columns)
