"""The SNGAN networks that LIEBM and Dual-MCMC share: trunk, scalar energy, generator and inference network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import lcm
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebmzoo.energy import EnergyNet, at_least_fp32
from ebmzoo.errors import UserError, at_least
from ebmzoo.networks.base import FeatureNet, Generator, InferenceNet
from ebmzoo.networks.blocks import DownBlock, StartBlock, UpBlock, conv
from ebmzoo.networks.spectral import SpectralNorm, spectral_norm_

T = TypeVar("T")

# For each image size the blocks: (divisor of the width, whether the block halves the size).
_TRUNK = {
    8: [(1, True), (1, False), (1, False)],
    16: [(1, True), (1, True), (1, False)],
    32: [(1, True), (1, True), (1, False), (1, False)],
    64: [(16, True), (8, True), (4, True), (2, True), (1, True)],
    256: [(16, True), (16, True), (8, True), (4, True), (2, True), (1, True), (1, True)],
}
# For each image size the divisor of the width after each up-block, from 4×4.
_GENERATOR = {8: [1], 16: [1, 1], 32: [1, 1, 1], 64: [2, 4, 8, 16], 256: [1, 2, 4, 8, 16, 32]}
# For each image size the convolutions down to 4×4: (multiple of half the width, kernel, stride).
_INFERENCE = {
    8: [(2, 3, 1), (4, 4, 2)],
    16: [(2, 3, 1), (4, 4, 2), (8, 4, 2)],
    32: [(2, 3, 1), (4, 4, 2), (8, 4, 2), (16, 4, 2)],
    64: [(2, 4, 2), (4, 4, 2), (8, 4, 2), (16, 4, 2)],
    256: [(1, 4, 2), (1, 4, 2), (2, 4, 2), (4, 4, 2), (4, 4, 2), (8, 4, 2)],
}


def _layers(table: Mapping[int, list[T]], size: int) -> list[T]:
    if size not in table:
        near = min(table, key=lambda known: abs(known - size))
        raise UserError(
            f"size: {size} is not among the image sizes of this network: {', '.join(map(str, table))}; the nearest is "
            f"{near}, to which --data.size {near} scales images of your own"
        )
    return table[size]


def _divisors(standard: list[int], own: Sequence[int] | None, size: int) -> list[int]:
    """Return the divisor of the width for each block: the network's own, if given, or the standard one of this size."""
    if own is None:
        return standard
    if len(own) != len(standard) or min(own) < 1:
        raise UserError(
            f"divisors: {list(own)} must be {len(standard)} numbers of 1 or more, one for each block at size {size}"
        )
    return list(own)


def _check_width(width: int, divisor: int, size: int) -> None:
    if width <= 0 or width % divisor:
        raise UserError(f"width: {width} must be a positive multiple of {divisor} at size {size}")


class SNGANFeatures(FeatureNet):
    """The residual trunk f(x) = W mean(relu(blocks(x))) of LIEBM (appendix A.5) and Dual-MCMC.

    Shapes: images `(B, C, H, W)` to `(B, out_features)`. The mean over pixels and W are float32 also under autocast.

    >>> f = SNGANFeatures(in_channels=1, size=8, width=4, out_features=3, bias="none")
    >>> x = torch.randn(5, 1, 8, 8)
    >>> f.homogeneous, torch.allclose(f(2 * x), 2 * f(x), rtol=1e-4)
    (True, True)

    Args:
        in_channels: Channels of the image.
        size: Side of the image: 8, 16, 32, 64 or 256.
        width: Channels of the widest block; a multiple of 16 at sizes 64 and 256.
        out_features: Features of an image.
        bias: Which layers have a bias: `all`, only the `last`, or `none`, which makes f homogeneous as in Dual-MCMC.
        spectral_norm: Which layers are spectrally normalised: `none`, the convolutions (`conv`), or `all`.
        divisors: The divisor of the width for each block, such as 8 4 2 1 at size 32; null for the papers'.

    Raises:
        UserError: If no network of this size or width is defined.
    """

    def __init__(
        self,
        in_channels: int = 3,
        size: int = 32,
        width: int = 256,
        out_features: int = 512,
        bias: Literal["all", "last", "none"] = "all",
        spectral_norm: SpectralNorm = "none",
        divisors: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, out_features=out_features)
        layers = _layers(_TRUNK, size)
        widths = _divisors([divisor for divisor, _ in layers], divisors, size)
        _check_width(width, lcm(*widths), size)
        everywhere = bias == "all"
        channels = width // widths[0]
        blocks: list[nn.Module] = [StartBlock(in_channels, channels, bias=everywhere)]
        for divisor, (_, down) in zip(widths[1:], layers[1:], strict=True):
            blocks.append(DownBlock(channels, width // divisor, down=down, bias=everywhere))
            channels = width // divisor
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Linear(channels, out_features, bias=bias != "none")
        self.out_features = out_features
        self._homogeneous = bias == "none"
        spectral_norm_(self, spectral_norm)

    @property
    def homogeneous(self) -> bool:
        return self._homogeneous

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.blocks(x))
        with torch.autocast(x.device.type, enabled=False):
            return self.last(at_least_fp32(h).mean((2, 3)))  # type: ignore[no-any-return]


class SNGANEnergy(EnergyNet):
    """Dual-MCMC's energy E(x) = w·mean(relu(blocks(x))), p(x) ∝ exp(−E(x)); `(B, C, H, W)` to `(B,)`.

    >>> SNGANEnergy(in_channels=1, size=8, width=4)(torch.zeros(5, 1, 8, 8))  # without biases E(0) = 0
    tensor([0., 0., 0., 0., 0.], grad_fn=<SqueezeBackward1>)

    Args:
        in_channels: Channels of the image.
        size: Side of the image: 8, 16, 32, 64 or 256.
        width: Channels of the widest block; a multiple of 16 at sizes 64 and 256.
        bias: Which layers have a bias: `all`, only the `last`, or `none` as in the authors' code.
        spectral_norm: Which layers are spectrally normalised: `none`, the convolutions (`conv`), or `all`.
        divisors: The divisor of the width for each block, such as 8 4 2 1 at size 32; null for the papers'.

    Raises:
        UserError: If no network of this size or width is defined.
    """

    def __init__(
        self,
        in_channels: int = 3,
        size: int = 32,
        width: int = 256,
        bias: Literal["all", "last", "none"] = "none",
        spectral_norm: SpectralNorm = "none",
        divisors: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.trunk = SNGANFeatures(in_channels, size, width, 1, bias, spectral_norm, divisors)

    def forward(self, x: Tensor) -> Tensor:
        return self.trunk(x).squeeze(1)  # type: ignore[no-any-return]


class SNGANGenerator(Generator):
    """The generator G(m) = tanh(W relu(bn(up-blocks(V m)))), from 4×4 pixels to an image in [-1, 1].

    The weights of batch norms are initially one; the authors' code draws them from N(0, 1).
    Source: Dual-MCMC. Shapes: `(B, latent)` to `(B, out_channels, size, size)`.

    >>> SNGANGenerator(latent=3, out_channels=1, size=8, width=4)(torch.zeros(5, 3)).shape
    torch.Size([5, 1, 8, 8])

    Args:
        latent: Dimension of m.
        out_channels: Channels of the image.
        size: Side of the image: 8, 16, 32, 64 or 256.
        width: Channels at 4×4; a multiple of 16 at size 64 and of 32 at size 256.
        divisors: The divisor of the width for each up-block, such as 1 2 4 at size 32; null for the papers'.

    Raises:
        UserError: If no network of this size or width is defined.
    """

    def __init__(
        self,
        latent: int = 128,
        out_channels: int = 3,
        size: int = 32,
        width: int = 256,
        divisors: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        at_least(1, latent=latent, out_channels=out_channels)
        widths = _divisors(_layers(_GENERATOR, size), divisors, size)
        _check_width(width, lcm(*widths), size)
        channels = [width, *(width // d for d in widths)]
        self.latent = latent
        self.first = nn.Linear(latent, 16 * width)
        self.blocks = nn.Sequential(*map(UpBlock, channels, channels[1:]))
        self.norm = nn.BatchNorm2d(channels[-1])
        self.last = conv(channels[-1], out_channels)

    def forward(self, m: Tensor) -> Tensor:
        h = self.blocks(self.first(m).unflatten(1, (-1, 4, 4)))
        return at_least_fp32(self.last(F.relu(self.norm(h)))).tanh()


class SNGANInference(InferenceNet):
    """The inference network q(m|x) = N(μ(x), diag exp(logvar(x))): strided convolutions to 4×4, and two heads.

    >>> mu, logvar = SNGANInference(in_channels=1, size=8, latent=3, width=4)(torch.zeros(5, 1, 8, 8))
    >>> mu.shape, logvar.shape
    (torch.Size([5, 3]), torch.Size([5, 3]))

    Args:
        in_channels: Channels of the image.
        size: Side of the image: 8, 16, 32, 64 or 256.
        latent: Dimension of m.
        width: Channels of the first convolution (half of it at size 256); even.

    Raises:
        UserError: If no network of this size or width is defined.
    """

    def __init__(self, in_channels: int = 3, size: int = 32, latent: int = 128, width: int = 128) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, latent=latent)
        layers = _layers(_INFERENCE, size)
        _check_width(width, 2, size)
        self.latent = latent
        self.convs = nn.ModuleList()
        channels = in_channels
        for multiple, kernel, stride in layers:
            self.convs.append(conv(channels, multiple * width // 2, kernel, stride, bias=False))
            channels = multiple * width // 2
        self.mean = nn.Conv2d(channels, latent, 4)
        self.logvar = nn.Conv2d(channels, latent, 4)
        for head in (self.mean, self.logvar):
            nn.init.xavier_normal_(head.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.convs:
            x = F.leaky_relu(layer(x), 0.2)
        return at_least_fp32(self.mean(x).flatten(1)), at_least_fp32(self.logvar(x).flatten(1))
