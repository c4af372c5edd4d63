"""Energies made of energies; `Langevin` samples any of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cosine_similarity

from ebmzoo.energy import Energy
from ebmzoo.networks.latent import LatentEnergy


@dataclass(frozen=True)
class Joint:
    """The energy of an image and a latent on the unit sphere.

    E(x, z) = E(x) − γ cos(g_ψ(f(x)), z).  Source: LIEBM (Eq. 5, 7) and CLEL (Eq. 9), in the sign of p ∝ exp(−E).

    The normalising constant of exp(γ cos(·, z)) over the sphere does not depend on x, hence
    ∫ exp(−E(x, z)) dz ∝ exp(−E(x)).
    Shapes: `x` is `(B, C, H, W)`, `z` is `(B, d)` or `(1, d)`; the energy is `(B,)`, fp32.
    """

    net: LatentEnergy
    gamma: float

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        f = self.net.features(x)
        return self.net.marginal(f) - self.gamma * agreement(self.net, f, z)


@dataclass(frozen=True)
class Given:
    """E(· | z) = E(·, z) with the latent held at `z`, which may be one for all images: `(1, d)`."""

    joint: Joint
    z: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        # A latent made under inference mode cannot be saved for a backward pass; its copy can.
        return self.joint(x, self.z.clone() if self.z.is_inference() else self.z)


@dataclass(frozen=True)
class Informed:
    """E(x, h(x)): the latent is the encoder's own, and its gradient flows through h. Source: LIEBM (Eq. 10)."""

    joint: Joint
    encoder: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        return self.joint(x, self.encoder(x))


@dataclass(frozen=True)
class Product:
    """The product of densities: E(x) = Σᵢ wᵢ Eᵢ(x), weights 1 unless given. Source: Du et al. 2020, Eq. 3."""

    energies: tuple[Energy, ...]
    weights: tuple[float, ...] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        weights = self.weights or (1.0,) * len(self.energies)
        total = x.new_zeros(len(x))
        for weight, energy in zip(weights, self.energies, strict=True):
            total = total + weight * energy(x)
        return total


def agreement(net: LatentEnergy, f: Tensor, z: Tensor) -> Tensor:
    """cos(g_ψ(f), z) in [-1, 1], `(B,)`: how well the energy's own latent agrees with the encoder's."""
    return cosine_similarity(net.project(f), z, dim=1)
