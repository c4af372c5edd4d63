"""Energies of the noise levels of a diffusion, and their recovery energies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebmzoo.energy import Energy
from ebmzoo.networks.base import LevelEnergyNet


@dataclass(frozen=True)
class AtLevel:
    """The energy E(y) = Σ_k w_k Ê(y, λ, c_k)/s² of one noise level, for one class or a weighted sum over classes.

    Source: CDRL, A.2 and Eq. 11, 13, 14. Shapes: `y` is `(B, *)`; the energy is `(B,)`. The k energies of an image are
    computed in one pass.

    Args:
        net: Ê, one network for all levels.
        time: The time t of each image's level, `(B,)`, from `NoiseSchedule.time`.
        unit: s², the variance of the Langevin noise at each image's level, `(B,)`.
        labels: The classes c_k of each image, `(B, k)` int64, or None for a network without classes.
        weights: w_k, one for each class.
    """

    net: LevelEnergyNet
    time: Tensor
    unit: Tensor
    labels: Tensor | None = None
    weights: tuple[float, ...] = (1.0,)

    def __call__(self, y: Tensor) -> Tensor:
        k = len(self.weights)
        if k == 1:
            label = None if self.labels is None else self.labels[:, 0]
            single: Tensor = self.weights[0] * self.net(y, self.time, label) / self.unit
            return single
        assert self.labels is not None
        each: Tensor = self.net(y.repeat_interleave(k, 0), self.time.repeat_interleave(k), self.labels.flatten())
        energies = each.view(-1, k) * each.new_tensor(self.weights)
        return energies.sum(1) / self.unit


@dataclass(frozen=True)
class Recovery:
    """The recovery energy E(y|x) = E(y) + |y − x|²/2σ² of a less noisy image y conditional on the noisier x.

    Source: DRL, Eq. 3; CDRL, Eq. 3. Shapes: `y` is `(B, *)`; the energy is `(B,)`.

    >>> energy = Recovery(lambda y: torch.zeros(len(y)), x=torch.zeros(1, 2), precision=torch.tensor([4.0]))
    >>> energy(torch.ones(1, 2))
    tensor([4.])

    Args:
        energy: E.
        x: The noisier images, `(B, *)`.
        precision: 1/σ², `(B,)`; 0 gives the marginal energy E(y).
    """

    energy: Energy
    x: Tensor
    precision: Tensor

    def __call__(self, y: Tensor) -> Tensor:
        return self.energy(y) + (y - self.x).square().flatten(1).sum(1) * self.precision / 2


def guided(labels: Tensor, guidance: float) -> tuple[Tensor, tuple[float, ...]]:
    """Return the classes and weights of `AtLevel` for classifier-free guidance:

        E = (1 + w) Σ_{k=1..M} E(·|c_k) − (M w + M − 1) E(·).

    Source: CDRL, Eq. 14; Eq. 11 for M = 1, Eq. 13 for w = 0.

    >>> guided(torch.tensor([[3]]), guidance=2.0)
    (tensor([[ 3, -1]]), (3.0, -2.0))

    Args:
        labels: c_k, `(n, M)` int64.
        guidance: w.

    Returns:
        The classes, `(n, M + 1)`, with −1 for no class, and their weights. The last is left out if its weight is 0.
    """
    m = labels.shape[1]
    conditional, unconditional = (1 + guidance,) * m, -(m * guidance + m - 1)
    if unconditional == 0:
        return labels, conditional
    return torch.cat([labels, labels.new_full((len(labels), 1), -1)], dim=1), (*conditional, unconditional)
