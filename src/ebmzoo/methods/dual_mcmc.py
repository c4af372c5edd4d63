"""Dual-MCMC teaching: an energy, a generator and an inference network that learn from two MCMC revisions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast, final

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Adam

from ebmzoo.data.image_range import ImageRange
from ebmzoo.energy import Energy, EnergyNet
from ebmzoo.errors import UserError, at_least
from ebmzoo.methods.base.averaging import averaged
from ebmzoo.methods.base.capabilities import DecodesGaussian, Encodes, EvaluatesAsPaper, Evaluation
from ebmzoo.methods.base.log_values import LogValues, chain_log_values, contrast, energy_log_values, squared_error
from ebmzoo.methods.base.optimization import NetworkOptimizer, optimizers_of
from ebmzoo.methods.base.paper import Paper
from ebmzoo.methods.families.generator_chain import ChainFromGenerator, check_latents
from ebmzoo.networks import gaussian
from ebmzoo.networks.base import Generator, InferenceNet
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.posterior import PosteriorSampler


@dataclass(frozen=True)
class DualMCMCLosses:
    """The weights of the three losses, and the energy's negatives; the defaults are the equations as printed.

    L_G = w_x |x − G(z̃)|² + w_m |x̃ − G(m)|²,  L_q = −log q(z̃|x) − w_q log q(m|x̃),  L_E = mean E(x) − mean E(x̃).
    Source: Dual-MCMC, Eq. 7, 10 and 15; `official` is the authors' code.

    Args:
        data_weight: w_x. None is 1/2σ², of the likelihood p(x|z) = N(G(z), σ²I).
        chain_weight: w_m. None is 1/2σ².
        latent_weight: w_q.
        resample: draw x̃ anew, from the generator just updated, before the energy's step.
        by_temperature: divide L_E by T = τ²/2η, since the chain's law is exp(−E/T).
        noise_negatives: ρ. Of B images, ⌈ρB⌉ chains more, from uniform noise, are among the negatives x̃ of L_E: without
            them E meets only images like those of G. Not of the paper, where ρ is 0.
    """

    data_weight: float | None = None
    chain_weight: float | None = None
    latent_weight: float = 1.0
    resample: bool = False
    by_temperature: bool = False
    noise_negatives: float = 0.0

    def __post_init__(self) -> None:
        at_least(0, data_weight=self.data_weight, chain_weight=self.chain_weight, latent_weight=self.latent_weight)
        at_least(0, noise_negatives=self.noise_negatives)

    @classmethod
    def official(cls, chain_weight: float = 50.0) -> DualMCMCLosses:
        """The authors' code: 1 and 50 (CIFAR-10) or 70 (CelebA), 0.1, drawn anew, divided by T.

        Its latent chain also lacks a ½: `PosteriorSampler(legacy_sigma=True)`.
        """
        return cls(1.0, chain_weight, 0.1, resample=True, by_temperature=True)


@final
class DualMCMC(ChainFromGenerator, DecodesGaussian, Encodes, EvaluatesAsPaper):
    """An energy E, a generator G and an inference network q, each of which learns from the revised joint densities.

    Paper: Jiali Cui, Tian Han: Learning energy-based model via dual-MCMC teaching. NeurIPS 2023, arXiv:2312.02469.

    p(x) ∝ exp(−E(x)), z ~ N(0, I), x|z ~ N(G(z), σ²I), q(z|x) = N(μ(x), V(x)). An iteration is

        m ~ N(0, I), x̃ by K_x Langevin steps on E from G(m)                                     (Eq. 3)
        z₀ ~ q(z|x), z̃ by K_z Langevin steps on p(z|x) ∝ p(x|z) p(z) from z₀                       (Eq. 6)
        L_G = w_x |x − G(z̃)|² + w_m |x̃ − G(m)|²                                                (Eq. 10)
        L_q = −log q(z̃|x) − w_q log q(m|x̃)                                                     (Eq. 15)
        L_E = mean E(x) − mean E(x̃)                                                              (Eq. 7)

    G's batch norms are in training mode throughout, in the latent chain too, as in the authors' code.

    Args:
        **Networks**:
        energy_net: E, the paper's −f.
        generator: G.
        inference: q. Without it the latent chain starts from N(0, I) (the paper's Table 4, `L=10` and `L=30`).

        **Chain**:
        sampler: The chain on images, in units of [-1, 1].
        posterior: The chain on latents, with σ.

        **Loss**:
        teaching: The weights of the losses.

        **Optimization**:
        energy_optimizer: The optimizer of E.
        generator_optimizer: The optimizer of G.
        inference_optimizer: The optimizer of q.
        lr_schedule: The learning-rate schedule of all three, stepped once an iteration; the authors' is ×0.998 an
            epoch.
        clip_norm: The limit of each network's gradient norm; the authors use none.

        **Evaluation**:
        ema_decay: The decay of the averages that evaluation uses; the authors use none, which is 0.
        evaluation: `paper` draws samples as the released script does, with G's batch norms in training mode and 70
            steps of η = 0.4²/2 and τ = 0.001; `library` with G's estimated statistics and the chain of training.

    Raises:
        UserError: `teaching.by_temperature` with a sampler of temperature zero, or q of other latents than G.
    """

    paper = Paper(
        "Learning energy-based model via dual-MCMC teaching",
        "Jiali Cui, Tian Han",
        year=2023,
        venue="NeurIPS",
        arxiv="2312.02469",
    )

    def __init__(
        self,
        energy_net: EnergyNet,
        generator: Generator,
        sampler: Langevin,
        # networks
        inference: InferenceNet | None = None,
        # chain
        posterior: PosteriorSampler = PosteriorSampler(),  # noqa: B008  (frozen)
        # loss
        teaching: DualMCMCLosses = DualMCMCLosses(),
        # optimization
        energy_optimizer: OptimizerCallable = Adam,
        generator_optimizer: OptimizerCallable = Adam,
        inference_optimizer: OptimizerCallable = Adam,
        lr_schedule: LRSchedulerCallable | None = None,
        clip_norm: float | None = None,
        # evaluation
        ema_decay: float = 0.0,
        evaluation: Evaluation = "library",
    ) -> None:
        super().__init__()
        check_latents(generator, inference)
        if teaching.by_temperature and not sampler.temperature > 0:
            raise UserError(
                f"model.teaching.by_temperature divides by the sampler's temperature, which is {sampler.temperature}: "
                "give the sampler noise and a step size, or set by_temperature: false"
            )
        self.energy_net = energy_net
        self.generator = generator
        self.inference = inference
        self.sampler = sampler
        self.posterior = posterior
        self.teaching = teaching
        self.range = ImageRange(-1, 1)
        self.optimizer_of = {
            "energy_net": energy_optimizer,
            "generator": generator_optimizer,
            "inference": inference_optimizer,
        }
        self.lr_schedule = lr_schedule
        self.clip_norm = clip_norm
        self.evaluation = evaluation
        self.averages = averaged(ema_decay, energy_net=energy_net, generator=generator, inference=inference)

    def trained_networks(self) -> dict[str, NetworkOptimizer]:
        return optimizers_of(self, self.optimizer_of, self.lr_schedule, self.clip_norm)

    def iterate(self, images: Tensor, labels: Tensor) -> LogValues:
        x, losses = images, self.teaching
        likelihood = 1 / (2 * self.posterior.sigma**2)
        w_x = likelihood if losses.data_weight is None else losses.data_weight
        w_m = likelihood if losses.chain_weight is None else losses.chain_weight

        # the two revisions
        m = torch.randn(len(x), self.latent, device=x.device)
        generated = self.generator(m)
        chain = self.sampler(self.energy_net, generated)
        q = None if self.inference is None else self.inference(x)
        z0 = torch.randn_like(m) if q is None else gaussian.draw(*q).detach()
        z = self.posterior(self.generator, x, z0)

        fit = squared_error(x, self.generator(z)).mean()
        revision = squared_error(chain, generated).mean()
        self.minimize(w_x * fit + w_m * revision, "generator")

        inference_values = self._train_inference(q, z, chain, m)
        if losses.resample:
            with torch.no_grad():
                generated = self.generator(m)
            chain = self.sampler(self.energy_net, generated)
        data, ends = contrast(self.energy_net, x, torch.cat([chain, self._chains_from_noise(x)]))
        loss_energy = data.mean() - ends.mean()
        scale = self.sampler.temperature if losses.by_temperature else 1.0
        grad_norm = self.minimize(loss_energy / scale, "energy_net")

        return (
            energy_log_values(data, ends[: len(x)])
            | chain_log_values(self.sampler, generated, chain)
            | {
                "grad_norm": grad_norm,
                "loss_energy": loss_energy.detach(),
                "reconstruction_mse": fit.detach() / x[0].numel(),
                "revision_mse": revision.detach() / x[0].numel(),
                "latent_displacement": (z - z0).square().mean().sqrt(),
            }
            | inference_values
        )

    def _chains_from_noise(self, x: Tensor) -> Tensor:
        """⌈ρB⌉ ends of chains from uniform noise."""
        noise = x.new_empty(math.ceil(self.teaching.noise_negatives * len(x)), *x.shape[1:]).uniform_(-1, 1)
        return self.sampler(self.energy_net, noise) if len(noise) else noise

    def _train_inference(self, q: tuple[Tensor, Tensor] | None, z: Tensor, chain: Tensor, m: Tensor) -> LogValues:
        """q's step: towards the revised latents of the data, and the known latents of the chains (Eq. 15)."""
        if q is None or self.inference is None:
            return {}
        of_data = gaussian.nll(z, *q).mean()
        of_chain = gaussian.nll(m, *self.inference(chain)).mean()
        loss = of_data + self.teaching.latent_weight * of_chain
        self.minimize(loss, "inference")
        return {"loss_inference": loss.detach(), "nll_data": of_data.detach(), "nll_chain": of_chain.detach()}

    # ── evaluation ──────────────────────────────────────────────────────────────────────────────────────────────────

    def energy(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.network("energy_net")(x))

    def chain_energy(self) -> Energy:
        return self.network("energy_net")

    @property
    def by_batch(self) -> bool:
        return self.evaluation == "paper"

    @property
    def evaluation_sampler(self) -> Langevin:
        if self.evaluation == "library":
            return self.sampler
        return replace(self.sampler, steps=70, step_size=0.4**2 / 2, noise=0.001)

    @property
    def can_infer(self) -> bool:
        return self.inference is not None

    @property
    def posterior_sampler(self) -> PosteriorSampler:
        return self.posterior

    @property
    def decoder_sigma(self) -> float | None:
        """That of the latent chain."""
        return None if self.inference is None else self.posterior.likelihood_sigma

    def inferred(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """q's mean and log variance.

        Raises:
            UserError: the model has no inference network.
        """
        if self.inference is None:
            raise UserError("model.inference is null: this DualMCMC has no inference network to infer with")
        return cast(tuple[Tensor, Tensor], self.network("inference")(x))

    def infer(self, x: Tensor) -> Tensor:
        """μ(x); errors as of `inferred`."""
        return self.inferred(x)[0]

    def representations(self) -> dict[str, Callable[[Tensor], Tensor]]:
        return {} if self.inference is None else {"inference": self.infer}
