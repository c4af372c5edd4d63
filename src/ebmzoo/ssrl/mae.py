"""MAE (He et al., 2022) as CLEL uses it: masked auto-encoding of a ViT, then a contrastive head on the frozen ViT."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ebmzoo.energy import at_least_fp32
from ebmzoo.errors import UserError, at_least
from ebmzoo.networks.base import Encoder
from ebmzoo.networks.vit import ViTEncoder, grid_positions, pick, transformer
from ebmzoo.ssrl.objective import Objective
from ebmzoo.ssrl.simclr import nt_xent


def random_split(n: int, patches: int, hidden: int, *, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Split the patches of `n` images at random: visible ones, `(n, patches − hidden)`, and hidden, `(n, hidden)`."""
    order = torch.rand(n, patches, device=device).argsort(1)
    return order[:, : patches - hidden], order[:, patches - hidden :]


def masked_error(predicted: Tensor, patches: Tensor, hidden: Tensor) -> Tensor:
    """Return L = mean over hidden patches i of |x̂_i − (x_i − μ_i)/√(σ_i² + 10⁻⁶)|² / P, μ_i and σ_i² those of x_i.

    Source: He et al. (2022), §3 and §4.1 (normalised pixels). Shapes: `predicted` and `patches` are `(B, N, P)`, and
    `hidden` is `(B, K)`, indices of patches. At least float32, also under autocast.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        x = at_least_fp32(pick(patches, hidden))
        target = (x - x.mean(2, keepdim=True)) / (x.var(2, keepdim=True) + 1e-6).sqrt()
        return (at_least_fp32(pick(predicted, hidden)) - target).square().mean()


class Decoder(nn.Module):
    """The decoder: tokens of visible patches, `(B, K, in_width)`, to predictions of all, `(B, side², patch_dim)`."""

    positions: Tensor

    def __init__(self, in_width: int, side: int, patch_dim: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(in_width, width)
        self.mask = nn.Parameter(0.02 * torch.randn(width))
        self.register_buffer("positions", grid_positions(side, width), persistent=False)
        self.blocks = transformer(width, depth, heads)
        self.predict = nn.Linear(width, patch_dim)

    def forward(self, tokens: Tensor, visible: Tensor) -> Tensor:
        t = self.embed(tokens)
        everywhere = self.mask.to(t.dtype).expand(len(t), len(self.positions), -1)
        everywhere = everywhere.scatter(1, visible[..., None].expand_as(t), t)
        return self.predict(self.blocks(everywhere + self.positions))  # type: ignore[no-any-return]


class MAE(Objective):
    """Masked auto-encoding in two phases: `masked_error` for the ViT, then `nt_xent` for the head on the frozen ViT.

    In the second phase the decoder is not used, the ViT is frozen, and only the 2-layer head is trained contrastively
    *without data augmentations*, by CLEL's Eq. 13. Both views of an image are then the image itself, so that one pass
    suffices, the cosine of the positive pair is 1, and the loss spreads the images over the sphere. CLEL uses a public
    ViT checkpoint; here the first phase trains the ViT on the data set itself. `negatives` are used in the second phase
    only. The phase is part of the `state_dict`. Source: He et al. (2022); CLEL, appendix C.

    Args:
        mask_ratio: Fraction of the patches that are hidden.
        pretrain_fraction: Fraction of the training that the first phase takes.
        temperature: τ of the second phase; 0.2 is that of CLEL's code, as the paper has none.
        width: Dimension of the decoder's tokens, a multiple of 4 and of `heads`.
        depth: Number of the decoder's blocks.
        heads: Attention heads of the decoder's blocks.

    Raises:
        UserError: If a fraction is out of its range or leaves no patch visible or none hidden, if `heads` or 4 does not
            divide `width`, if the temperature is not positive, or if the encoder is not a `ViTEncoder`.
    """

    decoder: Decoder
    contrasting: Tensor

    def __init__(
        self,
        mask_ratio: float = 0.75,
        pretrain_fraction: float = 0.8,
        temperature: float = 0.2,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
    ) -> None:
        super().__init__()
        at_least(1, width=width, depth=depth, heads=heads)
        if not 0 < mask_ratio < 1:
            raise UserError(f"mask_ratio: {mask_ratio} must be above 0 and below 1")
        if not 0 <= pretrain_fraction <= 1:
            raise UserError(f"pretrain_fraction: {pretrain_fraction} must be between 0 and 1")
        if temperature <= 0:
            raise UserError(f"temperature: {temperature} must be positive")
        self.mask_ratio = mask_ratio
        self.pretrain_fraction = pretrain_fraction
        self.temperature = temperature
        self.width, self.depth, self.heads = width, depth, heads
        self.register_buffer("contrasting", torch.tensor(pretrain_fraction == 0))

    def attach(self, encoder: Encoder) -> None:
        encoder = _vit(encoder)
        if not 0 < self._hidden(encoder) < encoder.side**2:
            raise UserError(
                f"mask_ratio: {self.mask_ratio} of {encoder.side**2} patches must leave some visible and some hidden"
            )
        self.decoder = Decoder(encoder.feature_dim, encoder.side, encoder.patch_dim, self.width, self.depth, self.heads)

    def _hidden(self, encoder: ViTEncoder) -> int:
        return round(self.mask_ratio * encoder.side**2)

    def forward(self, encoder: Encoder, images: Tensor, *, negatives: Tensor | None = None) -> Tensor:
        encoder = _vit(encoder)
        if self.contrasting:
            with torch.no_grad():
                features = encoder.features(images)
            z = encoder.head(features)
            return nt_xent(z, z, temperature=self.temperature, negatives=negatives)
        patches = encoder.patches(images)
        visible, hidden = random_split(len(images), patches.shape[1], self._hidden(encoder), device=images.device)
        return masked_error(self.decoder(encoder.tokens(patches, visible), visible), patches, hidden)

    def after_step(self, encoder: Encoder, progress: float) -> None:
        self.contrasting.fill_(progress >= self.pretrain_fraction)


def _vit(encoder: Encoder) -> ViTEncoder:
    if not isinstance(encoder, ViTEncoder):
        raise UserError(
            f"encoder: MAE hides patches and needs ebmzoo.networks.ViTEncoder, not {type(encoder).__name__}"
        )
    return encoder
