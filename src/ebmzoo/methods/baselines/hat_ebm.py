"""Hat EBM: an energy of a generator's latent and a residual image."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import cast, final

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Adam

from ebmzoo.data.image_range import ImageRange
from ebmzoo.energy import Energy, EnergyNet
from ebmzoo.errors import UserError, at_least
from ebmzoo.methods.base.averaging import averaged
from ebmzoo.methods.base.capabilities import RunsChain, StartsFromGenerator
from ebmzoo.methods.base.log_values import LogValues, chain_log_values, contrast, energy_log_values
from ebmzoo.methods.base.optimization import NetworkOptimizer, optimizers_of
from ebmzoo.methods.base.paper import Paper
from ebmzoo.methods.base.samples import ChainInfo, Samples
from ebmzoo.methods.families.generator_chain import WithGenerator
from ebmzoo.methods.families.restoration import RestoresByEnergy
from ebmzoo.networks.base import Generator
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.latent_energies import Hat, OfLatent, OfResidual


@final
class HatEBM(WithGenerator, RestoresByEnergy, StartsFromGenerator, RunsChain):
    """An image is the sum of a generator's and a residual, x = G(z) + y, and the energy is of the sum.

    Paper: Mitch Hill, Erik Nijkamp, Jonathan Mitchell, Bo Pang, Song-Chun Zhu: Learning probabilistic models from
    generator latent spaces with Hat EBM. NeurIPS 2022, arXiv:2210.16486.

    p(y | z) ∝ exp(−E(G(z) + y)), z ~ N(0, I). An iteration is

        z ~ N(0, I), y₀ = 0, y by K Langevin steps on E(G(z) + ·), each with |η∇E| ≤ `sampler.max_step_norm`
        L_E = mean E(x + δε) − mean E(G(z) + y), divided by T = τ²/2η
        L_G = w mean (G(z') − x')² per element, of pairs (z', x') drawn from a bank of past (z, G(z) + y)

    The pairs drawn are then replaced by the new ones. With a `latent_sampler` each step on y is preceded by one on z,
    of E(G(·) + y), as in the authors' experiments with a trained generator. G's batch norms stay in inference mode, as
    in the authors' code.
    Source: Hill et al. 2022, Learning probabilistic models from generator latent spaces with Hat EBM, and its code.

    Args:
        energy_net: E.
        generator: G.
        sampler: the chain on y, in units of [-1, 1]; the authors' limit of a step's norm is 2.5.
        latent_sampler: the step on z, of which `steps` is not used; None keeps z fixed.
        bank_size: pairs in the bank. Until it is full, G learns only from the pairs in it.
        generator_weight: w.
        data_noise: δ, standard deviation of the noise on the data.
        by_temperature: divide L_E by T.
        energy_optimizer: of E.
        generator_optimizer: of G.
        lr_schedule: of both, stepped once an iteration.
        clip_norm: the limit of a network's gradient norm.
        ema_decay: of the averages that evaluation uses.

    Raises:
        UserError: the bank is smaller than a batch, or the temperature to divide by is zero.
    """

    paper = Paper(
        "Learning probabilistic models from generator latent spaces with Hat EBM",
        "Mitch Hill, Erik Nijkamp, Jonathan Mitchell, Bo Pang, Song-Chun Zhu",
        year=2022,
        venue="NeurIPS",
        arxiv="2210.16486",
    )
    is_baseline = True

    calibrates = False
    range = ImageRange(-1, 1)
    bank_images: Tensor
    bank_latents: Tensor
    bank_filled: Tensor

    def __init__(
        self,
        energy_net: EnergyNet,
        generator: Generator,
        sampler: Langevin,
        latent_sampler: Langevin | None = None,
        bank_size: int = 10_000,
        generator_weight: float = 1000.0,
        data_noise: float = 0.001,
        by_temperature: bool = True,
        energy_optimizer: OptimizerCallable = Adam,
        generator_optimizer: OptimizerCallable = Adam,
        lr_schedule: LRSchedulerCallable | None = None,
        clip_norm: float | None = None,
        ema_decay: float = 0.9999,
    ) -> None:
        super().__init__()
        at_least(1, bank_size=bank_size)
        at_least(0, generator_weight=generator_weight, data_noise=data_noise)
        if by_temperature and not sampler.temperature > 0:
            raise UserError(
                f"model.by_temperature divides by the sampler's temperature, which is {sampler.temperature}: "
                "give the sampler noise and a step size, or set by_temperature: false"
            )
        self.energy_net = energy_net
        self.generator = generator
        self.sampler = sampler
        self.latent_sampler = latent_sampler
        self.generator_weight = generator_weight
        self.data_noise = data_noise
        self.by_temperature = by_temperature
        self.optimizer_of = {"energy_net": energy_optimizer, "generator": generator_optimizer}
        self.lr_schedule = lr_schedule
        self.clip_norm = clip_norm
        self.averages = averaged(ema_decay, energy_net=energy_net, generator=generator)
        generator.eval()
        with torch.no_grad():
            shape = generator(torch.zeros(1, generator.latent)).shape[1:]
        self.register_buffer("bank_images", torch.zeros(bank_size, *shape))
        self.register_buffer("bank_latents", torch.zeros(bank_size, generator.latent))
        self.register_buffer("bank_filled", torch.zeros(bank_size, dtype=torch.bool))

    def trained_networks(self) -> dict[str, NetworkOptimizer]:
        return optimizers_of(self, self.optimizer_of, self.lr_schedule, self.clip_norm)

    def iterate(self, images: Tensor, labels: Tensor) -> LogValues:
        if len(images) > len(self.bank_filled):
            raise UserError(f"model.bank_size is {len(self.bank_filled)}; it must be at least data.batch_size")
        self.generator.eval()
        z0 = torch.randn(len(images), self.latent, device=images.device)
        with torch.no_grad():
            start = self.generator(z0)
        z, chain = self._walk(Hat(self.energy_net, self.generator), z0, self.sampler, start=start)

        x = images + self.data_noise * torch.randn_like(images)
        data, ends = contrast(self.energy_net, x, chain)
        loss_energy = data.mean() - ends.mean()
        grad_norm = self.minimize(loss_energy / (self.sampler.temperature if self.by_temperature else 1), "energy_net")
        loss_generator = self._train_generator(z, chain)
        return (
            energy_log_values(data, ends)
            | chain_log_values(self.sampler, start, chain)
            | {"grad_norm": grad_norm, "loss_energy": loss_energy.detach(), "loss_generator": loss_generator}
        )

    def _train_generator(self, z: Tensor, chain: Tensor) -> Tensor:
        """L_G on pairs of the bank, which then make room for the new ones."""
        slots = torch.randperm(len(self.bank_filled), device=z.device)[: len(z)]
        taught = self.bank_filled[slots].float()
        errors = (self.generator(self.bank_latents[slots]) - self.bank_images[slots]).square().flatten(1).mean(1)
        loss = self.generator_weight * (errors * taught).sum() / taught.sum().clamp_min(1)
        self.minimize(loss, "generator")
        self.bank_images[slots], self.bank_latents[slots], self.bank_filled[slots] = chain, z, True
        return cast(Tensor, loss.detach())

    def _walk(
        self,
        hat: Hat,
        z: Tensor,
        sampler: Langevin,
        generator: torch.Generator | None = None,
        *,
        start: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The end of the chain that starts at (y, z) = (0, z): z and x = G(z) + y; `start` is G(z), where known."""
        with torch.no_grad():
            image = hat.generator(z) if start is None else start
        y = torch.zeros_like(image)
        if self.latent_sampler is None:
            return z, image + sampler(OfResidual(hat.energy, image), y, generator=generator)
        step, latent_step = replace(sampler, steps=1), replace(self.latent_sampler, steps=1)
        for _ in range(sampler.steps):
            z = latent_step(OfLatent(hat, y), z, generator=generator)
            with torch.no_grad():
                image = hat.generator(z)
            y = step(OfResidual(hat.energy, image), y, generator=generator)
        return z, image + y

    @property
    def training_state(self) -> tuple[str, ...]:
        return ("bank_",)

    # ── evaluation ──────────────────────────────────────────────────────────────────────────────────────────────────

    def energy(self, x: Tensor) -> Tensor:
        """E(x), of the image as the sum."""
        return cast(Tensor, self.network("energy_net")(x))

    def chain_energy(self) -> Energy:
        return self.network("energy_net")

    def sample(
        self,
        n: int,
        *,
        labels: Tensor | None = None,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Samples:
        """G(z) + y by the chain of training; `steps=0` is the generator alone."""
        sampler = self.sampler.lasting(steps)
        hat = Hat(self.network("energy_net"), self.decode)
        with self.evaluating():
            _, images = self._walk(hat, self.prior(n, labels, generator), sampler, generator)
        return self.chain_info(steps).samples(images)

    def chain_info(self, steps: int | None = None) -> ChainInfo:
        sampler = self.sampler.lasting(steps)
        # a step on z evaluates G and E, and moves the image, which the step on y needs anew
        a_step = 1 if self.latent_sampler is None else 4
        temperature = sampler.temperature if sampler.steps else math.nan
        return ChainInfo(1 + a_step * sampler.steps, "generator", sampler.steps, temperature)

    def revise(
        self, x: Tensor, *, steps: int | None = None, generator: torch.Generator | None = None
    ) -> Iterator[Tensor]:
        """The chain of the residual, with the latent fixed."""
        sampler = self.sampler.lasting(steps)
        path = sampler.path(OfResidual(self.network("energy_net"), x), torch.zeros_like(x), generator=generator)
        return (x + y for y in path)

    @property
    def chain_steps(self) -> int:
        return self.sampler.steps

    def long_chain(
        self, n: int, steps: int, *, generator: torch.Generator | None = None
    ) -> tuple[str, Iterator[Tensor]]:
        """The chain of the residual, with the latent fixed."""
        x0 = self.decode(self.prior(n, None, generator))
        return "generator", self.revise(x0, steps=steps, generator=generator)
