"""DRL: recovery likelihood whose chains start from the noisier image."""

from __future__ import annotations

from typing import Literal, final

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Adam

from ebmzoo.errors import UserError, at_least
from ebmzoo.methods.base.averaging import averaged
from ebmzoo.methods.base.log_values import LogValues
from ebmzoo.methods.base.optimization import NetworkOptimizer, optimizers_of
from ebmzoo.methods.base.paper import Paper
from ebmzoo.methods.families.level_sampler import ClassCondition
from ebmzoo.methods.families.recovery_likelihood import RecoveryLikelihood
from ebmzoo.networks.base import LevelEnergyNet
from ebmzoo.sampling.level_chain import RecoveryChain
from ebmzoo.sampling.noise_schedule import DRLSchedule, NoiseSchedule, column


@final
class DRL(RecoveryLikelihood):
    """Diffusion recovery likelihood: T energies, one for each noise level, whose chains start from the level above.

    Paper: Ruiqi Gao, Yang Song, Ben Poole, Ying Nian Wu, Diederik P. Kingma: Learning energy-based models by
    diffusion recovery likelihood. ICLR 2021, arXiv:2012.08125.

    p(y|x_i) ∝ exp(−E(y) − |y − x_i|²/2σ_i²), y = m_i x_{i−1}. An iteration, with i ~ U{1 … T}, is

        x_{i−1} = ᾱ_{i−1} x + σ̄_{i−1} ε and x_i = α_i x_{i−1} + σ_i ε'
        ỹ by K Langevin steps on E(y|x_i) from x_i
        L_E = mean w_i (Ê(y) − Ê(ỹ)), w_i = σ_1/σ_i

    Source: Gao et al. 2021, Learning energy-based models by diffusion recovery likelihood, algorithms 1 and 2, and its
    code for w_i and for the top level, whose energy is marginal.

    Args:
        energy_net: Ê.
        schedule: the noise levels; None is T6.
        chain: the chains of all levels; None is 30 steps of c = 2e-4, with noise × 0.99 when sampling.
        in_channels: channels of an image.
        size: side of an image.
        drop_classes: the probability that an image is trained without its class, for a network with classes.
        denoise: the factor of a last step along the gradient; theirs has none.
        energy_optimizer: of Ê.
        lr_schedule: stepped once an iteration.
        clip_norm: the limit of the gradient's norm.
        ema_decay: of the average that evaluation uses.

    Raises:
        UserError: a number is out of its range.
    """

    paper = Paper(
        "Learning energy-based models by diffusion recovery likelihood",
        "Ruiqi Gao, Yang Song, Ben Poole, Ying Nian Wu, Diederik P. Kingma",
        year=2021,
        venue="ICLR",
        arxiv="2012.08125",
    )
    is_baseline = True

    def __init__(
        self,
        energy_net: LevelEnergyNet,
        schedule: NoiseSchedule | None = None,
        chain: RecoveryChain | None = None,
        in_channels: int = 3,
        size: int = 32,
        drop_classes: float = 0.1,
        denoise: float = 0.0,
        energy_optimizer: OptimizerCallable = Adam,
        lr_schedule: LRSchedulerCallable | None = None,
        clip_norm: float | None = 1.0,
        ema_decay: float = 0.999,
    ) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, size=size)
        if not 0 <= drop_classes <= 1:
            raise UserError(f"model.drop_classes is {drop_classes}; it must be between 0 and 1")
        self.energy_net = energy_net
        self.schedule = schedule or DRLSchedule()
        self.chain = chain or RecoveryChain(steps=30, variance=2e-4, noise=0.99)
        self.coder = None
        self.coder_checkpoint = None
        self.shape = (in_channels, size, size)
        self.drop_classes = drop_classes
        self.denoise = denoise
        self.energy_optimizer = energy_optimizer
        self.lr_schedule = lr_schedule
        self.clip_norm = clip_norm
        self.averages = averaged(ema_decay, energy_net=energy_net)

    def trained_networks(self) -> dict[str, NetworkOptimizer]:
        return optimizers_of(self, {"energy_net": self.energy_optimizer}, self.lr_schedule, self.clip_norm)

    def iterate(self, images: Tensor, labels: Tensor) -> LogValues:
        classes = self._training_classes(labels)
        i = torch.randint(1, self.schedule.levels + 1, (len(images),), device=images.device)
        lower, x = self.schedule.pair(images, i, shared=False)
        ends = self._refine(x, x, i, classes)
        loss, values = self._contrast(column(self.schedule.scale(i), x) * lower, ends, i, classes)
        grad_norm = self.minimize(loss, "energy_net")
        return values | self._moved(x, ends) | {"grad_norm": grad_norm}

    def propose(self, x: Tensor, i: Tensor, condition: ClassCondition, generator: torch.Generator | None) -> Tensor:
        return x

    @property
    def proposals(self) -> Literal["none", "unconditional", "by class"]:
        return "none"
