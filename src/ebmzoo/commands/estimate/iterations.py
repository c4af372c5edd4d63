"""One iteration of each phase of a run, counted under fake tensors."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer

from ebmzoo.commands.estimate.counting import CostMode
from ebmzoo.commands.estimate.fake import UnstartedTrainer, replace_by_fakes
from ebmzoo.energy import Energy
from ebmzoo.methods import Method
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.replay import ReplayBuffer

DEVICE = "cpu"
"""Where fake tensors stand: autograd asks CUDA for a context, and costs do not depend on the device."""


@dataclass(frozen=True)
class Phase:
    """A part of a run in which all iterations cost the same.

    Args:
        name: What `Method.phase` calls it.
        first: Its first iteration, counted from 0.
        iterations: How many there are; None in a run without end.
    """

    name: str
    first: int
    iterations: int | None


@dataclass(frozen=True)
class IterationCost:
    """What one iteration costs.

    Args:
        flop: FLOP by the type of the numbers that are multiplied.
        peak: The most bytes of tensors that live at once: weights, averages, optimizers' states, replay buffers,
            gradients and what autograd keeps.
        steps: Optimizer steps of the network that takes most of them.
    """

    flop: Mapping[torch.dtype, int]
    peak: int
    steps: int

    @property
    def total(self) -> int:
        """FLOP of all types."""
        return sum(self.flop.values())


def phases(module: LightningModule, trainer: UnstartedTrainer) -> list[Phase]:
    """The phases of a run in their order, found by bisection: each is one stretch of iterations."""
    if not isinstance(module, Method):
        return [Phase("training", 0, trainer.iterations)]

    def name(step: int) -> str:
        trainer.go_to(step)
        return module.phase

    # A run without end is in its last phase after an unthinkable number of iterations.
    end = trainer.iterations if trainer.iterations is not None else 10**9
    found, first = [], 0
    while first < end:
        last = _last_alike(name, first, end - 1)
        endless = trainer.iterations is None and last == end - 1
        found.append(Phase(name(first), first, None if endless else last + 1 - first))
        first = last + 1
    return found


def _last_alike(name: Any, first: int, end: int) -> int:
    """The last step up to `end` whose name is that of `first`."""
    low, high = first, end
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if name(middle) == name(first) else (low, middle - 1)
    return low


@contextmanager
def faked(module: LightningModule, trainer: UnstartedTrainer) -> Iterator[CostMode]:
    """Within it `module` is made of fake tensors, with all optimizers' states, and operations are counted."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    replace_by_fakes(module, fake, DEVICE)
    with warnings.catch_warnings(), fake, trainer.attached(module), CostMode() as cost, short_chains(cost):
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # a copy of a network does
        cost.hold([*module.parameters(), *module.buffers()])
        for part in module.modules():
            if isinstance(part, ReplayBuffer):
                part.count = part.size  # a buffer that has filled, as in most of a run
        for optimizer in trainer.optimizers:
            _fill_state(optimizer)
        yield cost


@contextmanager
def short_chains(cost: CostMode) -> Iterator[None]:
    """Within it a chain takes three steps at most, and those that it leaves out are counted like the second.

    Every step of a chain passes the same network once, and its graph is gone before the next: neither the arithmetic of
    a step nor the peak depends on how many there are.
    """
    chain = Langevin.__call__

    def shortened(self: Langevin, energy: Energy, x: Tensor, **options: Any) -> Tensor:
        if self.steps <= 3:
            return chain(self, energy, x, **options)
        counts = []
        for steps in (1, 2):
            before = cost.flop.copy()
            end = chain(replace(self, steps=steps), energy, x, **options)
            counts.append(cost.flop - before)
        first, both = counts
        for kind, n in both.items():
            cost.flop[kind] += (self.steps - 2) * (n - first[kind]) - first[kind]
        return end

    with patch.object(Langevin, "__call__", shortened):
        yield


def _fill_state(optimizer: Optimizer) -> None:
    """Take a step, at which an optimizer makes its state."""
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    for p in parameters:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    optimizer.zero_grad()


def iteration_cost(
    module: LightningModule, trainer: UnstartedTrainer, cost: CostMode, shape: Sequence[int], labels: Sequence[int]
) -> IterationCost:
    """What an iteration costs where the trainer stands, on a batch of images `shape` with labels of shape `labels`.

    It runs within `faked`.
    """
    images = torch.empty(*shape).contiguous(memory_format=torch.channels_last)
    batch = images, torch.zeros(*labels, dtype=torch.int64)
    before, steps = cost.flop.copy(), Counter[int]()
    hooks = [o.register_step_post_hook(_counting(steps, at)) for at, o in enumerate(trainer.optimizers)]
    cost.forget_peak()
    with trainer.precision_plugin.forward_context():
        if module.automatic_optimization:
            loss = module.training_step(batch, 0)
            (loss["loss"] if isinstance(loss, Mapping) else loss).backward()  # type: ignore[union-attr]
        else:
            module.training_step(batch, 0)
    if module.automatic_optimization:
        for optimizer in trainer.optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for hook in hooks:
        hook.remove()
    return IterationCost(cost.flop - before, cost.peak, max(steps.values(), default=0))


def _counting(steps: Counter[int], at: int) -> Any:
    def hook(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        steps[at] += 1

    return hook


def parameters(module: LightningModule) -> dict[str, int]:
    """The number of parameters of each network of a model, without averages, which are copies."""
    found = {name: sum(p.numel() for p in part.parameters()) for name, part in module.named_children()}
    return {name: count for name, count in found.items() if count and name != "averages"}
