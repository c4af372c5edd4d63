"""SimCLR (Chen et al., 2020), and its loss with the additional negatives of CLEL."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ebmzoo.errors import UserError
from ebmzoo.networks.base import Encoder
from ebmzoo.ssrl.augment import Augment
from ebmzoo.ssrl.objective import Objective


def nt_xent(z1: Tensor, z2: Tensor, *, temperature: float, negatives: Tensor | None = None) -> Tensor:
    """Return L = −mean_i log [exp(cos(z_i, z_i')/τ) / Σ_{k≠i} exp(cos(z_i, z_k)/τ)] over the 2n views i.

    i' is the other view of the same image. The keys k are the other 2n − 1 views and the `negatives`, `(M, d)`, which
    receive no gradient. Computed in float32, also under autocast. Shapes: z1 and z2 are `(n, d)`.
    Source: Chen et al. (2020), Eq. 1; CLEL (Lee et al., 2023), Eq. 13, for the negatives.
    """
    with torch.autocast(z1.device.type, enabled=False):
        z = F.normalize(torch.cat([z1, z2]).float(), dim=1)
        keys = z if negatives is None else torch.cat([z, F.normalize(negatives.detach().float(), dim=1)])
        views = torch.arange(len(z), device=z.device)
        logits = (z @ keys.mT / temperature).index_put((views, views), z.new_full((), -torch.inf))
        return F.cross_entropy(logits, views.roll(len(z1)))


class SimCLR(Objective):
    """SimCLR's loss: `nt_xent` of the representations of two augmented views of each image.

    The encoder receives all 2n views as one batch, so that the statistics of batch norms include both views. Under DDP
    each rank contrasts its own batch. Source: Chen et al. (2020).

    Args:
        augment: Makes a view of each image; null for `ebmzoo.ssrl.Augment` with its defaults.
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
