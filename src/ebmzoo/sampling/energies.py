"""Energies composed of energies and networks; `Langevin` samples any of them.

One file because each energy is one equation of a few lines, and all of them combine with each other.
"""

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
    """The joint energy of an image and a latent on the unit sphere:

        E(x, z) = E(x) − γ cos(g_ψ(f(x)), z).

    The normalising constant of exp(γ cos(·, z)) over the sphere does not depend on x, hence
    ∫ exp(−E(x, z)) dz ∝ exp(−E(x)).
    Source: LIEBM (Eq. 5, 7) and CLEL (Eq. 10), with the sign of p ∝ exp(−E).
    Shapes: `x` is `(B, C, H, W)`, `z` is `(B, d)` or `(1, d)`; the energy is `(B,)`, fp32.

    >>> from ebmzoo.networks import LatentEnergy, PlaneFeatures
    >>> net = LatentEnergy(PlaneFeatures(width=4), latent=3, hidden=4)
    >>> joint = Joint(net, gamma=0.5)
    >>> x, z = torch.randn(5, 2, 1, 1), torch.randn(1, 3)
    >>> torch.allclose(joint(x, z) + joint(x, -z), 2 * net(x), atol=1e-5)
    True

    Args:
        net: The network with f, the marginal energy E(x) and g_ψ.
        gamma: γ, the weight of the agreement, 0 or more.
    """

    net: LatentEnergyNet
    gamma: float

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        f = self.net.features(x)
        return self.net.marginal(f) - self.gamma * agreement(self.net, f, z)


@dataclass(frozen=True)
class GivenLatent:
    """The conditional energy E(x | z) = E(x, z) + const. of images for fixed latents.

    Source: LIEBM (Eq. 9). Shapes: `x` is `(B, C, H, W)`; the energy is `(B,)`, fp32.

    >>> from ebmzoo.networks import LatentEnergy, PlaneFeatures
    >>> joint = Joint(LatentEnergy(PlaneFeatures(width=4), latent=3, hidden=4), gamma=0.5)
    >>> x, z = torch.randn(5, 2, 1, 1), torch.randn(1, 3)
    >>> torch.equal(GivenLatent(joint, z)(x), joint(x, z))
    True

    Args:
        joint: E(x, z).
        z: The latents, `(B, d)`, or `(1, d)` for one latent for all images.
    """

    joint: Joint
    z: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        # A latent created under inference mode cannot be saved for a backward pass; its copy can.
        return self.joint(x, self.z.clone() if self.z.is_inference() else self.z)


@dataclass(frozen=True)
class Composed:
    """The energy of images that agree with several latents: E(x | z₁, …, z_k) = E(x) − γ Σᵢ cos(g_ψ(f(x)), zᵢ).

    exp(−E) is the product of exp(γ cos(·, zᵢ)) over the latents with a single factor exp(−E(x)); with one latent it is
    `GivenLatent`. Source: CLEL (Eq. 15), whose |f|/2 must be the |f|²/2 of Eq. 10.
    Shapes: `x` is `(B, C, H, W)`; the energy is `(B,)`, fp32.

    Args:
        joint: E(x, z).
        z: The latents, `(B, k, d)`, or `(1, k, d)` for the same latents for all images.
    """

    joint: Joint
    z: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        net, f = self.joint.net, self.joint.net.features(x)
        z = self.z.clone() if self.z.is_inference() else self.z
        return net.marginal(f) - self.joint.gamma * cosine_similarity(net.project(f)[:, None], z, dim=2).sum(1)


@dataclass(frozen=True)
class Informed:
    """The energy E(x, h(x)) of an image with the encoder's own latent; the gradient also flows through h.

    Source: LIEBM (Eq. 10). Shapes: `x` is `(B, C, H, W)`; the energy is `(B,)`, fp32.

    >>> from ebmzoo.networks import LatentEnergy, PlaneFeatures
    >>> joint = Joint(LatentEnergy(PlaneFeatures(width=4), latent=2, hidden=4), gamma=0.5)
    >>> encoder = lambda x: torch.nn.functional.normalize(x.flatten(1), dim=1)
    >>> x = torch.randn(5, 2, 1, 1)
    >>> torch.equal(Informed(joint, encoder)(x), joint(x, encoder(x)))
    True

    Args:
        joint: E(x, z).
        encoder: h, images `(B, C, H, W)` to latents `(B, d)`.
    """

    joint: Joint
    encoder: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        return self.joint(x, self.encoder(x))


@dataclass(frozen=True)
class Product:
    """The energy of a product of densities: E(x) = Σᵢ wᵢ Eᵢ(x).

    Source: Du et al. (2020), Eq. 3. Shapes: `x` is `(B, *)`; the energy is `(B,)`.

    >>> square = lambda x: x.square().sum(1)
    >>> Product((square, square), weights=(1.0, 2.0))(torch.ones(1, 2))
    tensor([6.])

    Args:
        energies: E₁, E₂, ….
        weights: w₁, w₂, …, one for each energy; None means that all are 1.
    """

    energies: tuple[Energy, ...]
    weights: tuple[float, ...] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        weights = self.weights or (1.0,) * len(self.energies)
        total = x.new_zeros(len(x))
        for weight, energy in zip(weights, self.energies, strict=True):
            total = total + weight * energy(x)
        return total


def agreement(net: LatentEnergyNet, f: Tensor, z: Tensor) -> Tensor:
    """Return cos(g_ψ(f), z) in [-1, 1], `(B,)`: how well the energy's own latent agrees with the encoder's.

    Shapes: `f` is `(B, out_features)`, `z` is `(B, d)` or `(1, d)`.
    """
    return cosine_similarity(net.project(f), z, dim=1)


@dataclass(frozen=True)
class Tilted:
    """The energy E(x) + |x|²/2s² of the density exp(−E) times the reference density N(0, s²I).

    Source: Xie et al. (2018, CoopNets), Eq. 1. Shapes: `x` is `(B, *)`; the energy is `(B,)`.

    >>> Tilted(lambda x: torch.zeros(len(x)), std=2.0)(torch.full((1, 2), 2.0))
    tensor([1.])

    Args:
        energy: E.
        std: s, positive.
    """

    energy: Energy
    std: float

    def __call__(self, x: Tensor) -> Tensor:
        return self.energy(x) + x.square().flatten(1).sum(1) / (2 * self.std**2)


@dataclass(frozen=True)
class Tempered:
    """The energy E(x)/T, whose density exp(−E/T) is the stationary law of a chain at temperature T.

    Shapes: `x` is `(B, *)`; the energy is `(B,)`.

    Args:
        energy: E.
        temperature: T, positive.
    """

    energy: Energy
    temperature: float

    def __call__(self, x: Tensor) -> Tensor:
        return self.energy(x) / self.temperature


@dataclass(frozen=True)
class Hat:
    """The energy E(y, z) = E(G(z) + y) of a residual image y and a latent z.

    Source: Hill et al. (2022, Hat EBM). Shapes: `y` is `(B, C, H, W)`, `z` is `(B, latent)`; the energy is `(B,)`.

    Args:
        energy: E.
        generator: G, latents `(B, latent)` to images `(B, C, H, W)`.
    """

    energy: Energy
    generator: Callable[[Tensor], Tensor]

    def __call__(self, y: Tensor, z: Tensor) -> Tensor:
        return self.energy(self.generator(z) + y)


@dataclass(frozen=True)
class OfResidual:
    """The energy of the residual image in a `Hat` for a fixed latent: y to E(G(z) + y).

    Args:
        energy: E.
        image: G(z), `(B, C, H, W)`, computed once by the caller.
    """

    energy: Energy
    image: Tensor

    def __call__(self, y: Tensor) -> Tensor:
        return self.energy(self.image + y)


@dataclass(frozen=True)
class OfLatent:
    """The energy of the latent in a `Hat` for a fixed residual image: z to E(G(z) + y).

    Args:
        hat: E(y, z).
        y: The residual images, `(B, C, H, W)`.
    """

    hat: Hat
    y: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        return self.hat(self.y, z)


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


@dataclass(frozen=True)
class DenoisingError:
    """The denoising error U(x) = |x − r(x + σε, σ)|² / 2 max(σ, floor)² with ε ~ N(0, I), low where r restores x.

    Up to a constant it is −log N(x; r(x̃, σ), σ²I) at x̃ = x + σε. The gradient also flows through x̃.
    Source: Denoising-EBM, Eq. 7 (texture energy), where the text before it must read U ≈ −log q(x|x̃).
    Shapes: `x` is `(B, C, H, W)`; the energy is `(B,)`.

    Args:
        denoiser: r.
        sigma: σ, `(B,)`.
        floor: Lower limit of σ in the denominator; 0 is Eq. 7 itself.
        noise: A fixed ε that broadcasts to x; None draws a new one at each call.
        generator: Source of ε; None is torch's global generator.
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
    """The energy E(h(z)) of a latent through a decoder, without the Jacobian of h.

    Source: Denoising-EBM, Eq. 8 (semantic energy). Shapes: `z` is `(B, latent)`; the energy is `(B,)`.

    Args:
        energy: E.
        decoder: h, latents to images; it must not mix the latents of a batch.
    """

    energy: Energy
    decoder: Callable[[Tensor], Tensor]

    def __call__(self, z: Tensor) -> Tensor:
        return self.energy(self.decoder(z))


@dataclass(frozen=True)
class DenoisingPotential:
    """The energy E(x) = x·(x − r(x, σ))/2σ² of a denoiser.

    Its force −∇E is (r(x) − x)/σ² if r is linear and symmetric, r(x) = Kx with K = Kᵀ.
    Source: Romano, Elad & Milanfar (2017), Regularization by denoising, Eq. 4.
    Shapes: `x` is `(B, C, H, W)`; the energy is `(B,)`.

    Args:
        denoiser: r.
        sigma: σ, `(B,)`.
    """

    denoiser: Denoiser
    sigma: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        sigma = _saved(self.sigma)
        residual: Tensor = x - self.denoiser(x, sigma)
        return (x * residual).flatten(1).sum(1) / (2 * sigma.square())


@dataclass(frozen=True)
class OfScore:
    """−s(x)·x, with s(x) = (r(x, σ) − x)/σ² taken as a constant, so that its gradient is −s(x).

    With it `Langevin` follows a vector field that need not be a gradient; the value itself has no meaning.
    Source: Vincent (2011); Denoising-EBM, Eq. 2. Shapes: `x` is `(B, C, H, W)`; the value is `(B,)`.

    Args:
        denoiser: r.
        sigma: σ, `(B,)`.
    """

    denoiser: Denoiser
    sigma: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            score: Tensor = (self.denoiser(x, self.sigma) - x) / column(self.sigma, x).square()
        return -(score * x).flatten(1).sum(1)


@dataclass(frozen=True)
class Observed:
    """The posterior energy E(x) + |A x − y|²/2σ² of an image x with the measurement y = A x + σε.

    Source: LIEBM, Eq. 16 and 17, which compare A⁺A x with A⁺y. Shapes: `x` is `(B, *)`; the energy is `(B,)`.

    Args:
        energy: E.
        operator: A, any differentiable function from `(B, *)` to the shape of `y`.
        y: The measurement.
        sigma: σ, positive; infinity gives E alone.
    """

    energy: Energy
    operator: Callable[[Tensor], Tensor]
    y: Tensor
    sigma: float

    def __call__(self, x: Tensor) -> Tensor:
        residual = self.operator(x) - _saved(self.y)
        return self.energy(x) + residual.square().flatten(1).sum(1) / (2 * self.sigma**2)


def _saved(sigma: Tensor) -> Tensor:
    # A tensor created under inference mode cannot be saved for a backward pass; its copy can.
    return sigma.clone() if sigma.is_inference() else sigma
