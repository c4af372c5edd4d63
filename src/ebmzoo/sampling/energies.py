"""Energies made of energies; `Langevin` samples any of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ebmzoo.energy import Energy
from ebmzoo.networks.base import LevelEnergyNet
from ebmzoo.networks.denoiser import Denoiser
from ebmzoo.networks.latent import LatentEnergyNet
from ebmzoo.sampling.noise_schedule import column


@dataclass(frozen=True)
class Joint:
    """The energy of an image and a latent on the unit sphere.

    E(x, z) = E(x) − γ cos(g_ψ(f(x)), z).  Source: LIEBM (Eq. 5, 7) and CLEL (Eq. 10), in the sign of p ∝ exp(−E).

    The normalising constant of exp(γ cos(·, z)) over the sphere does not depend on x, hence
    ∫ exp(−E(x, z)) dz ∝ exp(−E(x)).
    Shapes: `x` is `(B, C, H, W)`, `z` is `(B, d)` or `(1, d)`; the energy is `(B,)`, fp32.
    """

    net: LatentEnergyNet
    gamma: float

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        f = self.net.features(x)
        return self.net.marginal(f) - self.gamma * agreement(self.net, f, z)


@dataclass(frozen=True)
class GivenLatent:
    """E(· | z) = E(·, z) with the latent held at `z`, which may be one for all images: `(1, d)`."""

    joint: Joint
    z: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        # A latent made under inference mode cannot be saved for a backward pass; its copy can.
        return self.joint(x, self.z.clone() if self.z.is_inference() else self.z)


@dataclass(frozen=True)
class Composed:
    """E(x) − γ Σₖ cos(g_ψ(f(x)), zₖ): the product of exp(γ cos(·, zₖ)) over k latents, and of exp(−E(x)) once.

    Source: CLEL (Eq. 15), whose |f|/2 must be the |f|²/2 of Eq. 10. With one latent it is `GivenLatent`.
    Shapes: `z` is `(B, k, d)`, or `(1, k, d)` for the same latents for all images.
    """

    joint: Joint
    z: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        net, f = self.joint.net, self.joint.net.features(x)
        z = self.z.clone() if self.z.is_inference() else self.z
        return net.marginal(f) - self.joint.gamma * cosine_similarity(net.project(f)[:, None], z, dim=2).sum(1)


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


def agreement(net: LatentEnergyNet, f: Tensor, z: Tensor) -> Tensor:
    """cos(g_ψ(f), z) in [-1, 1], `(B,)`: how well the energy's own latent agrees with the encoder's."""
    return cosine_similarity(net.project(f), z, dim=1)


@dataclass(frozen=True)
class Tilted:
    """E(x) + |x|²/2s²: the density exp(−E) times the reference N(0, s²I). Source: Xie et al. 2018 (CoopNets), Eq. 1."""

    energy: Energy
    std: float

    def __call__(self, x: Tensor) -> Tensor:
        return self.energy(x) + x.square().flatten(1).sum(1) / (2 * self.std**2)


@dataclass(frozen=True)
class Hat:
    """E(y, z) = E(G(z) + y): the energy of a residual image y and a latent z. Source: Hill et al. 2022 (Hat EBM).

    Shapes: `y` is `(B, C, H, W)`, `z` is `(B, latent)`; the energy is `(B,)`.
    """

    energy: Energy
    generator: Callable[[Tensor], Tensor]

    def __call__(self, y: Tensor, z: Tensor) -> Tensor:
        return self.energy(self.generator(z) + y)


@dataclass(frozen=True)
class OfResidual:
    """E(· | z) of a `Hat`: y to E(G(z) + y), with G(z) given as `image` so that it is made once."""

    energy: Energy
    image: Tensor

    def __call__(self, y: Tensor) -> Tensor:
        return self.energy(self.image + y)


@dataclass(frozen=True)
class OfLatent:
    """E(· | y) of a `Hat`: z to E(G(z) + y)."""

    hat: Hat
    y: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        return self.hat(self.y, z)


@dataclass(frozen=True)
class AtLevel:
    """E(y) = Σ_k w_k Ê(y, λ, c_k)/s²: one noise level of a sequence of energies, of one class or guided by several.

    The unit s² is the variance of the level's Langevin noise. Source: CDRL, A.2 and Eq. 11, 13, 14.
    Shapes: `time` and `unit` are `(B,)`, `labels` is `(B, k)` int64, or None for a network without classes; the
    energy is `(B,)`. The k energies of an image are of one pass.
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
            alone: Tensor = self.weights[0] * self.net(y, self.time, label) / self.unit
            return alone
        assert self.labels is not None
        each: Tensor = self.net(y.repeat_interleave(k, 0), self.time.repeat_interleave(k), self.labels.flatten())
        energies = each.view(-1, k) * each.new_tensor(self.weights)
        return energies.sum(1) / self.unit


@dataclass(frozen=True)
class Recovery:
    """E(y|x) = E(y) + |y − x|²/2σ²: the energy of a less noisy y given the noisier x. Source: DRL, Eq. 3; CDRL, Eq. 3.

    Shapes: `y` and `x` are `(B, *)`, `precision` is 1/σ², `(B,)`, 0 for the marginal energy; the result `(B,)`.
    """

    energy: Energy
    x: Tensor
    precision: Tensor

    def __call__(self, y: Tensor) -> Tensor:
        return self.energy(y) + (y - self.x).square().flatten(1).sum(1) * self.precision / 2


def guided(labels: Tensor, guidance: float) -> tuple[Tensor, tuple[float, ...]]:
    """The classes and weights of a composition with classifier-free guidance w: `(n, k)` to `(n, k + 1)`, −1 for none.

    E = (1 + w) Σ_{k=1..M} E(·|c_k) − (M w + M − 1) E(·)  (CDRL, Eq. 14; Eq. 11 for M = 1, Eq. 13 for w = 0). A weight
    of 0 is left out.
    """
    m = labels.shape[1]
    given, none = (1 + guidance,) * m, -(m * guidance + m - 1)
    if none == 0:
        return labels, given
    return torch.cat([labels, labels.new_full((len(labels), 1), -1)], dim=1), (*given, none)


@dataclass(frozen=True)
class DenoisingError:
    """U(x) = w(σ) |x − r(x + σε, σ)|², w(σ) = 1/2 max(σ, `floor`)², with ε ~ N(0, I) anew at each call, or a given one.

    It is −log of the density of x given x + σε under N(r, σ²I), but for a constant: low where r restores x.
    Source: Denoising-EBM, Eq. 7 (texture energy), before which U ≈ −log q(x|x̃) must be read. `floor` 0 is Eq. 7 itself.
    Shapes: `sigma` is `(B,)`, `noise` broadcasts to x; the energy is `(B,)`. The gradient flows through x + σε.
    """

    denoiser: Denoiser
    sigma: Tensor
    floor: float = 0.0
    noise: Tensor | None = None
    generator: torch.Generator | None = None

    def __call__(self, x: Tensor) -> Tensor:
        xi = self.noise
        if xi is None:
            xi = torch.randn(x.shape, device=x.device, dtype=x.dtype, generator=self.generator)
        sigma = _saved(self.sigma)
        error: Tensor = x - self.denoiser(x + column(sigma, x) * xi, sigma)
        return error.square().flatten(1).sum(1) / (2 * sigma.clamp_min(self.floor).square())


@dataclass(frozen=True)
class OfDecoder:
    """z to E(h(z)). Source: Denoising-EBM, Eq. 8 (semantic energy), without the Jacobian of h.

    Shapes: `z` is `(B, latent)`; the energy `(B,)`. h must not mix the latents of a batch.
    """

    energy: Energy
    decoder: Callable[[Tensor], Tensor]

    def __call__(self, z: Tensor) -> Tensor:
        return self.energy(self.decoder(z))


@dataclass(frozen=True)
class DenoisingPotential:
    """E(x) = x·(x − r(x, σ))/2σ²: an energy whose force −∇E is (r(x) − x)/σ² where r(x) = Kx, K = Kᵀ.

    Source: Romano, Elad & Milanfar 2017, Regularization by denoising, Eq. 4.
    """

    denoiser: Denoiser
    sigma: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        sigma = _saved(self.sigma)
        residual: Tensor = x - self.denoiser(x, sigma)
        return (x * residual).flatten(1).sum(1) / (2 * sigma.square())


@dataclass(frozen=True)
class OfScore:
    """−s(x)·x with s(x) = (r(x, σ) − x)/σ² held fixed: its gradient is −s, and its value means nothing.

    By it `Langevin` follows a field that need not be a gradient. Source: Vincent 2011; Denoising-EBM, Eq. 2.
    """

    denoiser: Denoiser
    sigma: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            score: Tensor = (self.denoiser(x, self.sigma) - x) / column(self.sigma, x).square()
        return -(score * x).flatten(1).sum(1)


@dataclass(frozen=True)
class Observed:
    """E(x) + |A x − y|²/2σ²: the energy of what is measured as y = A x + σε; with σ = ∞ it is E alone.

    Source: LIEBM, Eq. 16 and 17, which measure A⁺A x against A⁺y.
    Shapes: `x` is `(B, *)` and A x of the shape of `y`; the energy is `(B,)`. A may be any differentiable function.
    """

    energy: Energy
    operator: Callable[[Tensor], Tensor]
    y: Tensor
    sigma: float

    def __call__(self, x: Tensor) -> Tensor:
        residual = self.operator(x) - _saved(self.y)
        return self.energy(x) + residual.square().flatten(1).sum(1) / (2 * self.sigma**2)


def _saved(sigma: Tensor) -> Tensor:
    # A tensor made under inference mode cannot be saved for a backward pass; its copy can.
    return sigma.clone() if sigma.is_inference() else sigma
