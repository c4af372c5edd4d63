"""CoopNets: an energy and a generator that learn from each other; Dual-MCMC without q or data for the generator."""

from __future__ import annotations

from typing import cast, final

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Adam

from ebmzoo.data.image_range import ImageRange
from ebmzoo.energy import Energy, EnergyNet
from ebmzoo.methods.base.averaging import averaged
from ebmzoo.methods.base.log_values import LogValues, chain_log_values, contrast, energy_log_values, squared_error
from ebmzoo.methods.base.optimization import NetworkOptimizer, optimizers_of
from ebmzoo.methods.base.paper import Paper
from ebmzoo.methods.families.generator_chain import ChainFromGenerator
from ebmzoo.networks.base import Generator
from ebmzoo.sampling.energies import Tilted
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.posterior import positive


@final
class CoopNets(ChainFromGenerator):
    """An energy whose chains start from a generator, and a generator that learns from where they end.

    Paper: Jianwen Xie, Yang Lu, Ruiqi Gao, Song-Chun Zhu, Ying Nian Wu: Cooperative training of descriptor and
    generator networks. IEEE TPAMI 2018, arXiv:1609.09408.

    p(x) ∝ exp(−E(x) − |x|²/2s²), the second term being the reference N(0, s²I), if there is one. An iteration is

        m ~ N(0, I), x̃ by K Langevin steps on E from G(m)
        L_E = mean E(x) − mean E(x̃)
        L_G = mean |x̃ − G(m)|²/2σ²

    Source: Xie et al. 2018, Cooperative training of descriptor and generator networks, Algorithm 1 (Eq. 13, 18).

    Args:
        energy_net: E, the descriptor's −f.
        generator: G.
        sampler: the chain on images, in units of [-1, 1].
        sigma: σ.
        reference_std: s of the reference; None for none.
        energy_optimizer: of E.
        generator_optimizer: of G.
        lr_schedule: of both, stepped once an iteration.
        clip_norm: the limit of a network's gradient norm.
        ema_decay: of the averages that evaluation uses; 0 is none.
    """

    paper = Paper(
        "Cooperative training of descriptor and generator networks",
        "Jianwen Xie, Yang Lu, Ruiqi Gao, Song-Chun Zhu, Ying Nian Wu",
        year=2018,
        venue="IEEE TPAMI",
        arxiv="1609.09408",
    )
    is_baseline = True

    def __init__(
        self,
        energy_net: EnergyNet,
        generator: Generator,
        sampler: Langevin,
        sigma: float = 0.3,
        reference_std: float | None = None,
        energy_optimizer: OptimizerCallable = Adam,
        generator_optimizer: OptimizerCallable = Adam,
        lr_schedule: LRSchedulerCallable | None = None,
        clip_norm: float | None = None,
        ema_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.energy_net = energy_net
        self.generator = generator
        self.sampler = sampler
        self.sigma = positive(sigma, "model.sigma")
        self.range = ImageRange(-1, 1)
        self.reference_std = None if reference_std is None else positive(reference_std, "model.reference_std")
        self.optimizer_of = {"energy_net": energy_optimizer, "generator": generator_optimizer}
        self.lr_schedule = lr_schedule
        self.clip_norm = clip_norm
        self.averages = averaged(ema_decay, energy_net=energy_net, generator=generator)

    def trained_networks(self) -> dict[str, NetworkOptimizer]:
        return optimizers_of(self, self.optimizer_of, self.lr_schedule, self.clip_norm)

    def iterate(self, images: Tensor, labels: Tensor) -> LogValues:
        m = torch.randn(len(images), self.latent, device=images.device)
        generated = self.generator(m)
        chain = self.sampler(self._tilted(self.energy_net), generated)

        data, ends = contrast(self.energy_net, images, chain)  # the reference has nothing to learn
        loss_energy = data.mean() - ends.mean()
        grad_norm = self.minimize(loss_energy, "energy_net")

        revision = squared_error(chain, generated).mean()
        self.minimize(revision / (2 * self.sigma**2), "generator")
        return (
            energy_log_values(data, ends)
            | chain_log_values(self.sampler, generated, chain)
            | {
                "grad_norm": grad_norm,
                "loss_energy": loss_energy.detach(),
                "revision_mse": revision.detach() / images[0].numel(),
            }
        )

    def _tilted(self, energy: Energy) -> Energy:
        return energy if self.reference_std is None else Tilted(energy, self.reference_std)

    # ── evaluation ──────────────────────────────────────────────────────────────────────────────────────────────────

    def energy(self, x: Tensor) -> Tensor:
        """E(x) + |x|²/2s²."""
        return self.chain_energy()(x)

    def chain_energy(self) -> Energy:
        return self._tilted(cast(EnergyNet, self.network("energy_net")))
