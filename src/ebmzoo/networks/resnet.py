"""The ResNet encoder of small images, which self-supervised objectives train."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from ebmzoo.energy import at_least_fp32
from ebmzoo.errors import UserError, at_least
from ebmzoo.networks.base import Encoder


def resnet_backbone(in_channels: int, width: int, blocks: Sequence[int]) -> nn.Sequential:
    """Return the CIFAR ResNet without its classifier: `(B, C, H, W)` to `(B, width·2^(len(blocks)−1))`.

    The first convolution is 3×3 with stride 1 and without pooling after it; each further stage halves the size and
    doubles the channels. Images need at least 2^(len(blocks)−1) pixels a side. Source: He et al. (2016).

    >>> resnet_backbone(3, 4, (1, 1))(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 8])
    """
    channels = width
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    ]
    for stage, count in enumerate(blocks):
        out = width * 2**stage
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            shortcut = None
            if stride > 1 or channels != out:
                shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
            layers.append(BasicBlock(channels, out, stride, shortcut))
            channels = out
    backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return backbone


class ResNetEncoder(Encoder):
    """A CIFAR ResNet-18 onto the unit sphere: h(x) = bn(head(backbone(s(x)))) / ‖·‖, s(x) = ((x+1)/2 − mean)/std.

    Source: Ermolov et al. (2021), from whom LIEBM has its SimCLR, BYOL and W-MSE encoders; without `hidden_bias` and
    `last_norm` and with `zero_init_residual` it is the network of CLEL (appendix B and its code).
    Shapes: images `(B, C, H, W)` to `(B, latent)`, float32.

    >>> h = ResNetEncoder(in_channels=1, width=4, blocks=(1, 1), latent=3, hidden=8, mean=None, std=None)
    >>> z = h(torch.randn(5, 1, 8, 8))
    >>> z.shape, torch.allclose(z.norm(dim=1), torch.ones(5))
    (torch.Size([5, 3]), True)

    Args:
        in_channels: Channels of the image.
        width: Channels of the first stage.
        blocks: Residual blocks of each stage; every stage after the first halves the size and doubles the channels.
        latent: Dimension of the representation.
        hidden: Hidden units of the head.
        mean: Mean of each channel on [0, 1], which is subtracted from the image; null for 0.
        std: Standard deviation of each channel on [0, 1], by which the image is divided; null for 1.
        resize: Side to which images are first resized, antialiased; null for no resizing.
        hidden_bias: Whether the head's first layer has a bias, which the batch norm after it cancels.
        last_norm: Whether the head ends with a batch norm.
        zero_init_residual: Whether every residual block is initially its shortcut.

    Raises:
        UserError: If `blocks` is empty, or `mean` or `std` does not have one value for each channel.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        in_channels: int = 3,
        width: int = 64,
        blocks: tuple[int, ...] = (2, 2, 2, 2),
        latent: int = 64,
        hidden: int = 1024,
        mean: tuple[float, ...] | None = (0.4914, 0.4822, 0.4465),
        std: tuple[float, ...] | None = (0.2023, 0.1994, 0.2010),
        resize: int | None = None,
        hidden_bias: bool = True,
        last_norm: bool = True,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, width=width, latent=latent, hidden=hidden, resize=resize)
        self.resize = resize
        if not blocks or min(blocks) < 1:
            raise UserError(f"blocks: {list(blocks)} must give at least one stage, and each stage at least one block")
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != in_channels:
                raise UserError(
                    f"{name}: {list(values)} must have one value for each of the {in_channels} channel(s), or be null"
                )
            tensor = None if values is None else torch.tensor(values).view(-1, 1, 1)
            self.register_buffer(name, tensor)
        self.latent = latent
        self.feature_dim = width * 2 ** (len(blocks) - 1)
        self.backbone = resnet_backbone(in_channels, width, blocks)
        if zero_init_residual:
            for block in self.backbone.modules():
                if isinstance(block, BasicBlock):
                    nn.init.zeros_(block.bn2.weight)
        self.head = nn.Sequential(
            nn.Linear(self.feature_dim, hidden, bias=hidden_bias),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, latent),
            *([nn.BatchNorm1d(latent)] if last_norm else []),
        )

    def features(self, x: Tensor) -> Tensor:
        if self.resize is not None and x.shape[-1] != self.resize:
            x = F.interpolate(x, size=self.resize, mode="bilinear", antialias=True)
        x = (x + 1) / 2
        if self.mean is not None:
            x = x - self.mean
        if self.std is not None:
            x = x / self.std
        return at_least_fp32(self.backbone(x))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(at_least_fp32(self.head(self.features(x))), dim=1)
