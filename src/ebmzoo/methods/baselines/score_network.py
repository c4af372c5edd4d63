"""NCSN: a denoiser as an unconstrained score, and annealed Langevin sampling."""

from __future__ import annotations

import math
from typing import cast, final

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Adam

from ebmzoo.errors import UserError, at_least
from ebmzoo.methods.base.averaging import averaged
from ebmzoo.methods.base.log_values import LogValues, squared_error
from ebmzoo.methods.base.optimization import NetworkOptimizer, optimizers_of
from ebmzoo.methods.base.paper import Paper
from ebmzoo.methods.base.samples import ChainInfo, Samples
from ebmzoo.methods.families.denoiser_energy import ScoresByDenoising, check_scoring, linked
from ebmzoo.networks.denoiser import Denoiser
from ebmzoo.sampling.denoiser_energies import OfScore
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.noise_schedule import GeometricNoise, column


@final
class ScoreNetwork(ScoresByDenoising):
    """A noise-conditional score s(x, σ) = (r(x, σ) − x)/σ², a field that need not be the gradient of an energy.

    Paper: Yang Song, Stefano Ermon: Generative modeling by estimating gradients of the data distribution. NeurIPS
    2019, arXiv:1907.05600.

        L = mean ½ σ² |s(x̃, σ) + (x̃ − x)/σ²|² = mean |r(x̃, σ) − x|²/2σ², x̃ = x + σε          (Eq. 5 and 6)
        x ← x + ½ α_k s(x, σ_k) + √α_k ξ, α_k = `rate`·σ_k², K steps at each σ_k from the highest  (Alg. 1)

    Source: Song & Ermon 2019, Generative modeling by estimating gradients of the data distribution; §4.5 of
    Denoising-EBM, which compares it to energies. It has no energy: `energy` and the out-of-distribution score are the
    denoising error of Denoising-EBM (Eq. 7) at one σ, which needs none.

    Args:
        denoiser: r.
        noise: the set of σ, of training and of sampling; null is the paper's, 10 from 1 to 0.01.
        steps: K.
        rate: α/σ², 0.2 in the paper.
        denoise: end with x ← r(x, σ), σ the lowest, which the paper has not (Jolicoeur-Martineau et al. 2021, §3.1).
        in_channels: channels of an image.
        size: side of an image.
        energy_sigma: σ of the denoising error.
        ood_seeds: over how many ε it is a mean.
        denoiser_optimizer: of r.
        lr_schedule: stepped once an iteration.
        clip_norm: the limit of the gradient's norm.
        ema_decay: of the average that evaluation uses.

    Raises:
        UserError: a number is out of its range.
    """

    paper = Paper(
        "Generative modeling by estimating gradients of the data distribution",
        "Yang Song, Stefano Ermon",
        year=2019,
        venue="NeurIPS",
        arxiv="1907.05600",
    )
    is_baseline = True

    sigma_floor = 0.0

    def __init__(
        self,
        denoiser: Denoiser,
        noise: GeometricNoise | None = None,
        steps: int = 100,
        rate: float = 0.2,
        denoise: bool = True,
        in_channels: int = 3,
        size: int = 32,
        energy_sigma: float = 0.05,
        ood_seeds: int = 5,
        denoiser_optimizer: OptimizerCallable = Adam,
        lr_schedule: LRSchedulerCallable | None = None,
        clip_norm: float | None = None,
        ema_decay: float = 0.999,
    ) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, size=size)
        check_scoring(energy_sigma, ood_seeds)
        if steps < 0 or not rate > 0:
            raise UserError(f"model.steps is {steps} and rate {rate}; steps must be 0 or more and rate above 0")
        self.denoiser = denoiser
        self.noise = noise or GeometricNoise(levels=10)
        self.steps = steps
        self.rate = rate
        self.ends_clean = denoise
        self.shape = (in_channels, size, size)
        self.energy_sigma = energy_sigma
        self.ood_seeds = ood_seeds
        self.optimizer_of = {"denoiser": denoiser_optimizer}
        self.lr_schedule = lr_schedule
        self.clip_norm = clip_norm
        self.averages = averaged(ema_decay, denoiser=denoiser)

    def trained_networks(self) -> dict[str, NetworkOptimizer]:
        return optimizers_of(self, self.optimizer_of, self.lr_schedule, self.clip_norm)

    def iterate(self, images: Tensor, labels: Tensor) -> LogValues:
        sigma = self.noise.draw(len(images))
        noisy = images + column(sigma, images) * torch.randn_like(images)
        error = squared_error(self.denoiser(noisy, sigma), images)
        loss = (error / (2 * sigma.square())).mean()
        norm = self.minimize(loss, "denoiser")
        return {"loss_score": loss.detach(), "loss_denoising": error.detach().mean(), "grad_norm": norm}

    def sample(
        self,
        n: int,
        *,
        labels: Tensor | None = None,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Samples:
        """Annealed Langevin dynamics from U(−1, 1) noise; `steps` are those of each level, and 0 is the noise alone.

        Raises:
            UserError: Labels are given.
        """
        self.refuse_labels(labels)
        info = self.chain_info(steps)
        steps = self.steps if steps is None else steps
        x = 2 * torch.rand(n, *self.shape, device=self.device, generator=generator) - 1
        if steps == 0:
            return info.samples(x)
        with self.evaluating():
            net = cast(Denoiser, self.network("denoiser"))
            sigmas = self.noise.on_host
            chains = (Langevin.from_delta(steps, math.sqrt(self.rate) * sigma) for sigma in sigmas)
            scores = (OfScore(net, torch.full((n,), sigma, device=self.device)) for sigma in sigmas)
            *_, x = linked(zip(chains, scores, strict=True), x, generator)
            if self.ends_clean:
                x = self.denoise(x, sigmas[-1])
        return info.samples(x)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.shape

    def chain_info(self, steps: int | None = None) -> ChainInfo:
        steps = self.steps if steps is None else steps
        if steps == 0:
            return ChainInfo(0, "noise", 0, math.nan)
        total = len(self.noise.sigma) * steps
        return ChainInfo(total + int(self.ends_clean), "noise", total, 1.0)
