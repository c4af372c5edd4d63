"""Short-run MCMC: an energy learnt with K steps from noise, whose samples are K steps from noise."""

from __future__ import annotations

from typing import final

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Adam

from ebmzoo.data.image_range import ImageRange
from ebmzoo.energy import Energy, EnergyNet
from ebmzoo.errors import at_least
from ebmzoo.methods.base.averaging import averaged
from ebmzoo.methods.base.log_values import LogValues, chain_log_values, contrast, energy_log_values
from ebmzoo.methods.base.paper import Paper
from ebmzoo.methods.families.noise_chain import ChainFromNoise
from ebmzoo.sampling.langevin import Langevin


@final
class ShortRunEBM(ChainFromNoise):
    """An energy whose chains are short, of a fixed number of steps, and always start from noise.

    Paper: Erik Nijkamp, Mitch Hill, Song-Chun Zhu, Ying Nian Wu: Learning non-convergent non-persistent short-run
    MCMC toward energy-based model. NeurIPS 2019, arXiv:1904.09770.

    p(x) ∝ exp(−E(x)); the samples are those of the K-step chain, which need not have reached p. An iteration is

        x₀ ~ U(−1, 1), x̃ by K Langevin steps on E from x₀
        L_E = mean E(x + σε) − mean E(x̃)

    Source: Nijkamp et al. 2019, Learning non-convergent non-persistent short-run MCMC toward energy-based model, and
    its code.

    Args:
        energy_net: E.
        sampler: the chain, in units of [-1, 1]; the authors' is 100 steps of η = 1 and τ = 0.01.
        in_channels: channels of an image.
        size: side of an image.
        data_noise: σ, standard deviation of the noise on the data; theirs is lowered until training is unstable.
        energy_optimizer: of E.
        lr_schedule: stepped once an iteration.
        clip_norm: the limit of the gradient's norm; theirs has none.
        ema_decay: of the average that evaluation uses; 0 is none, as theirs.
    """

    paper = Paper(
        "Learning non-convergent non-persistent short-run MCMC toward energy-based model",
        "Erik Nijkamp, Mitch Hill, Song-Chun Zhu, Ying Nian Wu",
        year=2019,
        venue="NeurIPS",
        arxiv="1904.09770",
    )
    is_baseline = True

    def __init__(
        self,
        energy_net: EnergyNet,
        sampler: Langevin,
        in_channels: int = 3,
        size: int = 32,
        data_noise: float = 0.03,
        energy_optimizer: OptimizerCallable = Adam,
        lr_schedule: LRSchedulerCallable | None = None,
        clip_norm: float | None = None,
        ema_decay: float = 0.0,
    ) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, size=size)
        at_least(0, data_noise=data_noise)
        self.energy_net = energy_net
        self.sampler = sampler
        self.data_noise = data_noise
        self.shape = (in_channels, size, size)
        self.range = ImageRange(-1, 1)
        self.rounds = 1
        self.energy_optimizer = energy_optimizer
        self.lr_schedule = lr_schedule
        self.clip_norm = clip_norm
        self.averages = averaged(ema_decay, energy_net=energy_net)

    def iterate(self, images: Tensor, labels: Tensor) -> LogValues:
        x0 = self.start(len(images), None)
        chain = self.walk(self.sampler, self.energy_net, x0, None)
        x = images + self.data_noise * torch.randn(images.shape, device=images.device)

        data, ends = contrast(self.energy_net, x, chain)
        loss_energy = data.mean() - ends.mean()
        grad_norm = self.minimize(loss_energy, "energy_net")
        return (
            energy_log_values(data, ends)
            | chain_log_values(self.sampler, x0, chain)
            | {"grad_norm": grad_norm, "loss_energy": loss_energy.detach()}
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.shape

    @property
    def start_name(self) -> str:
        return "noise"

    def start(self, n: int, generator: torch.Generator | None) -> Tensor:
        return torch.empty(n, *self.shape, device=self.device).uniform_(-1, 1, generator=generator)

    def walk(self, sampler: Langevin, energy: Energy, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return sampler(energy, x, generator=generator)
