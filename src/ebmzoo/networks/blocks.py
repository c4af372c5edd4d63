"""The residual blocks of the SNGAN networks of Dual-MCMC teaching (Cui & Han, 2023)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ebmzoo.networks.resampling import pooled


def conv(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, *, bias: bool = True) -> nn.Conv2d:
    """Return a convolution with Xavier-normal weights; stride 1 with an odd kernel keeps the size, 2 halves it."""
    layer = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=(kernel - 1) // 2, bias=bias)
    nn.init.xavier_normal_(layer.weight)
    return layer


class StartBlock(nn.Module):
    """The first block y = pool(W₂ relu(W₁ x)) + S pool(x), with no activation on the image; halves the size."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, out_channels, bias=bias)
        self.conv2 = conv(out_channels, out_channels, bias=bias)
        self.shortcut = conv(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return pooled(self.conv2, F.relu(self.conv1(x))) + pooled(self.shortcut, x)


class DownBlock(nn.Module):
    """A block y = pool(W₂ relu(W₁ relu(x)) + S x), pooled if `down`; S = 1 if neither size nor channels change."""

    def __init__(self, in_channels: int, out_channels: int, *, down: bool, bias: bool) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, out_channels, bias=bias)
        self.conv2 = conv(out_channels, out_channels, bias=bias)
        changes = down or in_channels != out_channels
        self.shortcut = conv(in_channels, out_channels, 1, bias=bias) if changes else nn.Identity()
        self.down = down

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv1(F.relu(x)))
        if self.down:
            return pooled(self.conv2, h) + pooled(self.shortcut, x)
        return self.conv2(h) + self.shortcut(x)  # type: ignore[no-any-return]


class UpBlock(nn.Module):
    """A block y = W₂ relu(bn(W₁ up(relu(bn(x))))) + up(S x), with bilinear `up`; doubles the size."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv(in_channels, out_channels)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv(out_channels, out_channels)
        self.shortcut = conv(in_channels, out_channels, 1)
        self.up = nn.UpsamplingBilinear2d(scale_factor=2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(self.up(F.relu(self.norm1(x))))
        h = self.conv2(F.relu(self.norm2(h)))
        # A 1×1 convolution commutes with interpolation, and costs a quarter before it.
        return h + self.up(self.shortcut(x))  # type: ignore[no-any-return]
