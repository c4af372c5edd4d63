"""The small vision transformer (ViT) that is trained by masked auto-encoding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebmzoo.energy import at_least_fp32
from ebmzoo.errors import UserError, at_least
from ebmzoo.networks.base import Encoder


def patchify(x: Tensor, patch: int) -> Tensor:
    """Return the patches of images, `(B, C, H, W)`, row by row: `(B, HW/patch², patch²·C)`."""
    n, c, h, w = x.shape
    tiles = x.reshape(n, c, h // patch, patch, w // patch, patch)
    return tiles.permute(0, 2, 4, 3, 5, 1).reshape(n, -1, patch * patch * c)


def unpatchify(patches: Tensor, patch: int, channels: int) -> Tensor:
    """Return the square images with these patches, the inverse of `patchify`: `(B, N, patch²·C)` to `(B, C, H, H)`."""
    n, count, _ = patches.shape
    side = round(count**0.5)
    tiles = patches.reshape(n, side, side, patch, patch, channels)
    return tiles.permute(0, 5, 1, 3, 2, 4).reshape(n, channels, side * patch, side * patch)


def pick(tokens: Tensor, index: Tensor) -> Tensor:
    """Return the tokens at `index`, `(B, K)`, of each image: `(B, N, width)` to `(B, K, width)`."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[2]))


def grid_positions(side: int, width: int) -> Tensor:
    """Return sines and cosines of each patch's row and column, `(side², width)`; `width` is a multiple of 4.

    ω_k = 10000^(−4k/width); the first half of the width encodes the row, the second the column.
    Source: He et al. (2022), A.1.
    """
    k = torch.arange(width // 4)
    angles = torch.arange(side)[:, None] * 10000.0 ** (-4 * k / width)
    line = torch.cat([angles.sin(), angles.cos()], 1)
    return torch.cat([line.repeat_interleave(side, 0), line.repeat(side, 1)], 1)


def transformer(width: int, depth: int, heads: int) -> nn.Sequential:
    """Return `depth` pre-norm blocks with hidden layers of 4·width and GELU, and a last norm; tokens `(B, N, width)`.

    Raises:
        UserError: If `width` is not a multiple of 4 and of `heads`, or `depth` is less than 1.
    """
    at_least(1, width=width, depth=depth, heads=heads)
    if width % heads or width % 4:
        raise UserError(f"width: {width} must be a multiple of 4 and of heads, {heads}")
    blocks = [
        nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        for _ in range(depth)
    ]
    return nn.Sequential(*blocks, nn.LayerNorm(width))


class ViTEncoder(Encoder):
    """The encoder h(x) = head(mean_i t_i) / ‖·‖, t being a ViT's tokens for the patches of ((x+1)/2 − mean)/std.

    Source: Dosovitskiy et al. (2021), with the fixed positions of He et al. (2022) and the mean over patches instead of
    a class token; the head is the 2-layer MLP of CLEL (appendix C).
    Shapes: images `(B, C, size, size)` to `(B, latent)`, float32.

    >>> h = ViTEncoder(1, size=8, width=8, depth=1, heads=2, latent=3, hidden=8, mean=None, std=None)
    >>> z = h(torch.randn(5, 1, 8, 8))
    >>> z.shape, torch.allclose(z.norm(dim=1), torch.ones(5))
    (torch.Size([5, 3]), True)

    Args:
        in_channels: Channels of the image.
        size: Side of the image.
        patch: Side of a patch.
        width: Dimension of a token, a multiple of 4 and of `heads`.
        depth: Number of blocks.
        heads: Attention heads of a block.
        latent: Dimension of the representation.
        hidden: Hidden units of the head.
        mean: Mean of each channel on [0, 1], which is subtracted from the image; null for 0.
        std: Standard deviation of each channel on [0, 1], by which the image is divided; null for 1.

    Raises:
        UserError: If `patch` does not divide `size`, if `heads` or 4 does not divide `width`, or if `mean` or `std`
            does not have one value for each channel; if images have another size.
    """

    mean: Tensor
    std: Tensor
    positions: Tensor

    def __init__(
        self,
        in_channels: int = 3,
        size: int = 32,
        patch: int = 4,
        width: int = 192,
        depth: int = 12,
        heads: int = 4,
        latent: int = 64,
        hidden: int = 1024,
        mean: tuple[float, ...] | None = (0.4914, 0.4822, 0.4465),
        std: tuple[float, ...] | None = (0.2023, 0.1994, 0.2010),
    ) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, size=size, width=width, latent=latent, hidden=hidden)
        if patch < 1 or size % patch:
            raise UserError(f"patch: {patch} must divide the size of the image, {size}")
        for name, values, neutral in (("mean", mean, 0.0), ("std", std, 1.0)):
            if values is not None and len(values) != in_channels:
                raise UserError(
                    f"{name}: {list(values)} must have one value for each of the {in_channels} channel(s), or be null"
                )
            tensor = torch.tensor([neutral] * in_channels if values is None else values)
            self.register_buffer(name, tensor.view(-1, 1, 1))
        self.in_channels, self.size, self.patch = in_channels, size, patch
        self.latent, self.feature_dim = latent, width
        self.side = size // patch
        self.patch_dim = in_channels * patch**2
        self.embed = nn.Linear(self.patch_dim, width)
        self.blocks = transformer(width, depth, heads)
        # Not saved in checkpoints, as it is a function of the sizes.
        self.register_buffer("positions", grid_positions(self.side, width), persistent=False)
        self.head = nn.Sequential(
            nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, latent)
        )

    def patches(self, x: Tensor) -> Tensor:
        """Return the patches `(B, side², patch_dim)` of ((x+1)/2 − mean)/std for images in [-1, 1]."""
        if x.shape[-2:] != (self.size, self.size):
            raise UserError(f"size: {self.size} must be that of the images, {x.shape[-2]}x{x.shape[-1]}")
        return patchify(((x + 1) / 2 - self.mean) / self.std, self.patch)

    def tokens(self, patches: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return the tokens of the patches, or only of those at `visible`, `(B, K)`: `(B, N or K, width)`."""
        t = self.embed(patches) + self.positions
        return self.blocks(t if visible is None else pick(t, visible))  # type: ignore[no-any-return]

    def features(self, x: Tensor) -> Tensor:
        return at_least_fp32(self.tokens(self.patches(x)).mean(1))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(at_least_fp32(self.head(self.features(x))), dim=1)
