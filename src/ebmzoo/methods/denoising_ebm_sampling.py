"""The energies of Denoising-EBM, and its samples: a chain on latents, then one on images from what it decodes to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmzoo.energy import Energy
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import SampleStage
from ebmzoo.methods.families.denoiser_energy import linked
from ebmzoo.networks.base import Generator
from ebmzoo.networks.denoiser import Denoiser
from ebmzoo.networks.latent_moments import Affine
from ebmzoo.sampling.denoiser_energies import DenoisingError
from ebmzoo.sampling.energies import Tilted
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.latent_energies import OfDecoder
from ebmzoo.sampling.noise_schedule import GeometricNoise, geometric_sequence


@dataclass(frozen=True)
class DenoisingEBMSampling:
    """How samples are made; `paper` has the settings that §5 states, 35 and 100 steps for CIFAR-10, and nothing else.

    >>> DenoisingEBMSampling.paper().image_steps
    100

    Args:
        latent_steps: K, null for training's.
        image_steps: T, null for training's.
        sigma: each chain goes down in σ geometrically from the first to the second; null draws one σ from the set for
            each image, the same in both chains, as in training. The paper does not say.
        denoise: end with x ← r(x, σ), σ the last of the chain's.
    """

    latent_steps: int | None = None
    image_steps: int | None = None
    sigma: tuple[float, float] | None = (0.5, 0.05)
    denoise: bool = True

    def __post_init__(self) -> None:
        for key in ("latent_steps", "image_steps"):
            if (steps := getattr(self, key)) is not None and steps < 0:
                raise UserError(f"model.sampling.{key} is {steps}; it must be 0 or more")
        if self.sigma is not None and not self.sigma[0] >= self.sigma[1] > 0:
            raise UserError(f"model.sampling.sigma is {list(self.sigma)}; it must fall and stay above 0")

    @classmethod
    def paper(cls) -> DenoisingEBMSampling:
        """As printed for CIFAR-10."""
        return cls(latent_steps=35, image_steps=100, sigma=None, denoise=False)

    def steps_of(self, texture: Langevin | None, steps: int | None) -> int:
        """T of the chain on images, where `steps` are given or not.

        Raises:
            UserError: they are below 0, or given without a chain.
        """
        if steps is not None and steps < 0:
            raise UserError(f"steps is {steps}; it must be 0 or more")
        if texture is None:
            if steps:
                raise UserError(f"steps is {steps}, but model.texture is null: this model has no chain on images")
            return 0
        given = self.image_steps if steps is None else steps
        return texture.steps if given is None else given


@dataclass(frozen=True)
class Decoding:
    """u to h(z), z = μ + L u, or u itself without `latents`."""

    decoder: Generator
    latents: Affine | None

    def latent(self, u: Tensor) -> Tensor:
        """z `(B, latent)`."""
        return u if self.latents is None else self.latents(u)

    def __call__(self, u: Tensor) -> Tensor:
        return self.decoder(self.latent(u))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class TwoEnergies:
    """U_c(x, σ) = w(σ) |x − r(x + σε, σ)|², U_s(z, σ) = U_c(h(z), σ); w(σ) = 1/2 max(σ, `floor`)².

    Chains on latents move u of z = μ + L u (`LatentMoments`); without `latents` it is z, as the paper has it.
    Source: Denoising-EBM, Eq. 7 and 8. Shapes: σ is `(B,)`, and so are the energies.
    """

    denoiser: Denoiser
    decoder: Generator | None
    floor: float
    latents: Affine | None

    def of_images(self, sigma: Tensor, generator: torch.Generator | None = None) -> DenoisingError:
        """U_c(·, σ)."""
        return DenoisingError(self.denoiser, sigma, self.floor, generator=generator)

    def of_latents(self, sigma: Tensor) -> Energy:
        """U_s(·, σ) of z."""
        assert self.decoder is not None
        return OfDecoder(self.of_images(sigma), self.decoder)

    def of_chain(self, sigma: Tensor, prior: bool, generator: torch.Generator | None = None) -> Energy:
        """U_s(μ + L u, σ) of u, with |u|²/2 where there is a `prior`."""
        energy = OfDecoder(self.of_images(sigma, generator), self.decoding)
        return Tilted(energy, 1.0) if prior else energy

    @property
    def decoding(self) -> Decoding:
        assert self.decoder is not None
        return Decoding(self.decoder, self.latents)


@dataclass(frozen=True)
class TwoStage:
    """u⁰ ~ N(0, I), z^K by K steps on U_s; x⁰ = h(z^K), x^T by T steps on U_c; x^T or r(x^T, σ)   (Eq. 15 and 16).

    A step has its own σ where `sampling.sigma` falls; of all chains an image has one σ where it is null. A step on U_s
    is 2 network evaluations, of h and r; one on U_c, the decoding of z^K and the last denoising are 1 each.

    Args:
        energies: of the networks that samples are of.
        semantic: the chain on z, or None.
        texture: the chain on images, or None.
        noise: the set of σ.
        sampling: the numbers of steps, and σ.
        prior: of `TwoEnergies.of_chain`.
        shape: of an image, where the chain on images starts from noise.
    """

    energies: TwoEnergies
    semantic: Langevin | None
    texture: Langevin | None
    noise: GeometricNoise
    sampling: DenoisingEBMSampling
    prior: bool
    shape: tuple[int, int, int]

    def __call__(
        self,
        n: int,
        latent_steps: int | None,
        image_steps: int | None,
        keep: int,
        generator: torch.Generator | None,
    ) -> list[SampleStage]:
        """`SamplesInStages.stages`; errors as of `DenoisingEBM.stages`."""
        if self.semantic is None and latent_steps:
            raise UserError(
                f"latent_steps is {latent_steps}, but model.semantic is null: this model has no latent chain"
            )
        steps, sampling, done = self.sampling.steps_of(self.texture, image_steps), self.sampling, list[SampleStage]()
        drawn = self.noise.draw(n, generator) if sampling.sigma is None else None
        if self.semantic is None or latent_steps == 0:
            x, nfe = torch.randn(n, *self.shape, device=self.noise.sigma.device, generator=generator), 0
        else:
            chain = self.semantic.lasting(sampling.latent_steps if latent_steps is None else latent_steps)
            done.append(self._semantic(n, chain, drawn, keep, generator))
            x, nfe = done[-1].states[-1], done[-1].nfe[-1]
        if self.texture is None or steps == 0:
            return done or [SampleStage("texture", [x], [0])]
        sigmas, kept = self._sigmas(n, steps, drawn), spaced(steps, keep)
        states = [x for t, x in enumerate(self._images(x, self.texture, sigmas, generator)) if t in kept]
        done.append(SampleStage("texture", states, [nfe + t for t in kept]))
        if sampling.denoise:
            end = states[-1]
            denoised = self.energies.denoiser(end, sigmas[-1])
            done.append(SampleStage("denoised", [end, denoised], [nfe + steps, nfe + steps + 1]))
        return done

    def _semantic(
        self, n: int, chain: Langevin, drawn: Tensor | None, keep: int, generator: torch.Generator | None
    ) -> SampleStage:
        """h(z⁰), …, h(z^K)."""
        decoding = self.energies.decoding
        u = torch.randn(n, decoding.decoder.latent, device=self.noise.sigma.device, generator=generator)
        sigmas, kept = self._sigmas(n, chain.steps, drawn), spaced(chain.steps, keep)
        links = ((chain.lasting(1), self.energies.of_chain(sigma, self.prior, generator)) for sigma in sigmas)
        states = [decoding(u) for k, u in enumerate(linked(links, u, generator)) if k in kept]
        return SampleStage("semantic", states, [2 * k + 1 for k in kept])

    def _images(
        self, x: Tensor, chain: Langevin, sigmas: list[Tensor], generator: torch.Generator | None
    ) -> Iterator[Tensor]:
        """x⁰, …, x^T."""
        links = ((chain.lasting(1), self.energies.of_images(sigma, generator)) for sigma in sigmas)
        return linked(links, x, generator)

    def _sigmas(self, n: int, steps: int, drawn: Tensor | None) -> list[Tensor]:
        """σ of each step, each `(n,)`."""
        if self.sampling.sigma is None:
            assert drawn is not None
            return [drawn] * steps
        return [self.noise.sigma.new_full((n,), sigma) for sigma in geometric_sequence(*self.sampling.sigma, steps)]


def spaced(steps: int, keep: int) -> list[int]:
    """At most `keep` of the states 0 … `steps`, evenly spaced with both ends; 1 is the last alone."""
    if keep < 1:
        raise UserError(f"keep is {keep}; it must be 1 or more")
    if keep == 1:
        return [steps]
    return sorted({round(k * steps / (keep - 1)) for k in range(keep)})
