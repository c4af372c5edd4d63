"""Denoisers r(x̃, σ), whose reconstruction error is the energy of Denoising-EBM, and the U-Net that it proposes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch.nn.functional as F
from torch import Tensor, nn

from ebmzoo.energy import at_least_fp32
from ebmzoo.errors import UserError
from ebmzoo.networks.unet import UNet


class Denoiser(nn.Module, ABC):
    """r: images x̃ = x + σε, ε ~ N(0, I), to a prediction of x (Denoising-EBM, §3.1)."""

    @abstractmethod
    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """r(x̃, σ): `(B, C, H, W)` and `(B,)`, each σ > 0, to `(B, C, H, W)`, at least float32."""


class DenoisingAutoEncoder(Denoiser, ABC):
    """r = g∘f, where the bottleneck z = f(x̃, σ) is a latent (Denoising-EBM, §3.1).

    g may see more of x̃ than z, by skip connections, and then is no decoder of z alone (§4).
    """

    latent: int

    @abstractmethod
    def encode(self, x: Tensor, sigma: Tensor) -> Tensor:
        """z = f(x̃, σ): `(B, C, H, W)` and `(B,)`, each σ > 0, to `(B, latent)`, at least float32."""

    def both(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """r(x̃, σ) and f(x̃, σ), which a network may give at the price of the first."""
        return self(x, sigma), self.encode(x, sigma)


def log_time(sigma: Tensor) -> Tensor:
    """t = 25 log σ, `(B,)`: the 128 levels of the paper, from 1 to 0.01, are 0.9 apart, where those of DDPM are 1."""
    return 25 * at_least_fp32(sigma).log()


@final
class UNetDenoiser(DenoisingAutoEncoder):
    """r(x̃, σ) = x̃ + σ up(V z + c, skips, t), z = LN(W mid(down(x̃, t)) + b), t = 25 log σ: a U-Net with a bottleneck.

    W takes all features at the lowest resolution after the middle of the U-Net, and V z + c goes up in their place;
    the skips, those at the lowest resolution too, are the U-Net's own. LN, layer norm without parameters, puts z on
    the sphere |z|² = `latent`, close to which N(0, I) is: chains can start there. up is zero at first, and so
    r(x̃, σ) = x̃; it is multiplied by σ to predict −ε, which has one scale at all σ, as (x − r)/σ of the energy then has.

    The default is for 32×32 images; 64×64: size 64, multiples 1 2 2 2 4, attention 2 3. The paper (§5) says no more
    than "ResNet, combined with U-net": the sizes, the place of the bottleneck and t are choices made here.

    Args:
        in_channels: Channels of the image.
        size: Side of the image; a multiple of 2^(len(multiples) − 1).
        latent: Dimension of z, 2 or more.
        width: Channels at the full resolution, and dimension of the sinusoids; even, 4 or more.
        multiples: What the width is multiplied by at each resolution; each is half the one before.
        depth: Residual blocks at a resolution on the way down; there is one more on the way up.
        attention: At which resolutions there is attention: 0 is the full one, 1 the half, …; always in the middle.
        heads: Attention heads.
        embedding: Dimension of the time embedding, usually four times the width.
        dropout: Probability in each residual block; above 0, energies in training are not the same at each call.
        groups: Of the group norms; where they do not divide the channels, the greatest number that divides both.

    Raises:
        UserError: If `size` or `latent` is not such a number, or the U-Net refuses one; if images have other sides.
    """

    def __init__(
        self,
        in_channels: int = 3,
        size: int = 32,
        latent: int = 128,
        width: int = 64,
        multiples: tuple[int, ...] = (1, 2, 2, 2),
        depth: int = 2,
        attention: tuple[int, ...] = (1, 2),
        heads: int = 1,
        embedding: int = 256,
        dropout: float = 0.0,
        groups: int = 32,
    ) -> None:
        super().__init__()
        self.unet = UNet(
            in_channels,
            width=width,
            multiples=multiples,
            depth=depth,
            attention=attention,
            heads=heads,
            embedding=embedding,
            dropout=dropout,
            groups=groups,
        )
        if size < 1 or size % self.unet.divisor:
            raise UserError(
                f"size: {size} must be a multiple of {self.unet.divisor}, for the {len(multiples)} resolutions of "
                "multiples"
            )
        if latent < 2:
            raise UserError(f"latent: {latent} must be 2 or more, for layer norm makes a single number zero")
        self.size, self.latent = size, latent
        side = size // self.unet.divisor
        self.features = (width * multiples[-1], side, side)
        flat = width * multiples[-1] * side**2
        self.squeeze = nn.Linear(flat, latent)
        self.expand = nn.Linear(latent, flat)

    def _down(self, x: Tensor, temb: Tensor) -> tuple[Tensor, list[Tensor]]:
        if x.shape[-2:] != (self.size, self.size):
            raise UserError(f"size: {self.size} is not the side of the images, which are {x.shape[-2]}x{x.shape[-1]}")
        h, skips = self.unet.encode(x, temb)
        return F.layer_norm(at_least_fp32(self.squeeze(h.flatten(1))), (self.latent,)), skips

    def encode(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self._down(x, self.unet.embed(log_time(sigma)))[0]

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.both(x, sigma)[0]

    def both(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        temb = self.unet.embed(log_time(sigma))
        z, skips = self._down(x, temb)
        h = self.expand(z).unflatten(1, self.features)
        return at_least_fp32(x) + sigma[:, None, None, None] * self.unet.decode(h, skips, temb), z
