"""The residual energies of implicit generation (Du & Mordatch, 2019)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebmzoo.energy import EnergyNet, at_least_fp32
from ebmzoo.errors import at_least
from ebmzoo.networks.blocks import conv
from ebmzoo.networks.resampling import pooled
from ebmzoo.networks.spectral import SpectralNorm, spectral_norm_

# For each depth the blocks: (factor of the width, whether the block halves the size).
_BLOCKS: dict[str, list[tuple[int, bool]]] = {
    "small": [(1, True), (1, False), (2, True), (2, False), (2, True), (2, False)],
    "large": [
        *[(1, True), (1, False), (1, False)],
        *[(2, True), (2, False), (2, False)],
        *[(4, True), (4, False), (4, False)],
    ],
}


class PostActivationBlock(nn.Module):
    """A block y = lrelu(pool(g ⊙ W₂ lrelu(drop(W₁ x)) + S x)), pooled if `down`; S = 1 if the channels do not change.

    The activation follows the sum, S is a 3×3 convolution, and g, one number per channel, is initially 1.
    """

    def __init__(self, in_channels: int, out_channels: int, *, down: bool, dropout: float) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, out_channels)
        self.conv2 = conv(out_channels, out_channels)
        self.gain = nn.Parameter(torch.ones(out_channels, 1, 1))
        self.shortcut = conv(in_channels, out_channels) if in_channels != out_channels else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.down = down

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.dropout(self.conv1(x)), 0.2)
        if self.down:
            h, x = pooled(self.conv2, h), pooled(self.shortcut, x)
        else:
            h, x = self.conv2(h), self.shortcut(x)
        return F.leaky_relu(self.gain.to(h.dtype) * h + x, 0.2)


class IGEBMResNet(EnergyNet):
    """IGEBM's energy E(x) = w·Σ relu(blocks(lrelu(W₀ x))) + b, with the sum over pixels; `(B, C, H, W)` to `(B,)`.

    Source: Du & Mordatch (2019), the unconditional CIFAR-10 networks that the code calls ResNet32Large and ResNet32.
    There every second convolution is initially zero and its norm is only bounded from above; here all convolutions are
    alike. The sum and w are float32 also under autocast.

    >>> net = IGEBMResNet(in_channels=1, width=4, depth="small")
    >>> net(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5])

    Args:
        in_channels: Channels of the image, which has a side that is a multiple of 8.
        width: Channels of the first blocks; the last have four times as many (large) or twice as many (small).
        depth: `large` for nine blocks, `small` for six.
        dropout: Probability that a channel's pixel is dropped between the convolutions of a block. In training this
            makes the energy random, also in the chain, as in the authors' code, where the small network has no dropout.
        spectral_norm: Which layers are spectrally normalised: `none`, the convolutions (`conv`), or `all`.
    """

    def __init__(
        self,
        in_channels: int = 3,
        width: int = 128,
        depth: Literal["small", "large"] = "large",
        dropout: float = 0.5,
        spectral_norm: SpectralNorm = "conv",
    ) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, width=width)
        self.first = conv(in_channels, width)
        blocks: list[nn.Module] = []
        channels = width
        for multiple, down in _BLOCKS[depth]:
            blocks.append(PostActivationBlock(channels, multiple * width, down=down, dropout=dropout))
            channels = multiple * width
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Linear(channels, 1)
        spectral_norm_(self, spectral_norm)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.blocks(F.leaky_relu(self.first(x), 0.2)))
        with torch.autocast(x.device.type, enabled=False):
            return self.last(at_least_fp32(h).sum((2, 3))).squeeze(1)  # type: ignore[no-any-return]
