"""Methods with an energy alone, whose chains start from uniform noise or from a buffer of past chains."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import cast, final

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from ebmzoo.energy import Energy, EnergyNet
from ebmzoo.methods.base.capabilities import RunsChain
from ebmzoo.methods.base.optimization import NetworkOptimizer, optimizers_of
from ebmzoo.methods.base.samples import ChainInfo, Samples
from ebmzoo.methods.families.restoration import RestoresByEnergy
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.replay import ReplayBuffer


def before_last(sampler: Langevin, energy: Energy, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """y, where the last of the K ≥ 1 gradient steps of `noise_first` is taken."""
    xi = torch.randn(x.shape, device=x.device, dtype=x.dtype, generator=generator)
    y = x + sampler.tau * xi
    y = y if sampler.bounds is None else y.clamp(*sampler.bounds)
    return replace(sampler, steps=sampler.steps - 1)(energy, y, generator=generator)


def noise_first(sampler: Langevin, energy: Energy, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """x after K steps in which the noise comes before the gradient: y = x + τξ, x ← y − η∇E(y).

    Source: the code of Du & Mordatch 2019 and of Du et al. 2021. It is a `Langevin` chain on y, with one more noise
    before it and none after its last step; the bounds hold for every y, which there they do not.
    """
    if sampler.steps == 0:
        return x
    y = before_last(sampler, energy, x, generator)
    return replace(sampler, steps=1, noise=0.0)(energy, y, generator=generator)


class ChainFromNoise(RestoresByEnergy, RunsChain):
    """A method with a network `energy_net` alone; it says where its chains start and what one chain is."""

    energy_net: EnergyNet
    rounds: int
    energy_optimizer: OptimizerCallable
    lr_schedule: LRSchedulerCallable | None
    clip_norm: float | None

    @property
    @abstractmethod
    def start_name(self) -> str:
        """What the chains of `sample` start from, in a word."""

    @abstractmethod
    def start(self, n: int, generator: torch.Generator | None) -> Tensor:
        """`n` images in [-1, 1] from which the chains of `sample` start."""

    @abstractmethod
    def walk(self, sampler: Langevin, energy: Energy, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """The end of one chain of training, of the steps of `sampler`, from `x`; both are in `range`."""

    def revisited(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Where a chain of `sample` starts that goes on from `x`, the end of another; both are in `range`."""
        return x

    @final
    def trained_networks(self) -> dict[str, NetworkOptimizer]:
        return optimizers_of(self, {"energy_net": self.energy_optimizer}, self.lr_schedule, self.clip_norm)

    @final
    def energy(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.network("energy_net")(self.range.inward(x)))

    @final
    def chain_energy(self) -> Energy:
        return self.network("energy_net")

    @property
    @final
    def chain_steps(self) -> int:
        return self.rounds * self.sampler.steps

    @final
    def long_chain(
        self, n: int, steps: int, *, generator: torch.Generator | None = None
    ) -> tuple[str, Iterator[Tensor]]:
        """Of `Langevin`'s steps, whose noise comes after the gradient."""
        x0 = self.range.inward(self.start(n, generator))
        path = self.sampler.lasting(steps).path(self.network("energy_net"), x0, generator=generator)
        return self.start_name, map(self.range.outward, path)

    @final
    def sample(
        self,
        n: int,
        *,
        labels: Tensor | None = None,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Samples:
        """`rounds` chains of training, one after another; `steps` is their steps in all, and 0 the start alone.

        `nfe` counts this call's evaluations, not those that made a state of the buffer.

        Raises:
            UserError: Labels are given, which an unconditional method does not take.
        """
        self.refuse_labels(labels)
        info = self.chain_info(steps)
        length = self.sampler.steps or info.steps
        energy = cast(EnergyNet, self.network("energy_net"))
        with self.evaluating():
            x0 = self.start(n, generator)
            if info.steps == 0:
                return info.samples(x0)
            x = self.range.inward(x0)
            for done in range(0, info.steps, max(length, 1)):
                if done > 0 or self.start_name == "replay":
                    x = self.revisited(x, generator)
                x = self.walk(replace(self.sampler, steps=min(length, info.steps - done)), energy, x, generator)
            return info.samples(self.range.outward(x))

    @final
    def chain_info(self, steps: int | None = None) -> ChainInfo:
        total = self.chain_steps if steps is None else steps
        return ChainInfo(total, self.start_name, total, self.sampler.temperature if total else math.nan)


class ChainFromReplay(ChainFromNoise):
    """A method whose chains start from a replay buffer in training, and when sampling from noise or from the buffer."""

    replay: ReplayBuffer
    sample_from_replay: bool

    @property
    @final
    def image_shape(self) -> tuple[int, int, int]:
        return self.replay.shape

    @property
    @final
    def start_name(self) -> str:
        return "replay" if self.sample_from_replay else "noise"

    @final
    def start(self, n: int, generator: torch.Generator | None) -> Tensor:
        if self.sample_from_replay:
            return self.replay.draw(n, generator, renew=False)[0]
        return self.replay.fresh(n, generator)
