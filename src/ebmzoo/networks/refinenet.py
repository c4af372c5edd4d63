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
from ebmzoo.networks.unet import zeroed


class LevelNorm(nn.Module):
    """y_c = γ_c((x_c − μ_c)/s_c + α_c (μ_c − m)/v) + β_c: conditional instance norm++ (NCSN, A.1).

    μ_c and s_c are the mean and deviation of channel c over the pixels, m and v those of μ over the channels. γ and α,
    N(1, 0.02²) at first, and β, zero at first, are rows of a table; `level` is `(B,)` int64, the row of each image.
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
        # What is the same at all pixels is summed before it meets them.
        constant = shift + scale * mix * (means - mean) / (variance + 1e-5).sqrt()
        return scale[:, :, None, None] * F.instance_norm(x) + constant[:, :, None, None]  # type: ignore[no-any-return]


class Sequence(nn.Module):
    """One after another, layers that are told the level."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, level)
        return x


def conv(in_channels: int, out_channels: int, dilation: int = 1, *, kernel: int = 3, bias: bool = True) -> nn.Conv2d:
    """A convolution that keeps the size; the kernel is odd."""
    padding = dilation * (kernel // 2)
    return nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=bias)


class RefineNetResBlock(nn.Module):
    """y = pool(W₂ e(n₂(W₁ e(n₁(x))))) + S pool(x), e = ELU, with the 2×2 mean `pool` if `down`; S = 1 if not `enters`.

    S of a block that enters a stage is a dilated 3×3 convolution, and a 1×1 one if `down`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        levels: int,
        dilation: int = 1,
        *,
        enters: bool = False,
        down: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = LevelNorm(in_channels, levels), LevelNorm(in_channels, levels)
        self.conv1 = conv(in_channels, in_channels, dilation, bias=bias)
        self.conv2 = conv(in_channels, out_channels, dilation, bias=bias)
        self.pool = nn.AvgPool2d(2) if down else nn.Identity()
        self.shortcut: nn.Module = nn.Identity()
        if enters:
            self.shortcut = conv(in_channels, out_channels, dilation, kernel=1 if down else 3)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        h = self.conv1(F.elu(self.norm1(x, level)))
        h = self.conv2(F.elu(self.norm2(h, level)))
        return self.pool(h) + self.shortcut(self.pool(x))  # type: ignore[no-any-return]


def stage(in_channels: int, out_channels: int, levels: int, dilation: int = 1, *, down: bool = False) -> Sequence:
    """Two residual blocks, the first of which enters, but at the full resolution."""
    return Sequence(
        RefineNetResBlock(in_channels, out_channels, levels, dilation, enters=down or dilation > 1, down=down),
        RefineNetResBlock(out_channels, out_channels, levels, dilation),
    )


def units(channels: int, count: int, levels: int) -> Sequence:
    """Residual convolution units: residual blocks whose convolutions have no bias."""
    return Sequence(*(RefineNetResBlock(channels, channels, levels, bias=False) for _ in range(count)))


class ChainedPooling(nn.Module):
    """y = h₀ + h₁ + h₂ with h₀ = e(x), h_{i+1} = W_i pool(n_i(h_i)), where pool is the mean of 5×5 around a pixel."""

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
    """y = units(chained(Σ_i up(W_i n_i(units_i(x_i))))): inputs of any sizes to one of the first's.

    W, n and up are not there for a single input. up is bilinear, between the centres of the corner pixels.
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
    """r(x̃, σ) = x̃ + σ² s(x̃, i), s the RefineNet of NCSN (A.1), which is a score: Tweedie's formula.

    i is the nearest to σ, by their logarithms, of `levels` numbers in geometric sequence from `sigma_max` to
    `sigma_min`. The last convolution begins at zero, unlike NCSN's, and so r(x̃, σ) = x̃ at first. There is no latent:
    it can be the texture energy of Denoising-EBM, and not the semantic one. Image sides are even, 4 or more.

    Args:
        in_channels: Channels of the image.
        width: Channels at the full resolution; twice as many at the half, which is the lowest. 2 or more.
        levels: How many noise levels have their own row in each norm: 128 in Denoising-EBM, 10 in NCSN.
        sigma_max: The greatest.
        sigma_min: The smallest, above 0.

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
        # From the last stage to the first, each with what the one before it made.
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
        """i: `(B,)` to `(B,)` int64 in 0 … `levels` − 1, 0 being the greatest level's."""
        return (sigma.log()[:, None] - self.log_sigmas).abs().argmin(1)

    def score(self, x: Tensor, level: Tensor) -> Tensor:
        """s: `(B, C, H, W)` and `(B,)` int64 to `(B, C, H, W)`, at least float32."""
        if x.shape[-2] % 2 or x.shape[-1] % 2 or min(x.shape[-2:]) < 4:
            raise UserError(f"The sides of the images must be even and 4 or more, not {x.shape[-2]}x{x.shape[-1]}")
        h = self.first(x)
        outputs = []
        for each in self.stages:
            h = each(h, level)
            outputs.append(h)
        made: list[Tensor] = []
        for refine, output in zip(self.refines, reversed(outputs), strict=True):
            made = [refine([output, *made], level)]
        return at_least_fp32(self.last(F.elu(self.norm(made[0], level))))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return at_least_fp32(x) + sigma.square()[:, None, None, None] * self.score(x, self.level(sigma))
