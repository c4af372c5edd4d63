"""The energy of recovery likelihoods: DRL (Gao et al., 2021) and CDRL (Zhu et al., 2024)."""

from __future__ import annotations

from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as spectral_norm_of

from ebmzoo.energy import at_least_fp32
from ebmzoo.errors import UserError, at_least
from ebmzoo.networks.base import LevelEnergyNet
from ebmzoo.networks.embedding import TimeEmbedding
from ebmzoo.networks.resampling import pooled
from ebmzoo.networks.spectral import bounded_spectral_norm_

Bound = Literal["plain", "bounded", "none"]


def leaky(x: Tensor) -> Tensor:
    """Return LeakyReLU(0.2) of `x`."""
    return F.leaky_relu(x, 0.2)


def affine(in_channels: int, out_channels: int, dims: int) -> nn.Conv2d | nn.Linear:
    """Return a 3×3 convolution of images (`dims` 2), or a linear layer of vectors (`dims` 0)."""
    if dims == 0:
        return nn.Linear(in_channels, out_channels)
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


class RecoveryResBlock(nn.Module):
    """A block y = pool(g ⊙ (W₂ a(W₁ a(x) + a(V a(temb))) + b₂) + S x), a = LeakyReLU(0.2), pooled if `down`.

    Source: CDRL, Table 5 (a), which like DRL's code has V a(temb) without an activation around it; CDRL's code has one.
    g, one number per channel, is initially 1. S is a layer like W₁ and W₂, or 1 if the
    channels do not change.
    """

    def __init__(
        self, in_channels: int, out_channels: int, embedding: int, dims: int, *, zero: bool, down: bool = False
    ) -> None:
        super().__init__()
        self.down = down
        self.layer1 = affine(in_channels, out_channels, dims)
        self.layer2 = affine(out_channels, out_channels, dims)
        self.time = nn.Linear(embedding, out_channels)
        self.gain = nn.Parameter(torch.ones(out_channels, *[1] * dims))
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else affine(in_channels, out_channels, dims)
        if zero:
            for parameter in self.layer2.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        h = self.layer1(leaky(x))
        shift = leaky(self.time(leaky(temb)))
        h = leaky(h + shift.reshape(*shift.shape, *[1] * (h.dim() - 2)))
        if self.down:
            h, x = pooled(self.layer2, h), pooled(self.shortcut, x)
        else:
            h, x = self.layer2(h), self.shortcut(x)
        return self.gain.to(h.dtype) * h + x  # type: ignore[no-any-return]


class Tower(nn.Module):
    """The energy Ê(x, t) = −Σ relu(h(x, temb)) · V a(temb), h being residual blocks in stages, a = LeakyReLU(0.2).

    The input is images `(B, C, H, W)` if `dims` is 2, with 2×2 means between stages and the sum over pixels before the
    product, and vectors `(B, C)` if it is 0. The sum and the product are float32 also under autocast. V has no bias and
    is never normalised. The other arguments are those of `RecoveryResNet`.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        multiples: tuple[int, ...],
        depth: int,
        embedding: int,
        classes: int,
        spectral_norm: Bound,
        zero_init: bool,
        dims: int,
    ) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels)
        if not multiples or min(*multiples, depth, embedding) < 1:
            raise UserError(
                f"multiples: {list(multiples)}, depth: {depth} and embedding: {embedding} must all be 1 or more, "
                "with at least one multiple"
            )
        if zero_init and spectral_norm != "bounded":
            raise UserError(f"zero_init: true needs spectral_norm: bounded, not {spectral_norm}, which divides by zero")
        self.embed = TimeEmbedding(width, embedding, classes, leaky)
        self.first = affine(in_channels, width, dims)
        self.stages = nn.ModuleList()
        channels = width
        for stage, multiple in enumerate(multiples):
            blocks = nn.ModuleList()
            halved = dims > 0 and stage < len(multiples) - 1
            for i in range(depth):
                down = halved and i == depth - 1
                blocks.append(RecoveryResBlock(channels, multiple * width, embedding, dims, zero=zero_init, down=down))
                channels = multiple * width
            self.stages.append(blocks)
        self.last = nn.Linear(embedding, channels, bias=False)
        self._normalise(spectral_norm)

    def _normalise(self, which: Bound) -> None:
        """Normalise every layer but the last; with `bounded`, only second layers are bounded, as in DRL's code."""
        seconds = {block.layer2 for block in self.modules() if isinstance(block, RecoveryResBlock)}
        for layer in list(self.modules()):
            if which == "none" or layer is self.last or not isinstance(layer, nn.Conv2d | nn.Linear):
                continue
            if which == "bounded" and layer in seconds:
                bounded_spectral_norm_(layer)
            else:
                spectral_norm_of(layer)

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
        temb = self.embed(time, labels)
        h = self.first(x)
        for blocks in self.stages:
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, temb)
        with torch.autocast(x.device.type, enabled=False):
            features = at_least_fp32(F.relu(h)).flatten(2).sum(2) if h.dim() > 2 else at_least_fp32(F.relu(h))
            return -(features * self.last(leaky(temb))).sum(1)  # type: ignore[no-any-return]


@final
class RecoveryResNet(LevelEnergyNet):
    """The energy Ê(x, t) = −Σ_pixels relu(h(x, temb)) · V a(temb) of DRL and CDRL.

    Source: CDRL, A.1, Tables 5 and 6. The default is CDRL's on 32×32 images; large: width 256, embedding 1024; at
    64×64: multiples 1 2 2 2 2; DRL: `bounded` and `zero_init`.
    Shapes: images `(B, C, H, W)`, their sides multiples of 2^(len(multiples) − 1), to `(B,)`.

    >>> net = RecoveryResNet(in_channels=1, width=4, multiples=(1, 2), depth=1, embedding=8, classes=10)
    >>> net(torch.zeros(5, 1, 8, 8), time=torch.arange(5.0), labels=torch.arange(5)).shape
    torch.Size([5])

    Args:
        in_channels: Channels of the image.
        width: Channels of the first stage, and dimension of the sinusoids; even, 4 or more.
        multiples: Factor of the width in each stage; the size is halved between stages.
        depth: Residual blocks in a stage.
        embedding: Dimension of temb, four times the width in the papers.
        classes: Number of classes; 0 for an unconditional network.
        spectral_norm: `plain` W/σ for all layers but V; `bounded` W/max(1, σ) for the second layer of each block and
            W/σ for all others but V; or `none`.
        zero_init: Whether blocks are initially their shortcuts, with a second layer of zeros; requires `bounded`.

    Raises:
        UserError: If there is no stage or block, the width is odd, or `zero_init` is used without `bounded`; if the
            sides of the images are not such multiples.
    """

    def __init__(
        self,
        in_channels: int = 3,
        width: int = 128,
        multiples: tuple[int, ...] = (1, 2, 2, 2),
        depth: int = 8,
        embedding: int = 512,
        classes: int = 0,
        spectral_norm: Bound = "plain",
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.divisor = 2 ** (len(multiples) - 1)
        self.tower = Tower(in_channels, width, multiples, depth, embedding, classes, spectral_norm, zero_init, dims=2)

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        if x.shape[-2] % self.divisor or x.shape[-1] % self.divisor:
            raise UserError(
                f"multiples: {self.divisor.bit_length()} stages need images whose sides are multiples of "
                f"{self.divisor}, not {x.shape[-2]}x{x.shape[-1]}"
            )
        return self.tower(x, time, labels)  # type: ignore[no-any-return]
