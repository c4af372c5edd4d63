"""The wide residual classifier whose logits are energies (Grathwohl et al., 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebmzoo.energy import at_least_fp32
from ebmzoo.errors import UserError, at_least
from ebmzoo.networks.base import ClassEnergyNet


def _conv(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2)


class PreActivationBlock(nn.Module):
    """A block y = W₂ lrelu(W₁ lrelu(x)) + S x, where W₂ and S have the stride; S = 1 if the shape does not change."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, leak: float) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, out_channels)
        self.conv2 = _conv(out_channels, out_channels, stride=stride)
        changes = stride > 1 or in_channels != out_channels
        self.shortcut = _conv(in_channels, out_channels, 1, stride) if changes else nn.Identity()
        self.leak = leak

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(x, self.leak)), self.leak))
        return h + self.shortcut(x)  # type: ignore[no-any-return]


class WideResNet(ClassEnergyNet):
    """WRN-d-k without any normalisation: `(B, C, H, W)` to K logits, of which E(x) = −log Σ_y exp f(x)[y].

    One convolution to 16 channels, three stages of (d − 4)/6 blocks with 16k, 32k and 64k channels, the last two of
    which halve the size; a leaky ReLU, the mean over pixels, one linear layer. All layers have biases, and torch's
    initial weights. The first layer is a bare convolution. Logits are float32 also under autocast.
    Source: Grathwohl et al. (2020) and its code: a WRN-28-10 (Zagoruyko & Komodakis, 2016) without batch norm, since
    an energy of one image must not depend on the others of its batch.

    >>> net = WideResNet(in_channels=1, classes=4, depth=10, widen=1)
    >>> x = torch.zeros(5, 1, 8, 8)
    >>> net.logits(x).shape, net(x).shape, net.features(x).shape
    (torch.Size([5, 4]), torch.Size([5]), torch.Size([5, 64]))

    Args:
        in_channels: Channels of the image.
        classes: K, the number of classes.
        depth: d, the number of convolutions on the longest path: 10, 16, 22, 28, …
        widen: k, the factor of the width.
        leak: Slope of the activation below zero.

    Raises:
        UserError: If the depth is not 4 more than a multiple of 6.
    """

    def __init__(
        self, in_channels: int = 3, classes: int = 10, depth: int = 28, widen: int = 10, leak: float = 0.2
    ) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, classes=classes, widen=widen)
        at_least(0, leak=leak)
        if depth < 10 or depth % 6 != 4:
            raise UserError(f"depth: {depth} must be 4 more than a multiple of 6: 10, 16, 22, 28, ...")
        self.classes = classes
        self.feature_dim = 64 * widen
        self.leak = leak
        self.first = _conv(in_channels, 16)
        channels, blocks = 16, list[nn.Module]()
        for stage in range(3):
            out = 16 * widen * 2**stage
            for block in range((depth - 4) // 6):
                blocks.append(PreActivationBlock(channels, out, 2 if stage and not block else 1, leak))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Linear(channels, classes)

    def features(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.blocks(self.first(x)), self.leak)
        return at_least_fp32(h).mean((2, 3))

    def logits(self, x: Tensor) -> Tensor:
        h = self.features(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.last(h)  # type: ignore[no-any-return]
