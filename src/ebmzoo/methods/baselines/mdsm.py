"""MDSM: one energy whose gradient denoises at many scales, without any chain in training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast, final

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Adam

from ebmzoo.energy import Energy, gradient
from ebmzoo.errors import UserError, at_least
from ebmzoo.methods.base.averaging import averaged
from ebmzoo.methods.base.log_values import LogValues, squared_error
from ebmzoo.methods.base.optimization import NetworkOptimizer, optimizers_of
from ebmzoo.methods.base.paper import Paper
from ebmzoo.methods.base.samples import ChainInfo, Samples
from ebmzoo.methods.families.denoiser_energy import linked
from ebmzoo.methods.families.restoration import RestoresByDenoiser
from ebmzoo.networks.denoiser import Denoiser
from ebmzoo.sampling.denoiser_energies import DenoisingPotential
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.noise_schedule import GeometricNoise, column, geometric_sequence


@dataclass(frozen=True)
class MDSMCooling:
    """The temperature of each step: `hot` of them at T, `steps` down to 1 geometrically, `last` down to 0 linearly.

    Source: the authors' code, whose numbers are the default: 2,700 steps from T = 100.
    """

    hot: int = 500
    steps: int = 2000
    last: int = 200
    temperature: float = 100.0

    def __post_init__(self) -> None:
        if min(self.hot, self.steps, self.last) < 0 or not self.temperature >= 1:
            raise UserError(f"model.cooling is {self}; its steps must be 0 or more and its temperature 1 or more")

    def temperatures(self) -> list[float]:
        """One number for each step."""
        ending = [k / max(self.last - 1, 1) for k in reversed(range(self.last))]
        return [self.temperature] * self.hot + geometric_sequence(self.temperature, 1.0, self.steps) + ending

    def lasting(self, steps: int) -> MDSMCooling:
        """With `steps` in all, in the same proportions."""
        total = self.hot + self.steps + self.last
        hot, last = (steps * part // max(total, 1) for part in (self.hot, self.last))
        return MDSMCooling(hot, steps - hot - last, last, self.temperature)


@final
class MDSM(RestoresByDenoiser):
    """Multi-scale denoising score matching: an energy E whose one step −σ₀²∇E restores images from noise of any σ.

    Paper: Zengyi Li, Yubei Chen, Friedrich T. Sommer: Learning energy-based models in high-dimensional spaces with
    multi-scale denoising score matching. Preprint 2019, arXiv:1910.07762.

    p(x) ∝ exp(−E(x)), E(x) = x·(x − r(x, σ₀))/2σ₀² with the network of a denoiser, which makes ∇E conservative:

        L = mean |x̃ − σ₀²∇E(x̃) − x|²/σ², x̃ = x + σε, σ of each image drawn from the set                (Eq. 10)

    |x − r(x, σ₀)|²/2σ₀² would have the gradient (1 − ∂r/∂x)ᵀ(x − r)/σ₀², which at r(x) = x, where `UNetDenoiser`
    starts, is zero and does not change with r to first order: it would never learn.
    Source: Li, Chen & Sommer 2019, Learning energy-based models in high-dimensional spaces with multi-scale denoising
    score matching, and its code; the energy's form is of `DenoisingPotential`. Their numbers are of images in [0, 1];
    the defaults are those for [-1, 1]: σ and σ₀ twice, the step's size four times.

    Args:
        denoiser: r.
        noise: the set of σ; null is from 2.4 to 0.1, with 128 levels. Theirs is linear.
        sigma0: σ₀.
        step_size: η of the samples' chain, whose noise is √(2ηT).
        cooling: T of each of its steps.
        in_channels: channels of an image.
        size: side of an image.
        denoiser_optimizer: of r.
        lr_schedule: stepped once an iteration.
        clip_norm: the limit of the gradient's norm.
        ema_decay: of the average that evaluation uses.

    Raises:
        UserError: a number is out of its range.
    """

    paper = Paper(
        "Learning energy-based models in high-dimensional spaces with multi-scale denoising score matching",
        "Zengyi Li, Yubei Chen, Friedrich T. Sommer",
        year=2019,
        venue="Preprint",
        arxiv="1910.07762",
    )
    is_baseline = True

    def __init__(
        self,
        denoiser: Denoiser,
        noise: GeometricNoise | None = None,
        sigma0: float = 0.2,
        step_size: float = 0.0008,
        cooling: MDSMCooling = MDSMCooling(),
        in_channels: int = 3,
        size: int = 32,
        denoiser_optimizer: OptimizerCallable = Adam,
        lr_schedule: LRSchedulerCallable | None = None,
        clip_norm: float | None = None,
        ema_decay: float = 0.999,
    ) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, size=size)
        if not (sigma0 > 0 and step_size > 0):
            raise UserError(f"model.sigma0 is {sigma0} and step_size {step_size}; both must be above 0")
        self.denoiser = denoiser
        self.noise = noise or GeometricNoise(128, sigma_max=2.4, sigma_min=0.1)
        self.sigma0 = sigma0
        self.step_size = step_size
        self.cooling = cooling
        self.shape = (in_channels, size, size)
        self.optimizer_of = {"denoiser": denoiser_optimizer}
        self.lr_schedule = lr_schedule
        self.clip_norm = clip_norm
        self.averages = averaged(ema_decay, denoiser=denoiser)

    def trained_networks(self) -> dict[str, NetworkOptimizer]:
        return optimizers_of(self, self.optimizer_of, self.lr_schedule, self.clip_norm)

    def iterate(self, images: Tensor, labels: Tensor) -> LogValues:
        sigma = self.noise.draw(len(images))
        noisy = (images + column(sigma, images) * torch.randn_like(images)).requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):  # the other kernels of attention have no second derivative
            energies = self._of(self.denoiser, len(images))(noisy)
            (grad,) = torch.autograd.grad(energies.sum(), noisy, create_graph=True)
            error = squared_error(noisy.detach() - self.sigma0**2 * grad, images)
            loss = (error / sigma.square()).mean()
            norm = self.minimize(loss, "denoiser")
        values = {"energy_noisy": energies.detach().mean(), "loss_denoising": error.detach().mean()}
        return values | {"loss_score": loss.detach(), "grad_norm": norm}

    def _of(self, denoiser: Denoiser, n: int) -> DenoisingPotential:
        return DenoisingPotential(denoiser, torch.full((n,), self.sigma0, device=self.device))

    def energy(self, x: Tensor) -> Tensor:
        return self._of(cast(Denoiser, self.network("denoiser")), len(x))(x)

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """x − σ₀²∇E(x): the same for every σ."""
        return x - self.sigma0**2 * gradient(self.energy, x)

    def sample(
        self,
        n: int,
        *,
        labels: Tensor | None = None,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Samples:
        """Langevin steps while T falls from T₀, from N(0, σ₀²T₀ I), and one denoising; `steps` are all of them.

        σ₀√T₀ should be a σ of training's set: E is unknown further out. It is 2 by the defaults, as in the code.

        The temperature of these samples is that of the last step.

        Raises:
            UserError: Labels are given.
        """
        self.refuse_labels(labels)
        cooling = self.cooling if steps is None else self.cooling.lasting(steps)
        temperatures = cooling.temperatures()
        spread = self.sigma0 * math.sqrt(cooling.temperature)
        x = spread * torch.randn(n, *self.shape, device=self.device, generator=generator)
        if not temperatures:
            return self.chain_info(steps).samples(x)
        with self.evaluating():
            energy = self._of(cast(Denoiser, self.network("denoiser")), n)
            *_, x = linked(self._links(temperatures, energy), x, generator)
            x = self.denoise(x, self.sigma0)
        return self.chain_info(steps).samples(x)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.shape

    def chain_info(self, steps: int | None = None) -> ChainInfo:
        temperatures = (self.cooling if steps is None else self.cooling.lasting(steps)).temperatures()
        if not temperatures:
            return ChainInfo(0, "noise", 0, math.nan)
        return ChainInfo(len(temperatures) + 1, "noise", len(temperatures), temperatures[-1])

    def _links(self, temperatures: list[float], energy: Energy) -> Iterator[tuple[Langevin, Energy]]:
        for temperature in temperatures:
            yield Langevin(1, self.step_size, math.sqrt(2 * self.step_size * temperature)), energy
