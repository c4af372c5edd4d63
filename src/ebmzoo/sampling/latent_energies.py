"""Energies of images and latents: joint, conditional on one of them, and through a generator or a decoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cosine_similarity

from ebmzoo.energy import Energy, savable
from ebmzoo.networks.latent import LatentEnergyNet


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
        return self.joint(x, savable(self.z))


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
        cosines = cosine_similarity(net.project(f)[:, None], savable(self.z), dim=2)
        return net.marginal(f) - self.joint.gamma * cosines.sum(1)


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


def agreement(net: LatentEnergyNet, f: Tensor, z: Tensor) -> Tensor:
    """Return cos(g_ψ(f), z) in [-1, 1], `(B,)`: how well the energy's own latent agrees with the encoder's.

    Shapes: `f` is `(B, out_features)`, `z` is `(B, d)` or `(1, d)`.
    """
    return cosine_similarity(net.project(f), z, dim=1)


@dataclass(frozen=True)
class Hat:
    """The energy E(y, z) = E(G(z) + y) of a residual image y and a latent z.

    Source: Hill et al. (2022, Hat EBM). Shapes: `y` is `(B, C, H, W)`, `z` is `(B, latent)`; the energy is `(B,)`.

    >>> Hat(lambda x: x.sum(1), generator=lambda z: 3 * z)(y=torch.ones(1, 2), z=torch.ones(1, 2))
    tensor([8.])

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
