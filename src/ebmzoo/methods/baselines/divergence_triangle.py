"""Divergence Triangle: an energy, a generator and an inference network without any MCMC."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast, final

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Adam

from ebmzoo.energy import EnergyNet, frozen
from ebmzoo.methods.base.averaging import averaged
from ebmzoo.methods.base.capabilities import DecodesGaussian, Encodes
from ebmzoo.methods.base.log_values import LogValues, contrast, energy_log_values, squared_error
from ebmzoo.methods.base.optimization import NetworkOptimizer, optimizers_of
from ebmzoo.methods.base.paper import Paper
from ebmzoo.methods.families.generator_chain import GeneratorAlone, check_latents
from ebmzoo.networks import gaussian
from ebmzoo.networks.base import Generator, InferenceNet


@final
class DivergenceTriangle(GeneratorAlone, DecodesGaussian, Encodes):
    """Three networks, each of which learns from the joint densities of the other two; the chains are the generator's.

    Paper: Tian Han, Erik Nijkamp, Xiaolin Fang, Mitch Hill, Song-Chun Zhu, Ying Nian Wu: Divergence triangle for
    joint training of generator model, energy-based model, and inferential model. CVPR 2019, arXiv:1812.10907.

    p(x) ∝ exp(−E(x)), z ~ N(0, I), m ~ N(0, I), z_q ~ q(z|x). An iteration is, one step after the other,

        L_E = mean E(x) − mean E(G(m))
        L_q = |x − G(z_q)|² + KL(q(z|x) ‖ N(0, I))/d − w log q(m|G(m))
        L_G = |x − G(z_q)|² + mean E(G(m)) − w log q(m|G(m))

    d is the dimension of z: the authors' code takes the mean of the divergence over it. No unit of likelihood is set by
    σ here, since their squared errors stand bare.
    Source: Han et al. 2019, Divergence Triangle, Algorithm 1, with the weights of the authors' CIFAR-10 code.

    Args:
        energy_net: E.
        generator: G.
        inference: q.
        latent_weight: w.
        energy_optimizer: of E.
        generator_optimizer: of G.
        inference_optimizer: of q.
        lr_schedule: of all three, stepped once an iteration; the authors' is ×0.998 an epoch.
        clip_norm: the limit of a network's gradient norm; theirs is 100.
        ema_decay: of the averages that evaluation uses; 0 is none.
    """

    paper = Paper(
        "Divergence triangle for joint training of generator model, energy-based model, and inferential model",
        "Tian Han, Erik Nijkamp, Xiaolin Fang, Mitch Hill, Song-Chun Zhu, Ying Nian Wu",
        year=2019,
        venue="CVPR",
        arxiv="1812.10907",
    )
    is_baseline = True

    def __init__(
        self,
        energy_net: EnergyNet,
        generator: Generator,
        inference: InferenceNet,
        latent_weight: float = 0.1,
        energy_optimizer: OptimizerCallable = Adam,
        generator_optimizer: OptimizerCallable = Adam,
        inference_optimizer: OptimizerCallable = Adam,
        lr_schedule: LRSchedulerCallable | None = None,
        clip_norm: float | None = 100.0,
        ema_decay: float = 0.0,
    ) -> None:
        super().__init__()
        check_latents(generator, inference)
        self.energy_net = energy_net
        self.generator = generator
        self.inference = inference
        self.latent_weight = latent_weight
        self.optimizer_of = {
            "energy_net": energy_optimizer,
            "generator": generator_optimizer,
            "inference": inference_optimizer,
        }
        self.lr_schedule = lr_schedule
        self.clip_norm = clip_norm
        self.averages = averaged(ema_decay, energy_net=energy_net, generator=generator, inference=inference)

    def trained_networks(self) -> dict[str, NetworkOptimizer]:
        return optimizers_of(self, self.optimizer_of, self.lr_schedule, self.clip_norm)

    def iterate(self, images: Tensor, labels: Tensor) -> LogValues:
        x = images
        m = torch.randn(len(x), self.latent, device=x.device)
        generated = self.generator(m)

        data, ends = contrast(self.energy_net, x, generated.detach())
        loss_energy = data.mean() - ends.mean()
        grad_norm = self.minimize(loss_energy, "energy_net")

        mu, logvar = self.inference(x)
        with frozen(self.generator):
            fit = squared_error(x, self.generator(gaussian.draw(mu, logvar))).mean()
        kl = gaussian.kl(mu, logvar).mean()
        nll_generated = gaussian.nll(m, *self.inference(generated.detach())).mean()
        self.minimize(fit + kl + self.latent_weight * nll_generated, "inference")

        # the inference network and the energy just updated
        z = gaussian.draw(*self.inference(x)).detach()
        fit = squared_error(x, self.generator(z)).mean()
        with frozen(self.inference, self.energy_net):
            nll_generated, energy_generated = (
                gaussian.nll(m, *self.inference(generated)).mean(),
                self.energy_net(generated).mean(),
            )
        self.minimize(fit + energy_generated + self.latent_weight * nll_generated, "generator")
        return energy_log_values(data, ends) | {
            "grad_norm": grad_norm,
            "loss_energy": loss_energy.detach(),
            "reconstruction_mse": fit.detach() / x[0].numel(),
            "kl": kl.detach(),
            "nll_chain": nll_generated.detach(),
        }

    # ── evaluation ──────────────────────────────────────────────────────────────────────────────────────────────────

    def energy(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.network("energy_net")(x))

    @property
    def decoder_sigma(self) -> float:
        """1/√(2d): |x − G(z)|² + KL/d is 1/d of the bound of that σ."""
        return 1 / math.sqrt(2 * self.latent)

    def inferred(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return cast(tuple[Tensor, Tensor], self.network("inference")(x))

    def infer(self, x: Tensor) -> Tensor:
        return self.inferred(x)[0]

    def representations(self) -> dict[str, Callable[[Tensor], Tensor]]:
        return {"inference": self.infer}
