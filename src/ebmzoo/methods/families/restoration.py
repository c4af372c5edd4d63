"""Restoration by what a method has: its latents, the energy of its chain, or a denoiser."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from ebmzoo.data.degradations import Operator, Projection, consistent
from ebmzoo.data.image_range import Outside
from ebmzoo.energy import Energy, frozen
from ebmzoo.methods.base.capabilities import (
    Denoises,
    Generates,
    HasChain,
    Reconstructs,
    RestorationSettings,
    Restores,
    SampleStage,
)
from ebmzoo.methods.base.method import Method
from ebmzoo.sampling.energies import Observed, Tilted
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.latent_energies import OfDecoder
from ebmzoo.sampling.noise_schedule import GeometricNoise, NoiseSchedule, geometric_sequence


class RestoresByEnergy(Method, HasChain, Restores):
    """A method with a chain on images, which here descends E(x) + |A⁺A x − A⁺y|²/2σ² (LIEBM, Eq. 17).

    With a generator the chain starts at G(m), m by `by_latents`, and is LIEBM's chain on Y from 0 with x = G(m) + Y;
    without one at A⁺y.
    """

    def restoration_energy(self) -> Energy:
        """E of Eq. 16 and 17, of images in `range`: what the chain of samples descends, unless there is better."""
        return self.chain_energy()

    @final
    def restored(
        self, y: Tensor, operator: Operator, restoring: RestorationSettings, *, generator: torch.Generator | None = None
    ) -> list[SampleStage]:
        sampler, energy = self.sampler.lasting(restoring.steps), self.restoration_energy()
        with self.evaluating(), frozen(self):
            x, nfe, name, stages = operator.pinv(y), 0, "chain", list[SampleStage]()
            if isinstance(self, Generates):
                stages = by_latents(self, lambda x: energy(self.range.inward(x)), y, operator, restoring, generator)
                x, nfe, name = stages[-1].states[-1], stages[-1].nfe[-1], "residual"
            sigma = self._sigma(sampler, operator, restoring, x.shape[-1])
            seen = Observed(energy, Outside(Projection(operator), self.range), operator.pinv(y), sigma)
            end = self.range.outward(sampler(seen, self.range.inward(x), generator=generator))
            stages.append(SampleStage(name, [x, end], [nfe, nfe + sampler.steps]))
            return [*stages, *projected(stages[-1], y, operator, restoring)]

    def _sigma(self, sampler: Langevin, operator: Operator, restoring: RestorationSettings, size: int) -> float:
        """σ of Eq. 17 in units of [-1, 1]: by the pull, or of the noise on y, at the temperature T of the chain."""
        unit = (self.range.high - self.range.low) / 2
        by_pull = math.sqrt(sampler.step_size / restoring.pull) / unit if restoring.pull else math.inf
        if operator.noise == 0:
            return by_pull
        # the chain's law is exp(−(E + |A⁺(A x − y)|²/2σ²)/T), whose likelihood has the standard deviation √T σ
        temperature = sampler.temperature
        noise = operator.noise * operator.amplification(size)
        return max(by_pull, noise / math.sqrt(temperature)) if temperature > 0 else math.inf


def by_latents(
    method: Generates,
    energy: Energy | None,
    y: Tensor,
    operator: Operator,
    restoring: RestorationSettings,
    generator: torch.Generator | None = None,
) -> list[SampleStage]:
    """G(m), with m by Langevin steps on E(G(m)) + |m|²/2 + |A⁺A G(m) − A⁺y|²/2σ² (LIEBM, Eq. 16).

    The chain starts from the mean of q(m|A⁺y), as the paper's, which is the stage `inferred`; without an inference
    network from N(0, I), several times over, and of each image's ends the one of least energy is kept. `energy` is of
    images in [-1, 1]; None leaves E out. A step counts 2, of G and of E, or 1 without E.
    """
    known, stages, nfe = operator.pinv(y), list[SampleStage](), 0
    if isinstance(method, Reconstructs) and method.can_infer:
        decode, starts, m = method.decode_inferred, 1, method.infer(known)
        x, nfe = decode(m), 2
        stages.append(SampleStage("inferred", [known, x], [0, nfe]))
    else:
        decode, starts = method.decode, restoring.starts
        m = torch.randn(len(y) * starts, method.latent, device=y.device, generator=generator)
        x = known
    sigma = max(restoring.sigma, operator.noise * operator.amplification(known.shape[-1]))
    given = known.repeat_interleave(starts, 0)
    posterior = Tilted(OfDecoder(Observed(energy or _flat, Projection(operator), given, sigma), decode), 1.0)
    eta = restoring.latent_rate / (1 + known[0].numel() / (sigma**2 * method.latent))
    m = Langevin(restoring.latent_steps, eta)(posterior, m, generator=generator).view(len(y), starts, -1)
    with torch.no_grad():
        least = posterior(m.flatten(0, 1)).view(len(y), starts).argmin(1)
        end = decode(m[torch.arange(len(y), device=y.device), least])
    a_step = 1 if energy is None else 2
    cost = starts * (restoring.latent_steps * a_step + (a_step if starts > 1 else 0)) + 1
    stages.append(SampleStage("latent", [x, end], [nfe, nfe + cost]))
    return stages


def _flat(x: Tensor) -> Tensor:
    return x.new_zeros(len(x))


def projected(last: SampleStage, y: Tensor, operator: Operator, restoring: RestorationSettings) -> list[SampleStage]:
    """The stage `projected` after `last`, of no network; none where y has noise, which it would put into the image."""
    if operator.noise or not restoring.projections:
        return []
    x = last.states[-1]
    return [SampleStage("projected", [x, consistent(x, y, operator, restoring.projections)], [last.nfe[-1]] * 2)]


@dataclass(frozen=True)
class Measured:
    """What y = A x + nε' determines of noisier images ᾱx + σ̄ε: their part in the range of A⁺, and the noise it lacks.

    P x_noisy = ᾱA⁺y + √(σ̄² − ᾱ²n²) P ε, P = A⁺A, n that of A⁺ε'; where σ̄ < ᾱn nothing is known.
    Source: Wang et al. 2023 (DDNM, Eq. 7 and 17–19) and, for levels, Choi et al. 2021 (ILVR, Eq. 8).
    """

    y: Tensor
    operator: Operator

    def put_back(self, x: Tensor, noise: Tensor, alpha: float, sigma: float) -> Tensor:
        """`x`, with what is known of it; `noise` is ε."""
        lacking = sigma**2 - (alpha * self.operator.noise * self.operator.amplification(x.shape[-1])) ** 2
        if lacking < 0:
            return x
        known = alpha * self.operator.pinv(self.y) + math.sqrt(lacking) * self.operator.project(noise)
        return self.operator.null(x) + known


@dataclass(frozen=True)
class Known:
    """What is known of images, `clean`, where not `hidden`; `noise` is the ε of all levels."""

    clean: Tensor
    hidden: Tensor
    noise: Tensor
    schedule: NoiseSchedule

    def put_back(self, y: Tensor, level: int, scale: Tensor | float) -> Tensor:
        """`y`, with m (ᾱ x + σ̄ ε) of the level where x is known."""
        i = torch.full((len(y),), level, device=y.device)
        return torch.where(self.hidden, y, scale * self.schedule.noised(self.clean, i, self.noise))


@dataclass(frozen=True)
class MeasuredAtLevels:
    """`Measured` at the levels of a schedule; `noise` is the ε of all levels."""

    measured: Measured
    noise: Tensor
    schedule: NoiseSchedule

    def put_back(self, y: Tensor, level: int, scale: Tensor | float) -> Tensor:
        """y = m x_level, with what is known of it."""
        alpha, sigma = self._levels[level]
        return scale * self.measured.put_back(y / scale, self.noise, alpha, sigma)

    @cached_property
    def _levels(self) -> list[list[float]]:
        """ᾱ and σ̄ of each level, for which the host waits once, not at every step."""
        return torch.stack([self.schedule.alpha_bar, self.schedule.sigma_bar], dim=1).tolist()


class RestoresByDenoiser(Method, Restores, Denoises):
    """A method with a denoiser r of many σ: x ← r(x̃_k, σ_k), x̃_{k+1} = x + σ_{k+1} ε with what y determines put back.

    σ_k falls geometrically from the largest to the smallest of training, `restoring.steps` of them, 50 for None; with
    noise on y to that of A⁺y, where what y determines needs no more: for A = I the answer is r(y, σ) itself.
    Source: Wang et al. 2023 (DDNM), Algorithm 1, with the noise of training in place of a diffusion's.
    """

    noise: GeometricNoise

    @final
    def restored(
        self, y: Tensor, operator: Operator, restoring: RestorationSettings, *, generator: torch.Generator | None = None
    ) -> list[SampleStage]:
        measured, steps = Measured(y, operator), 50 if restoring.steps is None else restoring.steps
        start = x = operator.pinv(y)
        last = max(self.noise.on_host[-1], operator.noise * operator.amplification(x.shape[-1]))
        first = max(self.noise.on_host[0], last)
        with self.evaluating():
            for sigma in (max(last, each) for each in geometric_sequence(first, last, steps)):
                eps = torch.randn(x.shape, device=x.device, dtype=x.dtype, generator=generator)
                x = self.denoise(measured.put_back(x + sigma * eps, eps, 1.0, sigma), sigma)
            stage = SampleStage("denoised", [start, x], [0, steps])
            return [stage, *projected(stage, y, operator, restoring)]
