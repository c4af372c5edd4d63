"""The energy of Energy Matching: a U-Net whose output a small vision transformer maps to one number."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ebmzoo.energy import EnergyNet, at_least_fp32
from ebmzoo.errors import UserError, at_least
from ebmzoo.networks.base import Initializer


class PatchHead(nn.Module):
    """One number for each image: a post-norm vision transformer on its patches, and a linear map of their mean.

    Source: the code of Energy Matching. The positions are learnt, N(0, 0.02²) initially; the activation is GELU, and
    the last map is computed in fp32, since the number is of the order of the image's dimension.
    Shapes: images `(B, C, size, size)` to `(B,)`. A second derivative requires `sdpa_kernel(SDPBackend.MATH)`.

    >>> PatchHead(1, size=8, patch=4, width=16, depth=1, heads=2)(torch.zeros(3, 1, 8, 8)).shape
    torch.Size([3])

    Args:
        in_channels: Channels of the image.
        size: Side of the image.
        patch: Side of a patch.
        width: Dimension of a token; hidden layers have four times as many units.
        depth: Number of blocks.
        heads: Attention heads of a block.
        dropout: Dropout probability in each block.

    Raises:
        UserError: If a number is below 1, `patch` does not divide `size`, or `heads` does not divide `width`; if images
            have another size.
    """

    def __init__(
        self,
        in_channels: int = 3,
        size: int = 32,
        patch: int = 4,
        width: int = 384,
        depth: int = 8,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, size=size, patch=patch, width=width, depth=depth, heads=heads)
        if size % patch or width % heads:
            raise UserError(f"patch: {patch} must divide the size, {size}, and heads: {heads} the width, {width}")
        self.size = size
        self.embed = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.positions = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, "gelu", batch_first=True) for _ in range(depth)
        )
        self.out = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (self.size, self.size):
            raise UserError(f"size: {self.size} is not the side of the images, which are {x.shape[-2]}x{x.shape[-1]}")
        t = self.embed(x).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            t = block(t)
        mean = at_least_fp32(t).mean(1)
        with torch.autocast(x.device.type, enabled=False):
            return cast(Tensor, self.out(mean))[:, 0]


class UNetPotential(EnergyNet):
    """A scalar V(x) = scale · head(U(x, 0)) of a U-Net U and a `PatchHead`; the time that U is given never changes.

    `scale` is there because along the paths of training V falls by |x₁ − x₀|², thousands at 32×32. U's last layer is
    initially zero, so that V does not depend on x at first; ∂∇V/∂θ is not zero, and it learns.
    Source: the code of Energy Matching, whose CIFAR-10 network is `UNet(3, width=128, multiples=(1, 2, 2, 2), depth=2,
    attention=(1,), heads=4, embedding=512, conditioning="shift", resampling="convolution")` with `PatchHead()`:
    35,746,307 and 14,239,489 parameters. Its U is given the time 0.5, another constant.
    Shapes: images `(B, C, H, W)` in [-1, 1] to `(B,)`.

    >>> from ebmzoo.networks import UNet
    >>> net = UNet(1, width=4, multiples=(1, 2), depth=1, attention=(), embedding=8, groups=2)
    >>> v = UNetPotential(net, PatchHead(1, size=8, patch=4, width=16, depth=1, heads=2), scale=30.0)
    >>> v(torch.zeros(3, 1, 8, 8)).shape
    torch.Size([3])

    Args:
        unet: U, of any kind that returns images.
        head: The head.
        scale: The factor, above 0.

    Raises:
        UserError: If `scale` is not above 0.
    """

    def __init__(self, unet: Initializer, head: PatchHead, scale: float = 1000.0) -> None:
        super().__init__()
        if not scale > 0:
            raise UserError(f"scale: {scale} must be above 0")
        self.unet = unet
        self.head = head
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        u = self.unet(x, torch.zeros(len(x), device=x.device))
        return cast(Tensor, self.scale * self.head(u))
