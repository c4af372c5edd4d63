"""A 3×3 convolution and a change of the resolution by two in one convolution, with 4/9 of the arithmetic."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def pooled(layer: nn.Module, x: Tensor) -> Tensor:
    """Return `avg_pool2d(layer(x), 2)`, up to rounding, for a convolution that keeps the size or an identity.

    The mean of four neighbours of W x is one convolution with stride 2, whose 4×4 kernel is the mean of the four shifts
    of W: 16 products for each output instead of 36. A 1×1 convolution, or the identity, is applied after the mean.
    Shapes: `x` is `(B, C, H, W)`, H and W at least 2; the result `(B, out_channels, H // 2, W // 2)`.

    >>> import torch
    >>> x, layer = torch.randn(5, 2, 8, 8), nn.Conv2d(2, 3, 3, padding=1)
    >>> torch.allclose(pooled(layer, x), F.avg_pool2d(layer(x), 2), atol=1e-6)
    True
    """
    if not isinstance(layer, nn.Conv2d) or layer.kernel_size == (1, 1):
        return layer(F.avg_pool2d(x, 2))  # type: ignore[no-any-return]
    if layer.kernel_size != (3, 3) or layer.dilation != (1, 1):
        return F.avg_pool2d(layer(x), 2)
    return F.conv2d(x, _mean_of_shifts(layer.weight), layer.bias, stride=2, padding=1)


def upsampled(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Return `layer(interpolate(x, scale_factor=2))`, up to rounding, for a 3×3 convolution that keeps the size.

    Each output sees 2×2 pixels of x, several times each: a transposed convolution with stride 2, whose 4×4 kernel is
    the sum of the four shifts of W reversed.
    Shapes: `x` is `(B, C, H, W)`; the result `(B, out_channels, 2 H, 2 W)`.

    >>> import torch
    >>> x, layer = torch.randn(5, 2, 4, 4), nn.Conv2d(2, 3, 3, padding=1)
    >>> torch.allclose(upsampled(layer, x), layer(F.interpolate(x, scale_factor=2)), atol=1e-6)
    True
    """
    kernel = 4 * _mean_of_shifts(layer.weight.flip(2, 3))
    return F.conv_transpose2d(x, kernel.transpose(0, 1), layer.bias, stride=2, padding=1)


class ResamplingConv(nn.Module):
    """A convolution that changes the resolution, where time has no part in it; it `doubles` it after upsampling."""

    def __init__(self, conv: nn.Module, *, doubles: bool = False) -> None:
        super().__init__()
        self.conv = conv
        self.doubles = doubles

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        if self.doubles:
            return upsampled(self.conv[1], x)  # type: ignore[index]
        return self.conv(x)  # type: ignore[no-any-return]


def _mean_of_shifts(weight: Tensor) -> Tensor:
    """The mean of the four places that 3×3 kernels have in 4×4 ones."""
    return F.avg_pool2d(F.pad(weight, (1, 1, 1, 1)), 2, stride=1)
