"""Equilibrium Matching with its explicit energy (EqM-E): an energy without time whose descent leads noise to data."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast, final

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import AdamW

from ebmzoo.data.image_range import ImageRange
from ebmzoo.energy import Energy, EnergyNet, trainable_gradient
from ebmzoo.errors import UserError, at_least
from ebmzoo.methods.base.averaging import averaged
from ebmzoo.methods.base.capabilities import Denoises
from ebmzoo.methods.base.log_values import LogValues
from ebmzoo.methods.base.optimization import NetworkOptimizer, optimizers_of
from ebmzoo.methods.base.paper import Paper
from ebmzoo.methods.base.samples import ChainInfo, Samples
from ebmzoo.methods.families.restoration import RestoresByEnergy
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.noise_schedule import column

SLOPE, TURN = 4.0, 0.8
"""c(γ) is SLOPE up to γ = TURN, and falls linearly to 0 at γ = 1."""


def speed(gamma: Tensor) -> Tensor:
    """c(γ) = 4 min(1, (1 − γ)/0.2), whose mean over γ ~ U(0, 1) is 3.6.

    >>> speed(torch.tensor([0.0, 0.8, 0.9, 1.0]))
    tensor([4.0000, 4.0000, 2.0000, 0.0000])
    """
    return SLOPE * ((1 - gamma) / (1 - TURN)).clamp_max(1)


def corrupted(images: Tensor) -> tuple[Tensor, Tensor]:
    """x_γ = γ x + (1 − γ) ε and (ε − x) c(γ), for ε ~ N(0, I) and γ ~ U(0, 1)."""
    gamma = column(torch.rand(len(images), device=images.device), images)
    noise = torch.randn_like(images)
    return gamma * images + (1 - gamma) * noise, (noise - images) * speed(gamma)


def time_at(gamma: float) -> float:
    """The time η·k after which descent with dγ/dt = c(γ) from γ = 0 is at `gamma`, from 0 to below 1.

    γ/4 up to 0.8, and then 0.2 + log(0.2/(1 − γ))/20: the way from x = ε to the data, of which 1 − γ is left.

    >>> round(time_at(0.8), 3), round(time_at(0.98), 3)
    (0.2, 0.315)
    """
    if gamma <= TURN:
        return gamma / SLOPE
    return TURN / SLOPE + math.log((1 - TURN) / (1 - gamma)) * (1 - TURN) / SLOPE


@final
class EquilibriumMatching(RestoresByEnergy, Denoises):
    """Equilibrium Matching with an explicit energy: ∇E points from data to noise, and vanishes on data.

    Paper: Runqian Wang, Yilun Du: Equilibrium Matching: generative modeling with implicit energy-based models. Preprint
    2025, arXiv:2510.02300.

        x_γ = γ x + (1 − γ) ε, γ ~ U(0, 1), ε ~ N(0, I)
        L = mean of (∇E(x_γ) − (ε − x) c(γ))² over elements, c(γ) = 4 min(1, (1 − γ)/0.2)

    γ is not an input of the network. Samples are K steps of gradient descent on E from N(0, I),

        x ← x − η ∇E(x)

    and ηK, the horizon, is part of the model: descent that goes on collapses onto few images, or with an energy that
    has no lower bound leaves them, and no temperature was fitted, so exp(−E) is not a density of images.
    Source: the paper and its code, whose sampler of the explicit energy follows f in place of −∇E; what is chosen here:
    docs/methods/equilibrium_matching.md.

    Args:
        energy_net: E, smooth: `FieldEnergy` in the paper.
        sampler: K and η of samples; its noise must be 0.
        in_channels: channels of an image.
        size: side of an image.
        energy_optimizer: of E.
        lr_schedule: stepped once an iteration.
        clip_norm: the limit of the gradient's norm.
        ema_decay: of the average that evaluation uses.

    Raises:
        UserError: a number is out of its range.
    """

    paper = Paper(
        "Equilibrium Matching: generative modeling with implicit energy-based models",
        "Runqian Wang, Yilun Du",
        year=2025,
        venue="Preprint",
        arxiv="2510.02300",
    )
    range = ImageRange(-1.0, 1.0)

    def __init__(
        self,
        energy_net: EnergyNet,
        sampler: Langevin,
        in_channels: int = 3,
        size: int = 32,
        energy_optimizer: OptimizerCallable = AdamW,
        lr_schedule: LRSchedulerCallable | None = None,
        clip_norm: float | None = None,
        ema_decay: float = 0.9999,
    ) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, size=size)
        if sampler.noise != 0 or not sampler.step_size > 0:
            raise UserError("model.sampler must have noise: 0, gradient descent, and a step_size above 0")
        self.energy_net = energy_net
        self.sampler = sampler
        self.shape = (in_channels, size, size)
        self.optimizer_of = {"energy_net": energy_optimizer}
        self.lr_schedule = lr_schedule
        self.clip_norm = clip_norm
        self.averages = averaged(ema_decay, energy_net=energy_net)

    def trained_networks(self) -> dict[str, NetworkOptimizer]:
        return optimizers_of(self, self.optimizer_of, self.lr_schedule, self.clip_norm)

    def iterate(self, images: Tensor, labels: Tensor) -> LogValues:
        x_gamma, target = corrupted(images)
        with sdpa_kernel(SDPBackend.MATH):
            energies, grad = trainable_gradient(self.energy_net, x_gamma)
            loss = (grad - target).square().mean()
            norm = self.minimize(loss, "energy_net")
        return {"energy_noisy": energies.detach().mean(), "loss_matching": loss.detach(), "grad_norm": norm}

    @property
    def has_density(self) -> bool:
        return False

    def chain_energy(self) -> Energy:
        return cast(EnergyNet, self.network("energy_net"))

    def energy(self, x: Tensor) -> Tensor:
        return self.chain_energy()(x)

    def sample(
        self,
        n: int,
        *,
        labels: Tensor | None = None,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Samples:
        """K steps from N(0, I), or `steps` steps of the same η.

        Raises:
            UserError: Labels are given.
        """
        self.refuse_labels(labels)
        info = self.chain_info(steps)
        with self.evaluating():
            x0 = torch.randn(n, *self.shape, device=self.device, generator=generator)
            x = self.sampler.lasting(info.steps)(self.chain_energy(), x0, generator=generator)
        return info.samples(x)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.shape

    def chain_info(self, steps: int | None = None) -> ChainInfo:
        steps = self.sampler.steps if steps is None else steps
        return ChainInfo(steps, "noise", steps, self.sampler.temperature if steps else math.nan)

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """The rest of the way from x/(1 + σ), which is x_γ at γ = 1/(1 + σ): descent over the horizon that is left."""
        gamma = 1 / (1 + sigma)
        left = max(0, self.sampler.steps - round(time_at(gamma) / self.sampler.step_size))
        return replace(self.sampler, steps=left)(self.chain_energy(), gamma * x)
