"""The RefineNet of noise conditional score networks (NCSN: Song & Ermon, 2019), as a denoiser."""

from __future__ import annotations

import math
from typing import cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebmzoo.energy import at_least_fp32
from ebmzoo.errors import UserError, at_least
from ebmzoo.networks.denoiser import Denoiser
from ebmzoo.networks.resampling import pooled
from ebmzoo.networks.unet import zeroed


class LevelNorm(nn.Module):
    """Conditional instance norm++: y_c = γ_c((x_c − μ_c)/s_c + α_c (μ_c − m)/v) + β_c.

    μ_c and s_c are the mean and standard deviation of channel c over the pixels, m and v those of μ over the channels.
    γ and α, initially N(1, 0.02²), and β, initially zero, are rows of a table; `level`, `(B,)` int64, is the row of
    each image. Source: NCSN, A.1.
    """

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.table = nn.Embedding(levels, 3 * channels)
        nn.init.normal_(self.table.weight[:, : 2 * channels], 1, 0.02)
        nn.init.zeros_(self.table.weight[:, 2 * channels :])

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        scale, mix, shift = self.table(level).chunk(3, 1)
        means = at_least_fp32(x).mean((2, 3))
        variance, mean = torch.var_mean(means, 1, keepdim=True)
        # The terms that are the same at all pixels are summed first.
        constant = shift + scale * mix * (means - mean) / (variance + 1e-5).sqrt()
        return scale[:, :, None, None] * F.instance_norm(x) + constant[:, :, None, None]  # type: ignore[no-any-return]


class LevelSequence(nn.Module):
    """Layers applied one after another, each conditioned on the level."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, level)
        return x


def conv(in_channels: int, out_channels: int, dilation: int = 1, *, kernel: int = 3, bias: bool = True) -> nn.Conv2d:
    """Return a convolution that keeps the size; the kernel is odd."""
    padding = dilation * (kernel // 2)
    return nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=bias)


class RefineNetResBlock(nn.Module):
    """A block y = pool(W₂ e(n₂(W₁ e(n₁(x))))) + S pool(x), e = ELU, with the 2×2 mean `pool` if `down`.

    S is a dilated 3×3 convolution if the block is the `first` of a stage, a 1×1 one if it is also `down`, else S = 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        levels: int,
        dilation: int = 1,
        *,
        first: bool = False,
        down: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = LevelNorm(in_channels, levels), LevelNorm(in_channels, levels)
        self.conv1 = conv(in_channels, in_channels, dilation, bias=bias)
        self.conv2 = conv(in_channels, out_channels, dilation, bias=bias)
        self.down = down
        self.shortcut: nn.Module = nn.Identity()
        if first:
            self.shortcut = conv(in_channels, out_channels, dilation, kernel=1 if down else 3)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        h = self.conv1(F.elu(self.norm1(x, level)))
        h = F.elu(self.norm2(h, level))
        if self.down:
            return pooled(self.conv2, h) + pooled(self.shortcut, x)
        return self.conv2(h) + self.shortcut(x)  # type: ignore[no-any-return]


def stage(in_channels: int, out_channels: int, levels: int, dilation: int = 1, *, down: bool = False) -> LevelSequence:
    """Return two residual blocks; except at the full resolution the shortcut of the first is a convolution."""
    return LevelSequence(
        RefineNetResBlock(in_channels, out_channels, levels, dilation, first=down or dilation > 1, down=down),
        RefineNetResBlock(out_channels, out_channels, levels, dilation),
    )


def units(channels: int, count: int, levels: int) -> LevelSequence:
    """Return `count` residual convolution units, which are residual blocks without biases in their convolutions."""
    return LevelSequence(*(RefineNetResBlock(channels, channels, levels, bias=False) for _ in range(count)))


class ChainedPooling(nn.Module):
    """Chained pooling: y = h₀ + h₁ + h₂, h₀ = e(x), h_{i+1} = W_i pool(n_i(h_i)), pool being the mean of 5×5 pixels."""

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(LevelNorm(channels, levels) for _ in range(2))
        self.convs = nn.ModuleList(conv(channels, channels, bias=False) for _ in range(2))
        self.pool = nn.AvgPool2d(5, stride=1, padding=2)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        total = path = F.elu(x)
        for norm, layer in zip(self.norms, self.convs, strict=True):
            path = layer(self.pool(norm(path, level)))
            total = total + path
        return total


class Refine(nn.Module):
    """A refinement y = units(chained(Σ_i up(W_i n_i(units_i(x_i))))): inputs of any sizes to one output of the first's.

    A single input passes through neither W, n nor up. up is bilinear, between the centres of the corner pixels.
    """

    def __init__(self, in_channels: list[int], out_channels: int, levels: int, out_units: int = 1) -> None:
        super().__init__()
        self.adapt = nn.ModuleList(units(channels, 2, levels) for channels in in_channels)
        several = in_channels if len(in_channels) > 1 else []
        self.norms = nn.ModuleList(LevelNorm(channels, levels) for channels in several)
        self.convs = nn.ModuleList(conv(channels, out_channels) for channels in several)
        self.chained = ChainedPooling(out_channels, levels)
        self.units = units(out_channels, out_units, levels)

    def forward(self, xs: list[Tensor], level: Tensor) -> Tensor:
        size = xs[0].shape[-2:]
        hs = [adapt(x, level) for adapt, x in zip(self.adapt, xs, strict=True)]
        for i, (norm, layer) in enumerate(zip(self.norms, self.convs, strict=True)):
            hs[i] = layer(norm(hs[i], level))
            if hs[i].shape[-2:] != size:
                hs[i] = F.interpolate(hs[i], size, mode="bilinear", align_corners=True)
        h = sum(hs[1:], start=hs[0])
        return cast(Tensor, self.units(self.chained(h, level), level))


@final
class RefineNetDenoiser(Denoiser):
    """A denoiser r(x̃, σ) = x̃ + σ² s(x̃, i), by Tweedie's formula, with the score s of NCSN's RefineNet.

    Level i is the nearest to σ in logarithm of `levels` numbers in geometric sequence from `sigma_max` to `sigma_min`.
    The last convolution is initially zero, unlike NCSN's, and then r(x̃, σ) = x̃. There is no latent, so that the network
    can be the texture energy of Denoising-EBM but not the semantic one. Image sides are even and 4 or more.
    Source: NCSN, A.1.

    >>> r = RefineNetDenoiser(in_channels=1, width=4, levels=3)
    >>> x, sigma = torch.ones(3, 1, 8, 8), torch.tensor([1.0, 0.09, 0.01])
    >>> torch.equal(r(x, sigma), x), r.level(sigma)  # before training it returns its input
    (True, tensor([0, 1, 2]))

    Args:
        in_channels: Channels of the image.
        width: Channels at the full resolution, 2 or more; half the resolution, the lowest, has twice as many.
        levels: Number of noise levels, each with its own row in each norm: 128 in Denoising-EBM, 10 in NCSN.
        sigma_max: Greatest noise level.
        sigma_min: Smallest noise level, above 0.

    Raises:
        UserError: If a number is out of its range; if the sides of the images are odd or 2.
    """

    log_sigmas: Tensor

    def __init__(
        self,
        in_channels: int = 3,
        width: int = 128,
        levels: int = 128,
        sigma_max: float = 1.0,
        sigma_min: float = 0.01,
    ) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels)
        at_least(2, width=width, levels=levels)
        if not 0 < sigma_min < sigma_max:
            raise UserError(f"sigma_min: {sigma_min} must be above 0 and below sigma_max: {sigma_max}")
        logs = torch.linspace(math.log(sigma_max), math.log(sigma_min), levels)
        self.register_buffer("log_sigmas", logs, persistent=False)
        self.first = conv(in_channels, width)
        self.stages = nn.ModuleList(
            [
                stage(width, width, levels),
                stage(width, 2 * width, levels, down=True),
                stage(2 * width, 2 * width, levels, 2),
                stage(2 * width, 2 * width, levels, 4),
            ]
        )
        # From the last stage to the first, each with the output of the one before it.
        self.refines = nn.ModuleList(
            [
                Refine([2 * width], 2 * width, levels),
                Refine([2 * width, 2 * width], 2 * width, levels),
                Refine([2 * width, 2 * width], width, levels),
                Refine([width, width], width, levels, out_units=3),
            ]
        )
        self.norm = LevelNorm(width, levels)
        self.last = zeroed(conv(width, in_channels))

    def level(self, sigma: Tensor) -> Tensor:
        """Return i, `(B,)` int64 in 0 … `levels` − 1, with 0 for `sigma_max`."""
        return (sigma.log()[:, None] - self.log_sigmas).abs().argmin(1)

    def score(self, x: Tensor, level: Tensor) -> Tensor:
        """Return s(x, i) for images, `(B, C, H, W)`, and levels, `(B,)` int64: `(B, C, H, W)`, at least float32."""
        if x.shape[-2] % 2 or x.shape[-1] % 2 or min(x.shape[-2:]) < 4:
            raise UserError(f"The sides of the images must be even and 4 or more, not {x.shape[-2]}x{x.shape[-1]}")
        h = self.first(x)
        outputs = []
        for each in self.stages:
            h = each(h, level)
            outputs.append(h)
        refined: list[Tensor] = []
        for refine, output in zip(self.refines, reversed(outputs), strict=True):
            refined = [refine([output, *refined], level)]
        return at_least_fp32(self.last(F.elu(self.norm(refined[0], level))))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return at_least_fp32(x) + sigma.square()[:, None, None, None] * self.score(x, self.level(sigma))
