"""The auto-encoder of latent diffusion models with a KL divergence that keeps the latents near N(0, I)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor, nn

from ebmzoo.data.images import to_float
from ebmzoo.energy import at_least_fp32
from ebmzoo.errors import UserError
from ebmzoo.networks.autoencoder.base import ImageCoder
from ebmzoo.networks.autoencoder.blocks import decoder, encoder

LEAST_LOGVAR, MOST_LOGVAR = -30.0, 20.0


@final
class KLAutoEncoder(ImageCoder):
    """An auto-encoder q(z|x) = N(μ(x), diag exp(logvar(x))), D(z): latents s μ(x), and images D(latents/s).

    s, the buffer `scale`, is 1 until `standardise` is called. Source: Rombach et al. (2022), §3.1 and G, "KL-reg."; the
    defaults are their f = 8 model with 83,653,863 parameters.

    >>> coder = KLAutoEncoder(in_channels=1, width=4, multiples=(1, 2), depth=1, latent=2)
    >>> latents = coder.encode(torch.zeros(5, 1, 8, 8))
    >>> latents.shape, coder.decode(latents).shape
    (torch.Size([5, 2, 4, 4]), torch.Size([5, 1, 8, 8]))

    Args:
        in_channels: Channels of an image.
        width: Channels of the first level, a multiple of 4.
        multiples: Factor of the width in each level; each level after the first halves the image.
        depth: Residual blocks in each level of the encoder; the decoder has one more.
        latent: Channels of the latents.

    Raises:
        UserError: If a number is out of its range.
    """

    scale: Tensor

    def __init__(
        self,
        in_channels: int = 3,
        width: int = 128,
        multiples: tuple[int, ...] = (1, 2, 4, 4),
        depth: int = 2,
        latent: int = 4,
    ) -> None:
        super().__init__()
        if width < 4 or width % 4:
            raise UserError(f"coder.width is {width}; it must be a multiple of 4, the channels of a group")
        if not multiples or min(multiples) < 1:
            raise UserError(f"coder.multiples is {list(multiples)}; it must be whole numbers such as [1, 2, 4, 4]")
        for key, value in {"in_channels": in_channels, "depth": depth, "latent": latent}.items():
            if value < 1:
                raise UserError(f"coder.{key} is {value}; it must be 1 or more")
        self.in_channels, self.latent, self.factor = in_channels, latent, 2 ** (len(multiples) - 1)
        inner = encoder(in_channels, width, multiples, depth, 2 * latent)
        self.encoder = nn.Sequential(*inner, nn.Conv2d(2 * latent, 2 * latent, 1))
        outer = decoder(in_channels, width, multiples, depth, latent)
        self.decoder = nn.Sequential(nn.Conv2d(latent, latent, 1), *outer)
        self.register_buffer("scale", torch.ones(()))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return μ and logvar of q(z|x), each `(B, c, h, w)`, not scaled by s; logvar is clamped to [-30, 20]."""
        self.shape(x.shape[1], x.shape[2])
        mu, logvar = at_least_fp32(self.encoder(x)).chunk(2, 1)
        return mu, logvar.clamp(LEAST_LOGVAR, MOST_LOGVAR)

    def render(self, z: Tensor) -> Tensor:
        """Return the images D(z) for z of `posterior`, `(B, c, h, w)`, not scaled by s."""
        return at_least_fp32(self.decoder(z))

    def encode(self, x: Tensor) -> Tensor:
        return self.scale * self.posterior(x)[0]

    def decode(self, latents: Tensor) -> Tensor:
        return self.render(latents / self.scale)

    def shape(self, channels: int, size: int) -> tuple[int, int, int]:
        if channels != self.in_channels:
            raise UserError(f"coder.in_channels is {self.in_channels}; it must be {channels}, the images' channels")
        if size % self.factor:
            raise UserError(f"coder.multiples make images {self.factor} times smaller, which must divide their {size}")
        return self.latent, size // self.factor, size // self.factor

    @torch.no_grad()
    def standardise(self, images: Tensor, batch_size: int) -> None:
        """Set s ← 1/std of μ(x) over all elements for `images`, `(N, C, H, W)` uint8, in batches of `batch_size`.

        LDM uses only the first batch of its second stage (Rombach et al., 2022, G).
        """
        parts = torch.split(images, batch_size)
        _, std = mean_and_std(self.posterior(to_float(part.to(self.scale.device)))[0] for part in parts)
        self.scale.copy_(1 / std)


def mean_and_std(parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation of all elements of `parts`, in double precision."""
    sums = [torch.stack([x.new_tensor(x.numel()), x.sum(), x.square().sum()]) for x in (p.double() for p in parts)]
    n, total, squares = torch.stack(sums).sum(0)
    return total / n, (squares / n - (total / n).square()).sqrt()
