"""Energy Matching: one scalar whose gradient transports noise to data, and which is an energy near the data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any, Literal, cast, final

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Adam

from ebmzoo.data.image_range import ImageRange
from ebmzoo.energy import Energy, EnergyNet, trainable_gradient
from ebmzoo.errors import UserError, at_least
from ebmzoo.methods.base.averaging import Average, averaged
from ebmzoo.methods.base.capabilities import HasFlatDirections, RunsChain
from ebmzoo.methods.base.log_values import LogValues, chain_log_values, contrast, energy_log_values
from ebmzoo.methods.base.optimization import NetworkOptimizer, optimizers_of
from ebmzoo.methods.base.paper import Paper
from ebmzoo.methods.base.samples import ChainInfo, Samples
from ebmzoo.methods.energy_matching_terms import EnergyMatchingContrast, EnergyMatchingInteraction
from ebmzoo.methods.families.denoiser_energy import Link, in_eval_mode, linked
from ebmzoo.methods.families.restoration import RestoresByEnergy
from ebmzoo.sampling.energies import Repelling, Tempered
from ebmzoo.sampling.heun import Heun
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.noise_schedule import column
from ebmzoo.sampling.randomness import repeatable
from ebmzoo.sampling.transport import optimal_pairing


def transported(images: Tensor) -> tuple[Tensor, Tensor]:
    """x_t = (1 − t) x₀ + t x₁ and x₁ − x₀, for images x₁ paired with x₀ ~ N(0, I) by optimal transport, t ~ U(0, 1)."""
    noise = torch.randn_like(images)
    noise = noise[optimal_pairing(images, noise)]
    t = column(torch.rand(len(images), device=images.device), images)
    return (1 - t) * noise + t * images, images - noise


@final
class EnergyMatching(RestoresByEnergy, RunsChain, HasFlatDirections):
    """Energy Matching: V(x), without time, whose −∇V carries noise to data, and exp(−V/ε_max) is the data's density.

    Paper: Michal Balcerak, Tamaz Amiranashvili, Antonio Terpin, Suprosanna Shit, Lea Bogensperger, Sebastian
    Kaltenbach, Petros Koumoutsakos, Bjoern Menze: Energy Matching: unifying flow matching and energy-based models for
    generative modeling. NeurIPS 2025, arXiv:2504.10612.

    The energy of this library is E(x) = V(x)/ε_max. An iteration is

        x₀ ~ N(0, I), paired with the batch x₁ by optimal transport; t ~ U(0, 1), x_t = (1 − t) x₀ + t x₁
        L_OT = mean of (−∇V(x_t) − (x₁ − x₀))² over elements                                 (phase 1, Algorithm 1)
        L = L_OT + max(λ (mean V(x₁) − mean V(x̃)), −β), x̃ by M steps of the chain            (phase 2, Algorithm 2)

    with the chain, k = 0, 1, …, which samples also go through, from N(0, I) to the time τ_s:

        x ← x − Δt ∇V(x) + √(2Δt ε(kΔt)) ξ, ε = 0 before τ*, from there linear to ε_max at 1, and ε_max from then on

    and one clamp to [-1, 1] after the last step. In units of E it has η = Δt ε_max, and T = 1 once kΔt ≥ 1.
    `sampler.step_size` is this η, and so Δt = η/ε_max. Half of the chains of phase 2 start from the data.
    L_OT alone fixes the curvature of V, not its temperature, so exp(−E) is a density after phase 2 only.
    Source: the paper and its code; where they differ, and what is chosen here: docs/methods/energy_matching.md.

    Args:
        energy_net: V, smooth: ∇V is differentiated.
        sampler: the chain of phase 2: M steps of η = Δt ε_max; its noise must be null, √(2η).
        epsilon: ε_max.
        onset: τ*, from 0 to 1; 1 is a jump at t = 1.
        horizon: τ_s, the time at which samples are taken.
        scheme: of samples: `euler`, or `heun` with two network evaluations a step.
        regression_steps: iterations of phase 1; phase 2 has the rest.
        contrast: of phase 2; null has the numbers of CIFAR-10.
        interaction: repulsion between samples, within which each step ends with the clamp; None for independent ones.
        flat_curvature: the largest |curvature| of V along a direction that counts into the local intrinsic dimension.
        in_channels: channels of an image.
        size: side of an image.
        energy_optimizer: of V.
        lr_schedule: stepped once an iteration.
        clip_norm: the limit of the gradient's norm.
        ema_decay: of the average that evaluation uses, in phase 1.
        contrast_ema_decay: the same in phase 2, which is short.

    Raises:
        UserError: a number is out of its range.
    """

    paper = Paper(
        "Energy Matching: unifying flow matching and energy-based models for generative modeling",
        "Michal Balcerak, Tamaz Amiranashvili, Antonio Terpin, Suprosanna Shit, Lea Bogensperger, "
        "Sebastian Kaltenbach, Petros Koumoutsakos, Bjoern Menze",
        year=2025,
        venue="NeurIPS",
        arxiv="2504.10612",
    )
    range = ImageRange(-1.0, 1.0)
    contrasted: Tensor

    def __init__(
        self,
        energy_net: EnergyNet,
        sampler: Langevin,
        epsilon: float = 0.01,
        onset: float = 1.0,
        horizon: float = 3.25,
        scheme: Literal["euler", "heun"] = "euler",
        regression_steps: int = 145_000,
        contrast: EnergyMatchingContrast | None = None,
        interaction: EnergyMatchingInteraction | None = None,
        flat_curvature: float = 2.0,
        in_channels: int = 3,
        size: int = 32,
        energy_optimizer: OptimizerCallable = Adam,
        lr_schedule: LRSchedulerCallable | None = None,
        clip_norm: float | None = 1.0,
        ema_decay: float = 0.9999,
        contrast_ema_decay: float = 0.99,
    ) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, size=size)
        at_least(0, regression_steps=regression_steps)
        for name, value in {"epsilon": epsilon, "horizon": horizon, "flat_curvature": flat_curvature}.items():
            if not (0 < value < math.inf):
                raise UserError(f"model.{name} is {value}; it must be a positive number")
        if not 0 <= onset <= 1:
            raise UserError(f"model.onset is {onset}; it must be from 0 to 1")
        if scheme not in ("euler", "heun"):
            raise UserError(f"model.scheme is {scheme!r}; it must be 'euler' or 'heun'")
        if sampler.noise is not None or not sampler.step_size > 0:
            raise UserError("model.sampler must have noise: null, temperature one, and a step_size above 0")
        self.energy_net = energy_net
        self.sampler = sampler
        self.epsilon = epsilon
        self.onset = onset
        self.horizon = horizon
        self.scheme = scheme
        self.regression_steps = regression_steps
        self.contrast = contrast or EnergyMatchingContrast()
        self.interaction = interaction
        self.flat = flat_curvature
        self.shape = (in_channels, size, size)
        self.optimizer_of = {"energy_net": energy_optimizer}
        self.lr_schedule = lr_schedule
        self.clip_norm = clip_norm
        self.decays = (ema_decay, contrast_ema_decay)
        self.averages = averaged(ema_decay, energy_net=energy_net)
        averaged(contrast_ema_decay)  # checks it
        self.register_buffer("contrasted", torch.tensor(False))

    def trained_networks(self) -> dict[str, NetworkOptimizer]:
        return optimizers_of(self, self.optimizer_of, self.lr_schedule, self.clip_norm)

    @property
    def _contrasts(self) -> bool:
        return self.global_step >= self.regression_steps

    @property
    def phase(self) -> str:
        return "contrastive training" if self._contrasts else "regression"

    @property
    def has_density(self) -> bool:
        return bool(self.contrasted)

    # ── the algorithm ───────────────────────────────────────────────────────────────────────────────────────────────

    def iterate(self, images: Tensor, labels: Tensor) -> LogValues:
        cast(Average, self.averages["energy_net"]).decay = self.decays[self._contrasts]
        x_t, displacement = transported(images)
        values: LogValues = {}
        with sdpa_kernel(SDPBackend.MATH):
            _, grad = trainable_gradient(self.energy_net, x_t)
            loss = matching = (-grad - displacement).square().mean()
            if self._contrasts:
                term, values = self._contrastive(images)
                loss = loss + term
            norm = self.minimize(loss, "energy_net")
        return {"loss_matching": matching.detach(), "grad_norm": norm} | values

    def _contrastive(self, images: Tensor) -> tuple[Tensor, LogValues]:
        """The contrastive term, and what is logged of it and of its chains."""
        self.contrasted.fill_(True)
        start = torch.randn(images.shape, device=images.device)
        of_data = round(self.contrast.from_data * len(images))
        start[:of_data] = images[:of_data]
        with in_eval_mode(self.energy_net):  # the energy that samples descend, which has no dropout
            *_, end = linked(self._links(self.sampler.steps, self._tempered(self.energy_net)), start)
            end = end.clamp(-1, 1)
            data, chain = contrast(self.energy_net, images, end)
        term = self.contrast(data, chain)
        values = energy_log_values(data / self.epsilon, chain / self.epsilon)
        noise = self.sampler.tau * math.sqrt(sum(self._heats(self.sampler.steps)))
        values |= chain_log_values(replace(self.sampler, steps=1, noise=noise), start, end)
        return term, values | {"loss_contrast": term.detach()}

    def _heats(self, steps: int) -> list[float]:
        """ε(kΔt)/ε_max of each step."""
        dt = self.sampler.step_size / self.epsilon
        times = [round(k * dt, 9) for k in range(steps)]
        return [1.0 if t >= 1 else max(0.0, t - self.onset) / max(1 - self.onset, 1e-9) for t in times]

    def _links(self, steps: int, energy: Energy, sampler: Langevin | None = None) -> Iterator[Link]:
        """The chain, as one sampler for each run of steps of the same temperature."""
        own = sampler or self.sampler
        for heat, run in groupby(self._heats(steps)):
            yield replace(own, steps=len(list(run)), noise=self.sampler.tau * math.sqrt(heat)), energy

    # ── evaluation ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _tempered(self, net: EnergyNet) -> Tempered:
        return Tempered(net, self.epsilon)

    def chain_energy(self) -> Energy:
        return self._tempered(cast(EnergyNet, self.network("energy_net")))

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
        """The chain from N(0, I) to τ_s, or of `steps` steps of the same Δt, and the clamp; 0 is the start itself.

        Raises:
            UserError: Labels are given.
        """
        self.refuse_labels(labels)
        info = self.chain_info(steps)
        energy, sampler = self.chain_energy(), self._scheme()
        if self.interaction is not None:
            energy = Repelling(energy, self.interaction.sigma, self.interaction.together)
            sampler = replace(sampler, bounds=(-1.0, 1.0))
        with self.evaluating():
            x0 = torch.randn(n, *self.shape, device=self.device, generator=generator)
            *_, x = linked(self._links(info.steps, energy, sampler), x0, generator)
        return info.samples(x.clamp(-1, 1) if info.steps else x)

    def _scheme(self) -> Langevin:
        return Heun(**vars(self.sampler)) if self.scheme == "heun" else self.sampler

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.shape

    @property
    def chain_steps(self) -> int:
        return round(self.horizon * self.epsilon / self.sampler.step_size)

    def chain_info(self, steps: int | None = None) -> ChainInfo:
        """Its temperature is that of the last step, 0 before τ*."""
        steps = self.chain_steps if steps is None else steps
        temperature = self._heats(steps)[-1] if steps else math.nan
        return ChainInfo(steps * self._scheme().evaluations, "noise", steps, temperature)

    def long_chain(
        self, n: int, steps: int, *, generator: torch.Generator | None = None
    ) -> tuple[str, Iterator[Tensor]]:
        """By Euler's steps, and without the clamp, so that it shows where a chain goes that leaves the data."""
        x0 = torch.randn(n, *self.shape, device=self.device, generator=generator)
        return "noise", self._path(x0, steps, generator)

    def _path(self, x: Tensor, steps: int, generator: torch.Generator | None) -> Iterator[Tensor]:
        yield x
        for sampler, energy in self._links(steps, self.chain_energy()):
            path = sampler.path(energy, x, generator=generator)
            next(path)
            for state in path:
                x = state
                yield state

    @property
    def flat_curvature(self) -> float:
        return self.flat / self.epsilon

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """The values of every method, and the root mean square of the data and of chains of twice the length.

        A V that only transports goes on past the data; how far shows in the second of them.
        """
        super().validation_step(batch, batch_idx)
        images, _ = batch
        with self.evaluating(), repeatable(seed=batch_idx):
            *_, far = self.long_chain(len(images), 2 * self.chain_steps)[1]
        rms: dict[str, Any] = {"val/rms_data": images, "val/rms_twice": far}
        values = {name: x.square().mean().sqrt() for name, x in rms.items()}
        self.log_dict(values, batch_size=len(images), sync_dist=True)
