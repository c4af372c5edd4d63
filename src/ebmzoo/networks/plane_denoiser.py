"""A denoiser of points of the plane, for the methods whose energy is a reconstruction error or a score."""

from __future__ import annotations

from typing import final

import torch.nn.functional as F
from torch import Tensor, nn

from ebmzoo.energy import at_least_fp32
from ebmzoo.errors import at_least
from ebmzoo.networks.denoiser import DenoisingAutoEncoder, log_time
from ebmzoo.networks.embedding import TimeEmbedding
from ebmzoo.networks.plane import PlaneBlock


@final
class PlaneDenoiser(DenoisingAutoEncoder):
    """A denoiser of points: r(x̃, σ) = x̃ + σ up(h + V z + c, t), z = LN(W h + b), h = down(x̃, t), t = 25 log σ.

    `down` and `up` are residual MLPs, and h the only skip connection between them: `UNetDenoiser` for one pixel. LN is
    layer norm without parameters; the last layer of `up` is initially zero, and then r(x̃, σ) = x̃.
    Shapes: `(B, in_features, 1, 1)` to the same shape.

    >>> net = PlaneDenoiser(latent=4, width=8)
    >>> net(torch.ones(1, 2, 1, 1), sigma=torch.ones(1)).flatten()
    tensor([1., 1.], grad_fn=<ViewBackward0>)

    Args:
        in_features: Dimension of the points.
        latent: Dimension of z; 2 or more.
        width: Hidden units; even, 4 or more.
        depth: Residual blocks of `down`, and of `up`.
        embedding: Dimension of the embedding of t.

    Raises:
        UserError: If the width is odd, or another number is less than is allowed.
    """

    def __init__(
        self, in_features: int = 2, latent: int = 8, width: int = 128, depth: int = 1, embedding: int = 64
    ) -> None:
        super().__init__()
        at_least(1, in_features=in_features, depth=depth, embedding=embedding)
        at_least(2, latent=latent)  # layer norm maps a single number to zero
        self.latent = latent
        self.embed = TimeEmbedding(width, embedding, 0, F.silu)
        self.first = nn.Linear(in_features, width)
        self.down = nn.ModuleList(PlaneBlock(width, embedding) for _ in range(depth))
        self.bottleneck, self.expand = nn.Linear(width, latent), nn.Linear(latent, width)
        self.up = nn.ModuleList(PlaneBlock(width, embedding) for _ in range(depth))
        self.last = nn.Linear(width, in_features)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def both(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        temb, h, z = self._down(x, sigma)
        h = h + self.expand(z)
        for block in self.up:
            h = block(h, temb)
        noise = at_least_fp32(self.last(F.silu(h))).reshape(x.shape)
        return at_least_fp32(x) + sigma[:, None, None, None] * noise, z

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.both(x, sigma)[0]

    def encode(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self._down(x, sigma)[2]

    def _down(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the embedding of t, h, and z."""
        temb = self.embed(log_time(sigma), None)
        h = self.first(x.flatten(1))
        for block in self.down:
            h = block(h, temb)
        return temb, h, F.layer_norm(at_least_fp32(self.bottleneck(F.silu(h))), (self.latent,))
