"""BYOL (Grill et al., 2020): an encoder that predicts a slower copy of itself."""

from __future__ import annotations

import math
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebmzoo.energy import at_least_fp32
from ebmzoo.errors import UserError, at_least
from ebmzoo.networks.base import Encoder
from ebmzoo.ssrl.augment import Augment
from ebmzoo.ssrl.objective import Objective


def cosine_distance(z1: Tensor, z2: Tensor) -> Tensor:
    """Return mean_i (2 − 2 cos(z1_i, z2_i)), the squared distance on the unit sphere, in [0, 4]; z1, z2 are `(n, d)`.

    Source: Grill et al. (2020), Eq. 2. At least float32, also under autocast.
    """
    with torch.autocast(z1.device.type, enabled=False):
        return 2 - 2 * F.cosine_similarity(at_least_fp32(z1), at_least_fp32(z2), dim=1).mean()


def target_decay(start: float, progress: float) -> float:
    """Return τ = 1 − (1 − τ₀)(cos(πk/K) + 1)/2, from τ₀ at progress k/K = 0 to 1 at 1 (Grill et al., 2020, §3.3)."""
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2


class BYOL(Objective):
    """BYOL's loss L = d(q(h(v)), h'(v')) + d(q(h(v')), h'(v)), d = 2 − 2 cos, for two views v, v' of each image.

    q is the predictor; the target h' is initially a copy of h, receives no gradient, and after each step its parameters
    are θ' ← τθ' + (1 − τ)θ (Eq. 1). The two views are separate batches. q and d receive the encoder's output h(v), on
    the unit sphere after the last batch norm, in place of the head's raw output in Ermolov et al. There are no
    negatives: `negatives` is ignored.
    Source: Grill et al. (2020), Eq. 2, with the networks of Ermolov et al. (2021), as in LIEBM.

    Args:
        augment: Makes a view of each image; null for `ebmzoo.ssrl.Augment` with its defaults.
        hidden: Hidden units of the predictor.
        tau: τ₀, the initial decay of the target; it rises to 1 as a cosine.

    Raises:
        UserError: If `tau` is not in [0, 1].
    """

    target: Encoder
    predictor: nn.Sequential

    def __init__(self, augment: Augment | None = None, hidden: int = 1024, tau: float = 0.99) -> None:
        super().__init__()
        at_least(1, hidden=hidden)
        if not 0 <= tau <= 1:
            raise UserError(f"tau: {tau} must be between 0 and 1")
        self.augment = Augment() if augment is None else augment
        self.hidden = hidden
        self.tau = tau

    def attach(self, encoder: Encoder) -> None:
        self.target = deepcopy(encoder).requires_grad_(False)
        self.predictor = nn.Sequential(
            nn.Linear(encoder.latent, self.hidden),
            nn.BatchNorm1d(self.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(self.hidden, encoder.latent),
        )

    def forward(self, encoder: Encoder, images: Tensor, *, negatives: Tensor | None = None) -> Tensor:
        v1, v2 = self.augment(images), self.augment(images)
        p1, p2 = self.predictor(encoder(v1)), self.predictor(encoder(v2))
        with torch.no_grad():
            z1, z2 = self.target(v1), self.target(v2)
        return cosine_distance(p1, z2) + cosine_distance(p2, z1)

    @torch.no_grad()
    def after_step(self, encoder: Encoder, progress: float) -> None:
        tau = target_decay(self.tau, progress)
        for target, online in zip(self.target.parameters(), encoder.parameters(), strict=True):
            target.lerp_(online, 1 - tau)
