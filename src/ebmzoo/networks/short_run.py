"""The convolutional energy of short-run MCMC (Nijkamp et al., 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebmzoo.energy import EnergyNet, at_least_fp32
from ebmzoo.errors import UserError, at_least


class ShortRunNet(EnergyNet):
    """The energy E(x) = −f(x), f being convolutions with leaky ReLUs; `(B, C, H, W)` to `(B,)`.

    The first convolution is 3×3; each further one is 4×4, halves the size and doubles the channels, until the size is
    4×4, which takes three of them at size 32; the last covers the 4×4 pixels. It is float32 also under autocast.
    Source: Nijkamp et al. (2019), who write p(x) ∝ exp(f(x)); the initial weights are torch's, as in their code.

    >>> ShortRunNet(in_channels=1, size=8, width=4)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5])

    Args:
        in_channels: Channels of the image.
        size: Side of the image: 4 times a power of two.
        width: n_f, channels of the first convolution.
        leak: Slope of the activation below zero; 0.05 in the code of Nijkamp et al. (2020), On the anatomy.

    Raises:
        UserError: If the size is not 4 times a power of two.
    """

    def __init__(self, in_channels: int = 3, size: int = 32, width: int = 64, leak: float = 0.2) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, width=width)
        at_least(0, leak=leak)
        halvings = max(size // 4, 1).bit_length() - 1
        if size != 4 * 2**halvings:
            raise UserError(f"size: {size} must be 4 times a power of two: 4, 8, 16, 32, 64, ...")
        self.leak = leak
        self.convs = nn.ModuleList([nn.Conv2d(in_channels, width, 3, padding=1)])
        for i in range(halvings):
            self.convs.append(nn.Conv2d(2**i * width, 2 ** (i + 1) * width, 4, stride=2, padding=1))
        self.last = nn.Conv2d(2**halvings * width, 1, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.convs:
            x = F.leaky_relu(layer(x), self.leak)
        with torch.autocast(x.device.type, enabled=False):
            return -self.last(at_least_fp32(x)).flatten(1).squeeze(1)  # type: ignore[no-any-return]
