"""Denoising-EBM: a denoising autoencoder whose error is the energy, of images and of the latents of a decoder.

One file because it is one class: the two stages of training and the two chains of sampling share its networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast, final

import torch
import torch.distributed as dist
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Adam

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.matching import matching_flags
from ebmzoo.data.plane import PlaneData
from ebmzoo.energy import frozen
from ebmzoo.errors import UserError, at_least
from ebmzoo.methods.base.averaging import averaged
from ebmzoo.methods.base.capabilities import Encodes, SamplesInStages, SampleStage, StartsFromProposal
from ebmzoo.methods.base.log_values import LogValues, chain_log_values, contrast, energy_log_values, squared_error
from ebmzoo.methods.base.optimization import NetworkOptimizer, optimizers_of
from ebmzoo.methods.base.paper import Paper
from ebmzoo.methods.base.samples import ChainInfo, Samples
from ebmzoo.methods.denoising_ebm_sampling import DenoisingEBMSampling, TwoEnergies, TwoStage
from ebmzoo.methods.families.denoiser_energy import ScoresByDenoising, check_scoring, in_eval_mode
from ebmzoo.networks.base import Generator
from ebmzoo.networks.batch_norm_calibration import Calibration
from ebmzoo.networks.denoiser import Denoiser, DenoisingAutoEncoder
from ebmzoo.networks.latent_moments import Affine, LatentMoments
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.noise_schedule import GeometricNoise, column


@dataclass(frozen=True)
class DenoisingEBMLearning:
    """How the networks learn; `paper` is Algorithm 1 as printed, whose chains diverge (`sigma_floor`).

    Args:
        reconstructions: L, the steps of both reconstruction losses in an iteration (lines 2–6).
        weight: λ, of the steps by the energies (lines 14–18), which have no lower bound: on digits 0.1 outgrew the
            losses after some hundred iterations, and the decoder was lost.
        warmup: iterations of lines 2–6 alone, since chains descend the error of a denoiser that does not denoise yet.
        sigma_floor: σ below which w(σ) rises no more. Across the images' manifold the curvature of U is 2 w(σ), so a
            step size above σ² oscillates and above 2σ² diverges. A gradient step with w floored at σ₀ is the step of
            Eq. 7 with η scaled by σ²/σ₀² below σ₀.
        prior: add |u|²/2, of the chain's start N(0, I), to the semantic chain's energy; with a noise of less than
            √(2η) it draws all latents to their mean.
        moments: the latents' chain is one of u, z = μ + L u, with the mean and covariance of f(x̃, σ). Without it, as
            printed, it starts at z⁰ ~ N(0, I), where the latents of data are not and h has learnt nothing.
    """

    reconstructions: int = 3
    weight: float = 0.01
    warmup: int = 5000
    sigma_floor: float = 0.3
    prior: bool = False
    moments: bool = True

    def __post_init__(self) -> None:
        for key, least in {"reconstructions": 1, "weight": 0, "warmup": 0, "sigma_floor": 0}.items():
            if not getattr(self, key) >= least:
                raise UserError(f"model.learning.{key} is {getattr(self, key)}; it must be {least} or more")

    @classmethod
    def paper(cls) -> DenoisingEBMLearning:
        """Algorithm 1 as printed."""
        return cls(weight=1.0, warmup=0, sigma_floor=0.0, moments=False)


@final
class DenoisingEBM(ScoresByDenoising, Encodes, SamplesInStages, StartsFromProposal):
    """Two energies of one denoising auto-encoder r = g∘f: of images, and through a decoder h of latents.

    Paper: Weili Zeng: How to construct energy for images? Denoising autoencoder can be energy based model.
    Preprint 2023, arXiv:2303.03887.

    p(x) ∝ exp(−U_c(x)), U_c(x, σ) = w(σ) |x − r(x + σε, σ)|², and U_s(z, σ) = U_c(h(z), σ), w(σ) = 1/2σ² (Eq. 7, 8).
    An iteration (Alg. 1), with a σ for each image drawn from the set, and again for each of the L, is

        L times: x̃ = x + σε, L_h = mean |h(sg f(x̃, σ)) − x|², L_r = mean |r(x̃, σ) − x|²        (Eq. 13, 1)
        z⁰ = μ + L u, u ~ N(0, I), z^K by K Langevin steps on U_s                                   (Eq. 15)
        x^T by T Langevin steps on U_c from x⁰ = h(z^K)                                             (Eq. 16)
        L_s = λ mean (U_s(sg f(x̃, σ)) − U_s(z^K)), of h alone, and
        L_c = λ mean (U_c(x) − U_c(x^T)), of r alone                                                (Eq. 12, 14)

    The L steps go over the same images with other σ and ε, so that the chains are as many as the images of a batch.
    h's batch norms are in training mode in L_h, and have the running statistics, of f(x̃, σ), in both energies: there h
    is a function of one latent. In evaluation, where h is an average of weights that never had those statistics, they
    are of h(μ + L u). Text and Eq. 17 of the paper have signs of +log-density.

    NFE: a step on U_s is 2, of h and r; one on U_c, the decoding of z^K and the last denoising are 1 each.

    Args:
        **Networks**:
        denoiser: r.
        decoder: h. Null, with `semantic` null, leaves the semantic energy out: chains on images start at N(0, I).
        in_channels: The number of channels of an image.
        size: The side of an image, in pixels.

        **Chain**:
        semantic: The chain on z, K steps of η₁; noise null is √(2η₁), which outweighs U_s, whose latents of data and
            of noise are a few nats apart.
        texture: The chain on images, T steps of η₂ and τ. The printed τ = √(2η₂) makes images diverge, since
            exp(−U_c) of N(0, c²) data has the spread (c² + σ²)/σ ≥ 2c. Null leaves the texture energy out: samples
            are h(z^K).
        noise: The set of σ; null is the paper's.

        **Loss**:
        learning: How the networks learn.

        **Optimization**:
        denoiser_optimizer: The optimizer of r.
        decoder_optimizer: The optimizer of h.
        lr_schedule: The learning-rate schedule of both, stepped at each of their steps: L + 1 in an iteration, L in
            the warm-up.
        clip_norm: The limit of each network's gradient norm. One below the norms makes steps by the energies as long
            as those by reconstruction, whatever λ is.

        **Evaluation**:
        ema_decay: The decay of the averages that evaluation uses, which also move at each of these steps.
        sampling: How samples are made.
        energy_sigma: σ of E(x) = U_c(x, σ) in evaluation.
        ood_seeds: The number of ε over which the energy is averaged.

    Raises:
        UserError: arguments that contradict each other, or are out of their range.
    """

    paper = Paper(
        "How to construct energy for images? Denoising autoencoder can be energy based model",
        "Weili Zeng",
        year=2023,
        venue="Preprint",
        arxiv="2303.03887",
    )

    def __init__(
        self,
        denoiser: Denoiser,
        decoder: Generator | None,
        semantic: Langevin | None,
        texture: Langevin | None,
        # networks
        in_channels: int = 3,
        size: int = 32,
        # chain
        noise: GeometricNoise | None = None,
        # loss
        learning: DenoisingEBMLearning = DenoisingEBMLearning(),
        # optimization
        denoiser_optimizer: OptimizerCallable = Adam,
        decoder_optimizer: OptimizerCallable = Adam,
        lr_schedule: LRSchedulerCallable | None = None,
        clip_norm: float | None = None,
        # evaluation
        ema_decay: float = 0.999,
        sampling: DenoisingEBMSampling = DenoisingEBMSampling(),  # noqa: B008  (frozen)
        energy_sigma: float = 0.05,
        ood_seeds: int = 5,
    ) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, size=size)
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
        self.denoiser = denoiser
        self.decoder = decoder
        self.semantic = semantic
        self.texture = texture
        self.noise = noise or GeometricNoise()
        self.learning = learning
        self.sampling = sampling
        self.shape = (in_channels, size, size)
        self.energy_sigma = energy_sigma
        self.ood_seeds = ood_seeds
        self.sigma_floor = learning.sigma_floor
        self.optimizer_of = {"denoiser": denoiser_optimizer, "decoder": decoder_optimizer}
        self.lr_schedule = lr_schedule
        self.clip_norm = clip_norm
        self.averages = averaged(ema_decay, denoiser=denoiser, decoder=decoder)
        self.latents = LatentMoments(decoder.latent) if decoder is not None and learning.moments else None
        self._calibration = Calibration()

    def trained_networks(self) -> dict[str, NetworkOptimizer]:
        return optimizers_of(self, self.optimizer_of, self.lr_schedule, self.clip_norm)

    @property
    def phase(self) -> str:
        return "warm-up" if self.global_step < self.learning.warmup else "training"

    def check_data(self, data: ImageData | PlaneData) -> None:
        shape = (data.channels, data.size, data.size)
        shapes: dict[str, tuple[int, ...]] = {"in_channels and model.size": self.shape}
        if self.decoder is not None:
            with self.evaluating():
                z = torch.zeros(1, self.decoder.latent, device=self.device)
                shapes["decoder"] = tuple(self.decoder(z).shape[1:])
        for key, of in shapes.items():
            if of != shape:
                found = f"model.{key} make images of {of} (channels, height, width), but data has {shape}"
                raise UserError(found + matching_flags(data, self.section))
        with self._calibration.suspended():
            super().check_data(data)

    # ── training ────────────────────────────────────────────────────────────────────────────────────────────────────

    def iterate(self, images: Tensor, labels: Tensor) -> LogValues:
        for _ in range(self.learning.reconstructions):
            values = self._reconstruct(images)
        if self.global_step < self.learning.warmup:
            return values
        sigma = self.noise.draw(len(images))
        if self.decoder is None:
            x0 = torch.randn_like(images)
        else:
            values, x0 = self._train_decoder(images, sigma, values)
        if self.texture is not None:
            values |= self._train_denoiser(images, sigma, x0, self.texture)
        return values

    def _reconstruct(self, x: Tensor) -> LogValues:
        """One step of both reconstruction losses (lines 3–5)."""
        sigma, values = self.noise.draw(len(x)), {}
        noisy = x + column(sigma, x) * torch.randn_like(x)
        if self.decoder is None:
            restored = self.denoiser(noisy, sigma)
        else:
            restored, z = cast(DenoisingAutoEncoder, self.denoiser).both(noisy, sigma)
            self._update_moments(z.detach())
            loss = squared_error(self.decoder(z.detach()), x).mean()
            values = {"grad_norm_decoder": self.minimize(loss, "decoder"), "loss_decoder": loss.detach()}
        loss = squared_error(restored, x).mean()
        return values | {"grad_norm": self.minimize(loss, "denoiser"), "loss_denoising": loss.detach()}

    def _energies(self) -> TwoEnergies:
        """Of the weights being trained."""
        return TwoEnergies(self.denoiser, self.decoder, self.sigma_floor, self._map())

    def _map(self) -> Affine | None:
        return None if self.latents is None else self.latents.map()

    def _latent(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        with torch.no_grad():
            return cast(DenoisingAutoEncoder, self.denoiser).encode(noisy, sigma)

    def _update_moments(self, z: Tensor) -> None:
        """Take the latents of a batch, of all processes, into their moments."""
        if self.latents is None:
            return
        of_batch = self.latents.of_batch(z)
        if dist.is_available() and dist.is_initialized():
            for moment in of_batch:
                dist.all_reduce(moment)
                moment /= dist.get_world_size()
        self.latents.update(*of_batch)

    def _train_decoder(self, x: Tensor, sigma: Tensor, values: LogValues) -> tuple[LogValues, Tensor]:
        """The semantic chain (lines 7–9), h's step by L_s (lines 14, 15), and x⁰ of h before that step (line 10)."""
        assert self.decoder is not None and self.semantic is not None  # noqa: PT018
        energies = self._energies()
        with in_eval_mode(self.denoiser, self.decoder):
            u0 = torch.randn(len(x), self.decoder.latent, device=x.device)
            u = self.semantic(energies.of_chain(sigma, self.learning.prior), u0)
            with torch.no_grad():
                z = energies.decoding.latent(u)
                x0 = self.decoder(z)
            of_data = self._latent(x + column(sigma, x) * torch.randn_like(x), sigma)
            with frozen(self.denoiser):
                data, ends = contrast(energies.of_latents(sigma.repeat(2)), of_data, z)
        norm = self.minimize(self.learning.weight * (data - ends).mean(), "decoder")
        of_chain = energy_log_values(data, ends) | chain_log_values(self.semantic, u0, u) | {"grad_norm": norm}
        return values | {f"semantic_{key}": value for key, value in of_chain.items()}, x0

    def _train_denoiser(self, x: Tensor, sigma: Tensor, x0: Tensor, texture: Langevin) -> LogValues:
        """The texture chain (lines 11–13) and r's step by L_c (lines 16, 17)."""
        energies = self._energies()
        with in_eval_mode(self.denoiser):
            chain = texture(energies.of_images(sigma), x0)
        data, ends = contrast(energies.of_images(sigma.repeat(2)), x, chain)
        norm = self.minimize(self.learning.weight * (data - ends).mean(), "denoiser")
        return energy_log_values(data, ends) | chain_log_values(texture, x0, chain) | {"grad_norm": norm}

    # ── evaluation ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def can_propose(self) -> bool:
        return self.decoder is not None and self.texture is not None

    def representations(self) -> dict[str, Callable[[Tensor], Tensor]]:
        return {"autoencoder": self._encode} if isinstance(self.denoiser, DenoisingAutoEncoder) else {}

    def _encode(self, x: Tensor) -> Tensor:
        """f(x, σ) of images without noise, at the σ of the energy."""
        net = cast(DenoisingAutoEncoder, self.network("denoiser"))
        return net.encode(x, x.new_full(x.shape[:1], self.energy_sigma))

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
            UserError: Labels are given, steps are below 0, or given for a model without the texture chain.
        """
        self.refuse_labels(labels)
        info = self.chain_info(steps)
        stages = self.stages(n, image_steps=info.steps, keep=1, generator=generator)
        return info.samples(stages[-1].states[-1])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.shape

    def chain_info(self, steps: int | None = None) -> ChainInfo:
        steps = self.sampling.steps_of(self.texture, steps)
        latent_steps = self.sampling.latent_steps
        if self.semantic is None:
            latent_nfe = 0
        else:
            latent_nfe = 2 * (self.semantic.steps if latent_steps is None else latent_steps) + 1
            latent_nfe = 0 if latent_steps == 0 else latent_nfe
        denoised = self.sampling.denoise and self.texture is not None and steps > 0
        temperature = self.texture.temperature if self.texture is not None and steps else math.nan
        start = "noise" if self.decoder is None else "semantic"
        return ChainInfo(latent_nfe + steps + int(denoised), start, steps, temperature)

    def stages(
        self,
        n: int,
        *,
        latent_steps: int | None = None,
        image_steps: int | None = None,
        keep: int = 12,
        generator: torch.Generator | None = None,
    ) -> list[SampleStage]:
        """The stages `semantic`, `texture` and `denoised`, each where there is one; `denoised` is x^T and then r(x^T).

        Semantic states are decoded to be seen: `nfe` counts the decoding of a state, but of none before it.

        Raises:
            UserError: steps are given of a chain that the model does not have, or are below 0; `keep` is below 1.
        """
        with self.evaluating():
            return self._samples()(n, latent_steps, image_steps, keep, generator)

    def _samples(self) -> TwoStage:
        """Of the weights that evaluation uses."""
        r = cast(Denoiser, self.network("denoiser"))
        h, place = None if self.decoder is None else cast(Generator, self.network("decoder")), self._map()
        if h is not None and self.latents is not None:
            h = self._calibration(h, place, self.latents.buffers())
        energies, prior = TwoEnergies(r, h, self.sigma_floor, place), self.learning.prior
        return TwoStage(energies, self.semantic, self.texture, self.noise, self.sampling, prior, self.shape)
