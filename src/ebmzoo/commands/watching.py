"""Watching the chain of samples as it walks, and changing its noise, without changing what it computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from threading import Event
from typing import Any

import torch
from torch import Tensor

from ebmzoo.energy import Energy
from ebmzoo.errors import UserError
from ebmzoo.methods import Method
from ebmzoo.methods.base.capabilities import HasChain
from ebmzoo.methods.families.recovery_likelihood import RecoveryLikelihood
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.latent_energies import OfResidual
from ebmzoo.sampling.level_chain import RecoveryChain


@dataclass(frozen=True)
class SeenState:
    """A state of the chains as the sampler has it.

    Args:
        step: The number of Langevin steps up to it.
        x: `(n, *)`, in the units of the energy that is descended.
        run: Which of the sampler's runs it is of, from 0; of a sequence of noise levels, each has one.
    """

    step: int
    x: Tensor
    run: int


class Recorder:
    """Keeps evenly spaced states of chains of unknown length: never more than twice `most`, in order.

    Args:
        most: The number of states that `states` returns at most, 2 or more.
        stop: Once it is set, the next state is the last.
    """

    def __init__(self, most: int, stop: Event | None = None) -> None:
        self.most = most
        self.stop = stop
        self.run = -1
        self._kept: list[SeenState] = []
        self._last: SeenState | None = None
        self._stride = 1
        self._count = 0
        self._step = 0

    def see(self, x: Tensor, is_start: bool) -> None:
        """Take in the next state of the run.

        Raises:
            UserError: The chain is to stop.
        """
        if self.stop is not None and self.stop.is_set():
            raise UserError("stopped before the end of the chain")
        self._step += not is_start
        self._last = SeenState(self._step, x, self.run)
        if self._count % self._stride == 0:
            self._kept.append(SeenState(self._step, x.detach().clone(), self.run))
            if len(self._kept) > 2 * self.most:
                self._kept = self._kept[::2]
                self._stride *= 2
        self._count += 1

    def states(self) -> list[SeenState]:
        """At most `most` of the states, evenly spaced, with the first and the last; none of a chain never run."""
        if self._last is None:
            return []
        last = self._last.step, self._last.run
        kept = [state for state in self._kept if (state.step, state.run) != last]
        every = [*kept, self._last]
        if len(every) <= self.most:
            return every
        return [every[round(k * (len(every) - 1) / (self.most - 1))] for k in range(self.most)]


_RECORDER: ContextVar[Recorder] = ContextVar("recorder")


@dataclass(frozen=True)
class WatchedLangevin(Langevin):
    """`Langevin`, whose states a recorder sees."""

    def __call__(self, energy: Energy, x: Tensor, **settings: Any) -> Tensor:
        *_, x = self.path(energy, x, **settings)
        return x

    def path(self, energy: Energy, x: Tensor, **settings: Any) -> Iterator[Tensor]:
        recorder = _RECORDER.get()
        recorder.run += 1
        for k, state in enumerate(super().path(energy, x, **settings)):
            yield state
            if k > 0 or recorder.run == 0:  # a later run goes on from the end of another
                recorder.see(energy.image + state if isinstance(energy, OfResidual) else state, k == 0)


@dataclass(frozen=True)
class WatchedLevelChain(RecoveryChain):
    """`RecoveryChain`, whose states a recorder sees."""

    def __call__(
        self,
        energy: Energy,
        y: Tensor,
        unit: Tensor,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        assert steps is not None  # as in sampling
        *_, y = self.path(energy, y, unit, steps, generator)
        return y

    def path(
        self, energy: Energy, y: Tensor, unit: Tensor, steps: int, generator: torch.Generator | None
    ) -> Iterator[Tensor]:
        recorder = _RECORDER.get()
        recorder.run += 1
        for k, state in enumerate(super().path(energy, y, unit, steps, generator)):
            yield state  # what the caller puts back into it is seen too
            recorder.see(state, k == 0)


def with_noise(method: Method, noise: float) -> tuple[str, Any] | None:
    """The attribute that holds the method's chain, and that chain with `noise` times its noise; None without one."""
    if isinstance(method, RecoveryLikelihood):
        chain = method.chain
        return "chain", chain if noise == 1 else replace(chain, noise=chain.noise * noise)
    if isinstance(method, HasChain):
        sampler = method.sampler
        return "sampler", sampler if noise == 1 else replace(sampler, noise=sampler.tau * noise)
    return None


@contextmanager
def watched(method: Method, noise: float = 1.0, most: int = 40, stop: Event | None = None) -> Iterator[Recorder]:
    """Within it the method's chain has `noise` times its noise, and the recorder sees its states.

    A chain of a class of its own, such as one of Heun's steps, is run as it is, and not seen.

    Args:
        method: The method, whose samples are otherwise what they are without this.
        noise: The factor of τ, by whose square the temperature changes.
        most: The number of states that the recorder gives at most.
        stop: Once it is set, the chain ends with a `UserError`.
    """
    recorder = Recorder(most, stop)
    found = with_noise(method, noise)
    if found is None:
        yield recorder
        return
    name, chain = found
    own = getattr(method, name)
    kind = {Langevin: WatchedLangevin, RecoveryChain: WatchedLevelChain}.get(type(chain))
    if kind is not None:
        chain = kind(**{field.name: getattr(chain, field.name) for field in fields(chain)})
    token = _RECORDER.set(recorder)
    setattr(method, name, chain)
    try:
        yield recorder
    finally:
        setattr(method, name, own)
        _RECORDER.reset(token)
