"""Denoising-EBM: a denoising auto-encoder whose error is the energy, of images and of the latents of a decoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast, final

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Adam

from ebmzoo.compose import DenoisingError, OfDecoder, Tilted
from ebmzoo.descent import Descent, each
from ebmzoo.energy import Energy, frozen
from ebmzoo.errors import UserError
from ebmzoo.langevin import Langevin
from ebmzoo.methods.averaging import averaged
from ebmzoo.methods.base import Samples
from ebmzoo.methods.capabilities import Encodes, Proposes, SamplesInStages, Stage
from ebmzoo.methods.denoising import ScoresByDenoising, check_scoring, falling, in_eval_mode, linked
from ebmzoo.methods.readings import Readings, chain_told, contrast, energies_told, squared_error
from ebmzoo.networks.base import Generator
from ebmzoo.networks.denoiser import Denoiser, DenoisingAutoEncoder
from ebmzoo.schedule import GeometricNoise, column


@dataclass(frozen=True)
class Learning:
    """How the networks learn; `paper` is Algorithm 1 as printed, whose chains diverge (`sigma_floor`).

    Args:
        reconstructions: L, the steps of both reconstruction losses in an iteration (lines 2–6).
        weight: λ, of the steps by the energies (lines 14–18), which only subtract and must not outgrow the losses.
        warmup: iterations of lines 2–6 alone, since chains descend the error of a denoiser that does not denoise yet.
        sigma_floor: σ below which w(σ) rises no more. Across the images' manifold the curvature of U is 2 w(σ), so a
            step size above σ² oscillates and above 2σ² diverges. A gradient step with w floored at σ₀ is the step of
            Eq. 7 with η scaled by σ²/σ₀² below σ₀.
        prior: add |z|²/2, of the chain's start N(0, I), to the semantic chain's energy.
    """

    reconstructions: int = 3
    weight: float = 0.1
    warmup: int = 5000
    sigma_floor: float = 0.3
    prior: bool = True

    def __post_init__(self) -> None:
        for key, least in {"reconstructions": 1, "weight": 0, "warmup": 0, "sigma_floor": 0}.items():
            if not getattr(self, key) >= least:
                raise UserError(f"model.learning.{key} is {getattr(self, key)}; it must be {least} or more")

    @classmethod
    def paper(cls) -> Learning:
        """Algorithm 1 as printed."""
        return cls(weight=1.0, warmup=0, sigma_floor=0.0, prior=False)


@dataclass(frozen=True)
class Sampling:
    """How samples are made; `paper` is what §5 tells, 35 and 100 steps for CIFAR-10, without what it does not.

    Args:
        latent_steps: K, null for training's.
        image_steps: T, null for training's.
        sigma: each chain goes down in σ geometrically from the first to the second; null draws one σ from the set for
            each image, as in training. The paper does not say.
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
    def paper(cls) -> Sampling:
        """As printed for CIFAR-10."""
        return cls(latent_steps=35, image_steps=100, sigma=None, denoise=False)


@final
class DenoisingEBM(ScoresByDenoising, Encodes, SamplesInStages, Proposes):
    """Two energies of one denoising auto-encoder r = g∘f: of images, and through a decoder h of latents.

    p(x) ∝ exp(−U_c(x)), U_c(x, σ) = w(σ) |x − r(x + σε, σ)|², and U_s(z, σ) = U_c(h(z), σ), w(σ) = 1/2σ² (Eq. 7, 8).
    An iteration (Alg. 1), with a σ for each image drawn from the set, and again for each of the L, is

        L times: x̃ = x + σε, L_h = mean |h(sg f(x̃, σ)) − x|², L_r = mean |r(x̃, σ) − x|²        (Eq. 13, 1)
        z⁰ ~ N(0, I), z^K by K Langevin steps on U_s                                                (Eq. 15)
        x^T by T Langevin steps on U_c from x⁰ = h(z^K)                                             (Eq. 16)
        L_s = λ mean (U_s(sg f(x̃, σ)) − U_s(z^K)), of h alone, and
        L_c = λ mean (U_c(x) − U_c(x^T)), of r alone                                                (Eq. 12, 14)

    The L steps go over the same images with other σ and ε, so that the chains are as many as the images of a batch.
    h's batch norms are in training mode in L_h, and have the running statistics, of f(x̃, σ), in both energies and in
    evaluation: there h is a function of one latent. Text and Eq. 17 of the paper have signs of +log-density.

    NFE: a step on U_s is 2, of h and r; one on U_c, the decoding of z^K and the last denoising are 1 each.

    Args:
        denoiser: r.
        decoder: h; null, with `semantic` null, leaves the semantic energy out: chains on images start at N(0, I).
        semantic: the chain on z, K steps of η₁; noise null is √(2η₁).
        texture: the chain on images, T steps of η₂ and τ. The printed τ = √(2η₂) blows images up, since exp(−U_c) of
            N(0, c²) data has the spread (c² + σ²)/σ ≥ 2c. Null leaves the texture energy out: samples are h(z^K).
        noise: the set of σ, null is the paper's.
        learning: how the networks learn.
        sampling: how samples are made.
        in_channels: channels of an image.
        size: side of an image.
        energy_sigma: σ of E(x) = U_c(x, σ) in evaluation.
        ood_seeds: over how many ε the energy is a mean.
        denoiser_optimizer: of r.
        decoder_optimizer: of h.
        lr_schedule: of both, stepped at each of their steps: L + 1 in an iteration, L in the warm-up.
        clip_norm: the limit of a network's gradient norm. One below the norms makes steps by the energies as long as
            those by reconstruction, whatever λ is.
        ema_decay: of the averages that evaluation uses, which also move at each of these steps.

    Raises:
        UserError: arguments that contradict each other, or are out of their range.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        decoder: Generator | None,
        semantic: Langevin | None,
        texture: Langevin | None,
        noise: GeometricNoise | None = None,
        learning: Learning = Learning(),
        sampling: Sampling = Sampling(),
        in_channels: int = 3,
        size: int = 32,
        energy_sigma: float = 0.05,
        ood_seeds: int = 5,
        denoiser_optimizer: OptimizerCallable = Adam,
        decoder_optimizer: OptimizerCallable = Adam,
        lr_schedule: LRSchedulerCallable | None = None,
        clip_norm: float | None = None,
        ema_decay: float = 0.999,
    ) -> None:
        super().__init__()
        check_scoring(energy_sigma, ood_seeds)
        if (decoder is None) != (semantic is None):
            raise UserError("model.decoder and model.semantic must both be given or both be null")
        if semantic is None and texture is None:
            raise UserError("model.semantic and model.texture are both null: one chain is needed to make samples")
        if decoder is not None and not isinstance(denoiser, DenoisingAutoEncoder):
            raise UserError(
                f"model.denoiser is a {type(denoiser).__name__}, without the latent that model.decoder needs"
            )
        if decoder is not None and isinstance(denoiser, DenoisingAutoEncoder) and decoder.latent != denoiser.latent:
            raise UserError(
                f"model.decoder has latents of dimension {decoder.latent} and model.denoiser of {denoiser.latent}: "
                "give both the same `latent`"
            )
        self.denoiser, self.decoder = denoiser, decoder
        self.semantic, self.texture = semantic, texture
        self.noise = noise or GeometricNoise()
        self.learning, self.sampling, self.shape = learning, sampling, (in_channels, size, size)
        self.energy_sigma, self.ood_seeds, self.sigma_floor = energy_sigma, ood_seeds, learning.sigma_floor
        self.optimizer_of = {"denoiser": denoiser_optimizer, "decoder": decoder_optimizer}
        self.lr_schedule, self.clip_norm = lr_schedule, clip_norm
        self.averages = averaged(ema_decay, denoiser=denoiser, decoder=decoder)

    def descents(self) -> dict[str, Descent]:
        return each(self, self.optimizer_of, self.lr_schedule, self.clip_norm)

    @property
    def phase(self) -> str:
        return "warm-up" if self.global_step < self.learning.warmup else "training"

    # ── training ────────────────────────────────────────────────────────────────────────────────────────────────────

    def iterate(self, images: Tensor, labels: Tensor) -> Readings:
        for _ in range(self.learning.reconstructions):
            readings = self._reconstruct(images)
        if self.global_step < self.learning.warmup:
            return readings
        sigma = self.noise.draw(len(images))
        if self.decoder is None:
            x0 = torch.randn_like(images)
        else:
            readings, x0 = self._teach_decoder(images, sigma, readings)
        if self.texture is not None:
            readings |= self._teach_denoiser(images, sigma, x0, self.texture)
        return readings

    def _reconstruct(self, x: Tensor) -> Readings:
        """One step of both reconstruction losses (lines 3–5)."""
        sigma, readings = self.noise.draw(len(x)), {}
        noisy = x + column(sigma, x) * torch.randn_like(x)
        if self.decoder is not None:
            loss = squared_error(self.decoder(self._latent(noisy, sigma)), x).mean()
            readings = {"grad_norm_decoder": self.descend(loss, "decoder"), "loss_decoder": loss.detach()}
        loss = squared_error(self.denoiser(noisy, sigma), x).mean()
        return readings | {"grad_norm": self.descend(loss, "denoiser"), "loss_denoising": loss.detach()}

    def _latent(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        with torch.no_grad():
            return cast(DenoisingAutoEncoder, self.denoiser).encode(noisy, sigma)

    def _teach_decoder(self, x: Tensor, sigma: Tensor, readings: Readings) -> tuple[Readings, Tensor]:
        """The semantic chain (lines 7–9), h's step by L_s (lines 14, 15), and x⁰ of h before that step (line 10)."""
        assert self.decoder is not None and self.semantic is not None  # noqa: PT018
        with in_eval_mode(self.denoiser, self.decoder):
            z0 = torch.randn(len(x), self.decoder.latent, device=x.device)
            z = self.semantic(self._of_latents(self.denoiser, self.decoder, sigma, self.learning.prior), z0)
            with torch.no_grad():
                x0 = self.decoder(z)
            of_data = self._latent(x + column(sigma, x) * torch.randn_like(x), sigma)
            with frozen(self.denoiser):
                both = self._of_latents(self.denoiser, self.decoder, sigma.repeat(2), prior=False)
                data, ends = contrast(both, of_data, z)
        norm = self.descend(self.learning.weight * (data - ends).mean(), "decoder")
        told = energies_told(data, ends) | chain_told(self.semantic, z0, z) | {"grad_norm": norm}
        return readings | {f"semantic_{key}": value for key, value in told.items()}, x0

    def _teach_denoiser(self, x: Tensor, sigma: Tensor, x0: Tensor, texture: Langevin) -> Readings:
        """The texture chain (lines 11–13) and r's step by L_c (lines 16, 17)."""
        with in_eval_mode(self.denoiser):
            chain = texture(self._of_images(self.denoiser, sigma), x0)
        data, ends = contrast(self._of_images(self.denoiser, sigma.repeat(2)), x, chain)
        norm = self.descend(self.learning.weight * (data - ends).mean(), "denoiser")
        return energies_told(data, ends) | chain_told(texture, x0, chain) | {"grad_norm": norm}

    def _of_images(self, denoiser: Denoiser, sigma: Tensor, generator: torch.Generator | None = None) -> DenoisingError:
        """U_c(·, σ)."""
        return DenoisingError(denoiser, sigma, self.sigma_floor, generator=generator)

    def _of_latents(
        self, denoiser: Denoiser, h: Generator, sigma: Tensor, prior: bool, generator: torch.Generator | None = None
    ) -> Energy:
        """U_s(·, σ), with |z|²/2 where there is a `prior`."""
        energy = OfDecoder(self._of_images(denoiser, sigma, generator), h)
        return Tilted(energy, 1.0) if prior else energy

    # ── evaluation ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def can_propose(self) -> bool:
        return self.decoder is not None and self.texture is not None

    def representations(self) -> dict[str, Callable[[Tensor], Tensor]]:
        return {"autoencoder": self._encode} if isinstance(self.denoiser, DenoisingAutoEncoder) else {}

    def _encode(self, x: Tensor) -> Tensor:
        """f(x, σ) of images as they are, told the σ of the energy."""
        net = cast(DenoisingAutoEncoder, self.network("denoiser"))
        return net.encode(x, x.new_full((len(x),), self.energy_sigma))

    def sample(
        self,
        n: int,
        *,
        labels: Tensor | None = None,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Samples:
        """Both chains, and the last denoising; `steps` are those on images, and 0 is the chains' start alone, h(z^K).

        Raises:
            UserError: labels are given, or steps on images of a model without the texture chain.
        """
        if labels is not None:
            raise UserError("DenoisingEBM is unconditional: sample takes no labels")
        steps = self._image_steps(steps)
        stages = self.stages(n, image_steps=steps, keep=1, generator=generator)
        temperature = self.texture.temperature if self.texture is not None and steps else math.nan
        start = "noise" if self.decoder is None else "semantic"
        return Samples(stages[-1].states[-1], stages[-1].nfe[-1], start, steps, temperature)

    def stages(
        self,
        n: int,
        *,
        latent_steps: int | None = None,
        image_steps: int | None = None,
        keep: int = 12,
        generator: torch.Generator | None = None,
    ) -> list[Stage]:
        """The stages `semantic`, `texture` and `denoised`, each where there is one; `denoised` is x^T and then r(x^T).

        Semantic states are decoded to be seen: `nfe` counts the decoding of a state, but of none before it.

        Raises:
            UserError: steps are given of a chain that the model does not have, or `keep` is not 1 or more.
        """
        if self.semantic is None and latent_steps:
            raise UserError(
                f"latent_steps is {latent_steps}, but model.semantic is null: this model has no latent chain"
            )
        made: list[Stage] = []
        with self.evaluating():
            if self.semantic is None or latent_steps == 0:
                x, nfe = torch.randn(n, *self.shape, device=self.device, generator=generator), 0
            else:
                chain = self.semantic.lasting(self.sampling.latent_steps if latent_steps is None else latent_steps)
                h = cast(Generator, self.network("decoder"))
                kept = _kept(chain.steps, keep)
                path = enumerate(self._latents(n, chain, h, generator))
                states = [h(z) for k, z in path if k in kept]
                made.append(Stage("semantic", states, [2 * k + 1 for k in kept]))
                x, nfe = states[-1], made[-1].nfe[-1]
            steps = self._image_steps(image_steps)
            if self.texture is None or steps == 0:
                return made or [Stage("texture", [x], [0])]
            sigmas = self._sigmas(n, steps, generator)
            kept = _kept(steps, keep)
            net, once = cast(Denoiser, self.network("denoiser")), self.texture.lasting(1)
            links = ((once, self._of_images(net, sigma, generator)) for sigma in sigmas)
            states = [x for t, x in enumerate(linked(links, x, generator)) if t in kept]
            made.append(Stage("texture", states, [nfe + t for t in kept]))
            if self.sampling.denoise:
                end = states[-1]
                made.append(Stage("denoised", [end, net(end, sigmas[-1])], [nfe + steps, nfe + steps + 1]))
        return made

    def _image_steps(self, steps: int | None) -> int:
        if self.texture is None:
            if steps:
                raise UserError(f"steps is {steps}, but model.texture is null: this model has no chain on images")
            return 0
        given = self.sampling.image_steps if steps is None else steps
        return self.texture.steps if given is None else given

    def _latents(self, n: int, chain: Langevin, h: Generator, generator: torch.Generator | None) -> Iterator[Tensor]:
        """z⁰ ~ N(0, I), …, z^K."""
        net = cast(Denoiser, self.network("denoiser"))
        z = torch.randn(n, h.latent, device=self.device, generator=generator)
        sigmas = self._sigmas(n, chain.steps, generator)
        prior = self.learning.prior
        links = ((chain.lasting(1), self._of_latents(net, h, sigma, prior, generator)) for sigma in sigmas)
        return linked(links, z, generator)

    def _sigmas(self, n: int, steps: int, generator: torch.Generator | None) -> list[Tensor]:
        """σ of each step, each `(n,)`."""
        if self.sampling.sigma is None:
            return [self.noise.draw(n, generator)] * steps
        return [torch.full((n,), sigma, device=self.device) for sigma in falling(*self.sampling.sigma, steps)]


def _kept(steps: int, keep: int) -> list[int]:
    """At most `keep` of the states 0 … `steps`, evenly spaced with both ends; 1 is the last alone."""
    if keep < 1:
        raise UserError(f"keep is {keep}; it must be 1 or more")
    if keep == 1:
        return [steps]
    return sorted({round(k * steps / (keep - 1)) for k in range(keep)})
