"""SimCLR (Chen et al., 2020), and its loss with the further negatives of CLEL."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ebmzoo.errors import UserError
from ebmzoo.networks.base import Encoder
from ebmzoo.ssrl.augment import Augment
from ebmzoo.ssrl.objective import Objective


def nt_xent(z1: Tensor, z2: Tensor, *, temperature: float, negatives: Tensor | None = None) -> Tensor:
    """L = −mean_i log [exp(cos(z_i, z_i')/τ) / Σ_{k≠i} exp(cos(z_i, z_k)/τ)] over the 2n views i, i' being i's other.

    Chen et al. (2020), Equation 1; z1, z2 are `(n, d)`. The keys k are the other 2n − 1 views and `negatives` `(M, d)`,
    which get no gradient (CLEL; Lee et al., 2023, Equation 13). Computed in float32, also under autocast.
    """
    with torch.autocast(z1.device.type, enabled=False):
        z = F.normalize(torch.cat([z1, z2]).float(), dim=1)
        keys = z if negatives is None else torch.cat([z, F.normalize(negatives.detach().float(), dim=1)])
        views = torch.arange(len(z), device=z.device)
        logits = (z @ keys.mT / temperature).index_put((views, views), z.new_full((), -torch.inf))
        return F.cross_entropy(logits, views.roll(len(z1)))


class SimCLR(Objective):
    """Two augmented views of an image attract, all others repel: `nt_xent` of their representations.

    All 2n views go through the encoder as one batch, so batch norms see both views. Under DDP each rank contrasts
    its own batch.

    Args:
        augment: Makes a view of each image; `ebmzoo.ssrl.Augment` with its defaults where none is given.
        temperature: τ.

    Raises:
        UserError: If the temperature is not positive.
    """

    def __init__(self, augment: Augment | None = None, temperature: float = 0.5) -> None:
        super().__init__()
        if temperature <= 0:
            raise UserError(f"temperature: {temperature} must be positive")
        self.augment = Augment() if augment is None else augment
        self.temperature = temperature

    def forward(self, encoder: Encoder, images: Tensor, *, negatives: Tensor | None = None) -> Tensor:
        z1, z2 = encoder(torch.cat([self.augment(images), self.augment(images)])).chunk(2)
        return nt_xent(z1, z2, temperature=self.temperature, negatives=negatives)
