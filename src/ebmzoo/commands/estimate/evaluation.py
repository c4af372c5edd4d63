"""What `ebmzoo test` costs: the arithmetic of samples and scores, counted on small batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from ebmzoo.commands.estimate.counting import CostMode
from ebmzoo.data import ImageData
from ebmzoo.methods import Method
from ebmzoo.methods.base.capabilities import StartsFromProposal
from ebmzoo.methods.families.generator_chain import GeneratorAlone
from ebmzoo.tasks import Cost, Generation, OutOfDistributionDetection, Task

Flop = Mapping[torch.dtype, float]
FEW = 2
"""Images of a batch that is counted; the arithmetic of an image does not depend on the others."""


@dataclass(frozen=True)
class SamplingCost:
    """FLOP of one sample: those of its start, and those of each step of its chain.

    Args:
        start: FLOP without a chain.
        step: FLOP of one Langevin step.
        steps: Steps of a chain for each of those that `sample` is asked for, as at each of several levels.
        total: Steps of the chain by default.
    """

    start: Flop
    step: Flop
    steps: float
    total: int

    def of(self, asked: int | None = None) -> Flop:
        """FLOP of a sample of `asked` steps, by default of the method's own number."""
        steps = self.total if asked is None else self.steps * asked
        kinds = {*self.start, *self.step}
        return {kind: self.start.get(kind, 0) + steps * self.step.get(kind, 0) for kind in kinds}


def sampling_cost(method: Method, cost: CostMode) -> SamplingCost:
    """FLOP of a sample, within `faked`: they grow by the same number with each step, so that two short chains do."""
    if isinstance(method, GeneratorAlone):  # whose samples have no chain
        return SamplingCost(_counted(cost, lambda: method.sample(FEW)), {}, 0, 0)
    found = []
    with method.evaluating():
        method.sample(FEW, steps=0)  # the first may calibrate the generator, once for all
        for steps in (1, 2):
            flop = _counted(cost, partial(method.sample, FEW, steps=steps))
            found.append((method.chain_info(steps).steps, flop))
        total = method.chain_info().steps
    (one, first), (two, second) = found
    more = two - one
    step = {kind: (n - first.get(kind, 0)) / more for kind, n in second.items()} if more else {}
    start = {kind: n - one * step.get(kind, 0) for kind, n in first.items()}
    return SamplingCost(start, step, one, total)


def score_cost(method: Method, cost: CostMode, shape: Sequence[int]) -> Flop:
    """FLOP of the out-of-distribution score of one image, within `faked`."""
    with method.evaluating():
        return _counted(cost, lambda: method.ood_score(torch.zeros(FEW, *shape)))


def _counted(cost: CostMode, work: Callable[[], object]) -> Flop:
    """FLOP of one of the `FEW` images that `work` is for."""
    before = cost.flop.copy()
    work()
    return {kind: n / FEW for kind, n in (cost.flop - before).items()}


@dataclass(frozen=True)
class TestCost:
    """FLOP of the tasks that a config lists.

    Args:
        flop: By task, of the samples that it draws and the scores that it takes; not of feature extractors.
        uncounted: The tasks of which nothing is counted.
    """

    flop: Mapping[str, Flop]
    uncounted: tuple[str, ...]


def test_cost(tasks: Sequence[Task], method: Method, data: object, sampling: SamplingCost, score: Flop) -> TestCost:
    """The cost of the tasks that sample and score most: `Generation`, `Cost` and `OutOfDistributionDetection`."""
    found, uncounted = {}, []
    for task in tasks:
        if isinstance(task, Generation):
            found[task.name] = _times(sampling.of(task.steps), task.n)
            if isinstance(method, StartsFromProposal) and method.can_propose:
                found[task.name] = added(found[task.name], _times(sampling.of(0), task.n))
        elif isinstance(task, Cost):
            images = task.timed * (1 + task.repeats) + task.n
            found[task.name] = added(*(_times(sampling.of(k), images) for k in task.steps))
        elif isinstance(task, OutOfDistributionDetection) and isinstance(data, ImageData):
            found[task.name] = _times(score, task.n * (1 + len(data.ood)))
        else:
            uncounted.append(task.name)
    return TestCost(found, tuple(uncounted))


def _times(flop: Flop, images: int) -> Flop:
    return {kind: images * n for kind, n in flop.items()}


def added(*parts: Flop) -> Flop:
    """FLOP of several parts, by type."""
    total: Counter[torch.dtype] = Counter()
    for part in parts:
        for kind, n in part.items():
            total[kind] += n  # type: ignore[assignment]  # a Counter of fractions
    return total
