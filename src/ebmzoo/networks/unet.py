"""The U-Net of Nichol & Dhariwal (2021), which is CDRL's initializer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebmzoo.energy import at_least_fp32
from ebmzoo.errors import UserError, at_least
from ebmzoo.networks.base import Initializer
from ebmzoo.networks.embedding import TimeEmbedding
from ebmzoo.networks.norms import GroupNorm
from ebmzoo.networks.resampling import ResamplingConv, upsampled


def zeroed(layer: nn.Conv2d, bias: bool = True) -> nn.Conv2d:
    """Set the weight of `layer` to zero, its bias too if `bias`, and return it."""
    nn.init.zeros_(layer.weight)
    if bias and layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


@dataclass(frozen=True)
class BlockSettings:
    """The settings that all blocks of a U-Net share."""

    embedding: int
    heads: int
    dropout: float
    groups: int
    zero_bias: bool = False
    scale: bool = True
    convolve: bool = False

    def resampling(self, channels: int, resample: nn.Module) -> nn.Module:
        """Return what changes the resolution: a residual block with `resample` in it, or a convolution alone."""
        if not self.convolve:
            return UNetResBlock(channels, channels, self, resample)
        if isinstance(resample, nn.AvgPool2d):
            return ResamplingConv(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
        return ResamplingConv(nn.Sequential(resample, nn.Conv2d(channels, channels, 3, padding=1)), doubles=True)

    def zeroed(self, layer: nn.Conv2d) -> nn.Conv2d:
        """Return `layer` with a weight of zeros, and with `zero_bias` a bias of zeros."""
        return zeroed(layer, self.zero_bias)

    def norm(self, channels: int) -> nn.GroupNorm:
        """Return a group norm, with fewer groups if the channels are not a multiple of `groups`."""
        return GroupNorm(math.gcd(self.groups, channels), channels, eps=1e-6)


class UNetResBlock(nn.Module):
    """A block y = W₂ drop(s((1 + a) ⊙ norm(W₁ r(s(norm(x)))) + b)) + S r(x), (a, b) = V s(temb), s = SiLU.

    Without `scale`, time only shifts, and before the norm: s(norm(W₁ r(s(norm(x))) + b)), b = V s(temb).
    W₂ is initially zero. r is a resampling or the identity; S = 1 if the channels do not change.
    """

    def __init__(
        self, in_channels: int, out_channels: int, settings: BlockSettings, resample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = settings.norm(in_channels), settings.norm(out_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = settings.zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.scale = settings.scale
        self.time = nn.Linear(settings.embedding, 2 * out_channels if self.scale else out_channels)
        self.dropout = nn.Dropout(settings.dropout)
        self.resample = nn.Identity() if resample is None else resample
        self.doubles = isinstance(resample, nn.UpsamplingNearest2d)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        time = self.time(F.silu(temb))[:, :, None, None]
        h = F.silu(self.norm1(x))
        h = upsampled(self.conv1, h) if self.doubles else self.conv1(self.resample(h))
        if self.scale:
            scale, shift = time.chunk(2, 1)
            h = F.silu((1 + scale) * self.norm2(h) + shift)
        else:
            h = F.silu(self.norm2(h + time))
        return self.conv2(self.dropout(h)) + self.shortcut(self.resample(x))  # type: ignore[no-any-return]


class UNetAttention(nn.Module):
    """Attention y = x + P attention(q, k, v), (q, k, v) = W norm(x), among the pixels of an image; P is initially zero.

    A second derivative requires `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`.
    """

    def __init__(self, channels: int, settings: BlockSettings) -> None:
        super().__init__()
        if settings.heads < 1 or channels % settings.heads:
            raise UserError(f"heads: {settings.heads} must divide the {channels} channels of the attention")
        self.heads = settings.heads
        self.norm = settings.norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.project = settings.zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        # (B, 3·heads·c, H, W) to three of (B, heads, HW, c)
        q, k, v = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(3, 4).unbind(1)
        h = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(x.shape)
        return x + self.project(h)  # type: ignore[no-any-return]


class Step(nn.Module):
    """A residual block, with attention after it if `attention`."""

    def __init__(self, in_channels: int, out_channels: int, settings: BlockSettings, *, attention: bool) -> None:
        super().__init__()
        self.block = UNetResBlock(in_channels, out_channels, settings)
        self.attention = UNetAttention(out_channels, settings) if attention else nn.Identity()

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        return self.attention(self.block(x, temb))  # type: ignore[no-any-return]


class DownPath(nn.Module):
    """A convolution, then at each resolution `depth` steps and, except at the last one, a block that halves the size.

    `forward` returns the last output, and the list of all outputs; `widths` are their channels.
    """

    def __init__(
        self, in_channels: int, widths: list[int], depth: int, attention: tuple[int, ...], settings: BlockSettings
    ) -> None:
        super().__init__()
        channels = widths[0]
        self.first = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.steps = nn.ModuleList()
        self.widths = [channels]
        for level, width in enumerate(widths):
            if level > 0:
                self.steps.append(settings.resampling(channels, nn.AvgPool2d(2)))
                self.widths.append(channels)
            for _ in range(depth):
                self.steps.append(Step(channels, width, settings, attention=level in attention))
                channels = width
                self.widths.append(channels)

    def forward(self, x: Tensor, temb: Tensor) -> tuple[Tensor, list[Tensor]]:
        outputs = [self.first(x)]
        for step in self.steps:
            outputs.append(step(outputs[-1], temb))
        return outputs[-1], outputs


class Middle(nn.Module):
    """A residual block, attention, and another block."""

    def __init__(self, channels: int, settings: BlockSettings) -> None:
        super().__init__()
        self.step = Step(channels, channels, settings, attention=True)
        self.block = UNetResBlock(channels, channels, settings)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        return self.block(self.step(x, temb), temb)  # type: ignore[no-any-return]


class UpPath(nn.Module):
    """At each resolution `depth` + 1 steps on [h, skip] and, except at the full one, a block that doubles the size.

    The skip connections are the outputs of `DownPath`, last one first; `skips` are its `widths`.
    """

    def __init__(
        self,
        out_channels: int,
        widths: list[int],
        skips: list[int],
        depth: int,
        attention: tuple[int, ...],
        settings: BlockSettings,
    ) -> None:
        super().__init__()
        channels, remaining = widths[-1], list(skips)
        self.steps = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for _ in range(depth + 1):
                step = Step(channels + remaining.pop(), widths[level], settings, attention=level in attention)
                self.steps.append(step)
                channels = widths[level]
            if level > 0:
                self.steps.append(settings.resampling(channels, nn.UpsamplingNearest2d(scale_factor=2)))
        self.norm = settings.norm(channels)
        self.last = settings.zeroed(nn.Conv2d(channels, out_channels, 3, padding=1))

    def forward(self, h: Tensor, skips: list[Tensor], temb: Tensor) -> Tensor:
        remaining = list(skips)
        for step in self.steps:
            h = step(torch.cat([h, remaining.pop()], 1) if isinstance(step, Step) else h, temb)
        return cast(Tensor, self.last(F.silu(self.norm(h))))


class UNet(Initializer):
    """An initializer U(x, t): a U-Net with time-conditioned residual blocks and an initial output near 0.

    Source: CDRL, A.1, with a lowest resolution of 8×8 as in the code, not 4×4; the default is for 32×32 images. The
    network adds nothing to its output: x, for example, is added by the method. The convolutions that begin at zero keep
    their biases, as in the code, unless `zero_bias`.
    Shapes: images `(B, C, H, W)`, their sides multiples of 2^(len(multiples) − 1), to `(B, out_channels, H, W)`.

    >>> net = UNet(1, width=4, multiples=(1, 2), depth=1, attention=(), embedding=8, groups=2, zero_bias=True)
    >>> bool((net(torch.randn(5, 1, 8, 8), time=torch.arange(5.0)) == 0).all())
    True

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the output; null for the same as the image.
        width: Channels at the full resolution, and dimension of the sinusoids; even, 4 or more.
        multiples: Factor of the width at each resolution; each resolution is half the one before.
        depth: Residual blocks at each resolution on the way down; there is one more on the way up.
        attention: Resolutions with attention: 0 is the full one, 1 the half, …. The middle always has it.
        heads: Attention heads.
        embedding: Dimension of temb, four times the width in the paper.
        dropout: Dropout probability in each residual block.
        classes: Number of classes; 0 for an unconditional network.
        groups: Groups of the group norms; if they do not divide the channels, the greatest common divisor of both.
        zero_bias: True makes the initial output exactly 0.
        conditioning: How the time acts on a block: on scale and shift after its norm, or as a shift before it.
        resampling: What changes the resolution: a residual block, or a convolution as in Ho et al. 2020.

    Raises:
        UserError: If a number is out of its range, `heads` does not divide the channels, or `attention` names a
            resolution that does not exist; if the sides of the images are not such multiples.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int | None = None,
        width: int = 64,
        multiples: tuple[int, ...] = (1, 1, 1),
        depth: int = 3,
        attention: tuple[int, ...] = (1, 2),
        heads: int = 1,
        embedding: int = 256,
        dropout: float = 0.1,
        classes: int = 0,
        groups: int = 32,
        zero_bias: bool = False,
        conditioning: Literal["scale_shift", "shift"] = "scale_shift",
        resampling: Literal["block", "convolution"] = "block",
    ) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, out_channels=out_channels, heads=heads)
        if not multiples or min(*multiples, depth, embedding, groups) < 1:
            raise UserError(
                f"multiples: {list(multiples)}, depth: {depth}, embedding: {embedding} and groups: {groups} must all "
                "be 1 or more, with at least one multiple"
            )
        if not set(attention) <= set(range(len(multiples))):
            raise UserError(
                f"attention: {list(attention)} must name resolutions from 0, the full one, to {len(multiples) - 1}"
            )
        self.classes = classes
        self.divisor = 2 ** (len(multiples) - 1)
        ways = {"scale": conditioning == "scale_shift", "convolve": resampling == "convolution"}
        settings = BlockSettings(embedding, heads, dropout, groups, zero_bias, **ways)
        widths = [multiple * width for multiple in multiples]
        out = in_channels if out_channels is None else out_channels
        self.embed = TimeEmbedding(width, embedding, classes, F.silu)
        self.down = DownPath(in_channels, widths, depth, attention, settings)
        self.middle = Middle(widths[-1], settings)
        self.up = UpPath(out, widths, self.down.widths, depth, attention, settings)

    def encode(self, x: Tensor, temb: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the features at the lowest resolution after the middle, and the skip connections."""
        if x.shape[-2] % self.divisor or x.shape[-1] % self.divisor:
            raise UserError(
                f"multiples: {self.divisor.bit_length()} resolutions need images whose sides are multiples of "
                f"{self.divisor}, not {x.shape[-2]}x{x.shape[-1]}"
            )
        h, skips = self.down(x, temb)
        return self.middle(h, temb), skips

    def decode(self, h: Tensor, skips: list[Tensor], temb: Tensor) -> Tensor:
        """Return the output of the way up for what `encode` returned: `(B, out_channels, H, W)`, at least float32."""
        return at_least_fp32(self.up(h, skips, temb))

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        temb = self.embed(time, labels)
        h, skips = self.encode(x, temb)
        return self.decode(h, skips, temb)
