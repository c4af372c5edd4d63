"""Denoisers r(x̃, σ), whose reconstruction error is the energy of Denoising-EBM, and a U-Net for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch.nn.functional as F
from torch import Tensor, nn

from ebmzoo.energy import at_least_fp32
from ebmzoo.errors import UserError
from ebmzoo.networks.unet import UNet


class Denoiser(nn.Module, ABC):
    """A denoiser r: images x̃ = x + σε, ε ~ N(0, I), to a prediction of x.

    Source: Denoising-EBM, §3.1.

    >>> class Wiener(Denoiser):  # E[x | x̃] for x ~ N(0, I)
    ...     def forward(self, x, sigma):
    ...         return x / (1 + sigma.square())[:, None, None, None]
    >>> Wiener()(torch.ones(1, 1, 1, 1), sigma=torch.ones(1)).item()
    0.5
    """

    @abstractmethod
    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return r(x̃, σ) for x̃, `(B, C, H, W)`, and σ > 0, `(B,)`: `(B, C, H, W)`, at least float32."""


class DenoisingAutoEncoder(Denoiser, ABC):
    """A denoiser r = g∘f whose bottleneck z = f(x̃, σ) is a latent.

    g may also receive x̃ through skip connections; it is then not a decoder of z alone (§4).
    Source: Denoising-EBM, §3.1.

    >>> class Mean(DenoisingAutoEncoder):
    ...     latent = 1
    ...     def encode(self, x, sigma):
    ...         return x.mean((1, 2, 3))[:, None]
    ...     def forward(self, x, sigma):
    ...         return self.encode(x, sigma)[:, :, None, None].expand_as(x)
    >>> restored, z = Mean().both(torch.ones(2, 1, 4, 4), sigma=torch.ones(2))
    >>> restored.shape, z.shape
    (torch.Size([2, 1, 4, 4]), torch.Size([2, 1]))
    """

    latent: int

    @abstractmethod
    def encode(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return z = f(x̃, σ) for x̃, `(B, C, H, W)`, and σ > 0, `(B,)`: `(B, latent)`, at least float32."""

    def both(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return r(x̃, σ) and f(x̃, σ); a network may compute both in the one pass of the first."""
        return self(x, sigma), self.encode(x, sigma)


def log_time(sigma: Tensor) -> Tensor:
    """Return the network's time t = 25 log σ, `(B,)`.

    The 128 levels of the paper, from σ = 1 to 0.01, are then 0.9 apart, close to the distance 1 of DDPM's steps.
    """
    return 25 * at_least_fp32(sigma).log()


@final
class UNetDenoiser(DenoisingAutoEncoder):
    """A U-Net with a bottleneck: r(x̃, σ) = x̃ + σ up(V z + c, skips, t), z = LN(W mid(down(x̃, t)) + b), t = 25 log σ.

    W acts on all features at the lowest resolution after the middle of the U-Net, and V z + c replaces them on the way
    up; the skip connections, including those at the lowest resolution, are the U-Net's own. LN, layer norm without
    parameters, puts z on the sphere |z|² = `latent`, near which N(0, I) concentrates, so that chains can start from it.
    The output of `up` is initially zero, and then r(x̃, σ) = x̃; multiplied by σ it predicts −ε, which like (x − r)/σ in
    the energy has the same scale at all σ.

    The default is for 32×32 images; 64×64: size 64, multiples 1 2 2 2 4, attention 2 3. The paper (§5) specifies only
    "ResNet, combined with U-net": the sizes, the place of the bottleneck and t are choices made here.

    >>> r = UNetDenoiser(1, size=8, latent=3, width=4, multiples=(1, 2), depth=1, attention=(), embedding=8, groups=2)
    >>> x, sigma = torch.ones(2, 1, 8, 8), torch.tensor([1.0, 0.1])
    >>> torch.equal(r(x, sigma), x), r.encode(x, sigma).shape  # before training it returns its input
    (True, torch.Size([2, 3]))

    Args:
        in_channels: Channels of the image.
        size: Side of the image; a multiple of 2^(len(multiples) − 1).
        latent: Dimension of z, 2 or more.
        width: Channels at the full resolution, and dimension of the sinusoids; even, 4 or more.
        multiples: Factor of the width at each resolution; each resolution is half the one before.
        depth: Residual blocks at a resolution on the way down; there is one more on the way up.
        attention: Resolutions with attention: 0 is the full one, 1 the half, …. The middle always has it.
        heads: Attention heads.
        embedding: Dimension of the time embedding, usually four times the width.
        dropout: Dropout probability in each residual block; above 0, energies in training are random.
        groups: Groups of the group norms; if they do not divide the channels, the greatest common divisor of both.

    Raises:
        UserError: If a number is out of its range; if images have other sides than `size`.
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
            zero_bias=True,
        )
        if size < 1 or size % self.unet.divisor:
            raise UserError(
                f"size: {size} must be a multiple of {self.unet.divisor}, for the {len(multiples)} resolutions of "
                "multiples"
            )
        if latent < 2:
            raise UserError(f"latent: {latent} must be 2 or more, as layer norm maps a single number to zero")
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
