"""The convolutional encoder and decoder of latent diffusion models (Rombach et al., 2022), without time or classes."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import torch.nn.functional as F
from torch import Tensor, nn

from ebmzoo.networks.norms import GroupNorm
from ebmzoo.networks.resampling import upsampled


def norm(channels: int) -> nn.GroupNorm:
    """Return a group norm with LDM's 32 groups from 128 channels on, and with groups of 4 channels below."""
    return GroupNorm(gcd(32, channels // 4), channels, eps=1e-6)


class AutoEncoderResBlock(nn.Module):
    """A block y = W₂ silu(gn(W₁ silu(gn(x)))) + S x; S = 1 if the channels do not change."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + self.shortcut(x)  # type: ignore[no-any-return]


class AutoEncoderAttention(nn.Module):
    """Attention y = x + W softmax(qᵀk/√C) v, (q, k, v) = V gn(x), between all positions, in one head of C channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).mT.chunk(3, 2)
        h = F.scaled_dot_product_attention(q, k, v).mT.reshape(x.shape)
        return x + self.out(h)  # type: ignore[no-any-return]


class Halve(nn.Module):
    """A 3×3 convolution of stride 2 with zero padding at the right and the lower edge only; sizes are even."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # type: ignore[no-any-return]


class Double(nn.Sequential):
    """Nearest-neighbour upsampling by two, followed by a 3×3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.UpsamplingNearest2d(scale_factor=2), nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return upsampled(self[1], x)  # type: ignore[arg-type]


def _blocks(channels: int, out_channels: int, n: int) -> list[nn.Module]:
    return [AutoEncoderResBlock(channels if i == 0 else out_channels, out_channels) for i in range(n)]


def _middle(channels: int) -> list[nn.Module]:
    return [
        AutoEncoderResBlock(channels, channels),
        AutoEncoderAttention(channels),
        AutoEncoderResBlock(channels, channels),
    ]


def _end(channels: int, out_channels: int) -> list[nn.Module]:
    return [norm(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)]


def encoder(in_channels: int, width: int, multiples: Sequence[int], depth: int, out_channels: int) -> nn.Sequential:
    """Return the encoder `(B, in_channels, H, W)` to `(B, out_channels, H/f, W/f)`, f = 2^(number of multiples − 1).

    There is one level for each multiple, of `depth` residual blocks with width·multiple channels; each level but the
    last halves the size.
    """
    layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, padding=1)]
    channels = width
    for i, multiple in enumerate(multiples):
        layers += [Halve(channels)] if i else []
        layers += _blocks(channels, width * multiple, depth)
        channels = width * multiple
    return nn.Sequential(*layers, *_middle(channels), *_end(channels, out_channels))


def decoder(out_channels: int, width: int, multiples: Sequence[int], depth: int, in_channels: int) -> nn.Sequential:
    """Return the decoder `(B, in_channels, h, w)` to `(B, out_channels, f h, f w)`: one block more in each level."""
    channels = width * multiples[-1]
    layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 3, padding=1), *_middle(channels)]
    for i, multiple in enumerate(reversed(multiples)):
        layers += [Double(channels)] if i else []
        layers += _blocks(channels, width * multiple, depth + 1)
        channels = width * multiple
    return nn.Sequential(*layers, *_end(channels, out_channels))
