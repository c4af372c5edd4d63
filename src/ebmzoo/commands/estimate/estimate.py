"""The estimate of a config: parameters, arithmetic, memory and hours, none of them measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from lightning.pytorch import LightningModule

from ebmzoo.commands.estimate.devices import DEVICES, Device
from ebmzoo.commands.estimate.evaluation import Flop, TestCost, added, sampling_cost, score_cost, test_cost
from ebmzoo.commands.estimate.fake import UnstartedTrainer
from ebmzoo.commands.estimate.iterations import IterationCost, Phase, faked, iteration_cost, parameters, phases
from ebmzoo.data import ImageData, PlaneData
from ebmzoo.data.datamodule import MOST_VALIDATION
from ebmzoo.methods import Method
from ebmzoo.tasks import Task
from ebmzoo.training.config_classes import PACKAGES

USABLE = 0.9
"""The share of a device's memory that tensors can fill: CUDA's context, workspaces and gaps take the rest."""


@dataclass(frozen=True)
class PlannedRun:
    """What is to be estimated.

    Args:
        build: Makes the model, on whatever `torch.device` is set.
        data: The data module, of which only sizes are asked.
        tasks: The tasks that the config lists.
        trainer: The arguments of the trainer.
        images: Training images; None takes those that the data set is known to have.
    """

    build: Callable[[], LightningModule]
    data: ImageData | PlaneData
    tasks: Sequence[Task]
    trainer: Mapping[str, Any]
    images: int | None = None


@dataclass(frozen=True)
class Estimate:
    """What a run costs, in FLOP and bytes.

    Args:
        parameters: The number of parameters of each network.
        batch: Images of a batch.
        phases: The phases of training, with the cost of an iteration in each.
        smaller: A smaller batch with its peak bytes, from which those of others follow; the batch itself if all fit it.
        test: The cost of the tasks.
    """

    parameters: Mapping[str, int]
    batch: int
    phases: tuple[tuple[Phase, IterationCost], ...]
    smaller: tuple[int, int]
    test: TestCost | None

    @property
    def peak(self) -> int:
        """The most bytes of tensors in an iteration of any phase."""
        return max(cost.peak for _, cost in self.phases)

    @property
    def schedule(self) -> Flop | None:
        """FLOP of the whole run; None in a run without end."""
        parts = []
        for phase, cost in self.phases:
            if phase.iterations is None:
                return None
            parts.append({kind: n * phase.iterations for kind, n in cost.flop.items()})
        return added(*parts)

    @property
    def accumulates(self) -> bool:
        """Whether gradients can be accumulated: no network steps twice in an iteration."""
        return all(cost.steps <= 1 for _, cost in self.phases)

    def peak_of(self, batch: int) -> float:
        """The most bytes with batches of `batch` images: a part that does not depend on them, and one in proportion."""
        small, bytes_of_small = self.smaller
        if small == self.batch:
            return self.peak
        an_image = (self.peak - bytes_of_small) / (self.batch - small)
        return self.peak + (batch - self.batch) * an_image

    def fitting(self, device: Device) -> tuple[int, int] | None:
        """The largest batch that fits, with the batches that a step needs to be of the config's batch; None if none."""
        for parts in range(1, self.batch + 1):
            if self.batch % parts == 0 and self.peak_of(self.batch // parts) <= USABLE * device.memory:
                return self.batch // parts, parts
        return None


def training_images(data: ImageData | PlaneData) -> int | None:
    """Images of an epoch, as far as they are known without reading them."""
    if isinstance(data, PlaneData):
        return data.n_train
    if data.max_train is not None or data.n_train is None:
        return data.max_train
    return data.n_train - min(round(data.val_fraction * data.n_train), MOST_VALIDATION)


def iterations_of(trainer: Mapping[str, Any], an_epoch: int | None) -> int | None:
    """Batches of the whole run; None without an end, or where the number of images is not known."""
    steps, epochs = trainer.get("max_steps"), trainer.get("max_epochs")
    ends = [steps] if steps is not None and steps >= 0 else []
    if epochs is not None and epochs >= 0 and an_epoch is not None:
        ends.append(epochs * an_epoch)
    return min(ends, default=None)


def estimate(plan: PlannedRun) -> Estimate:
    """Count what a config's run costs, without running it.

    Raises:
        UserError: The config cannot be used.
    """
    data, batch = plan.data, plan.data.batch_size
    images = plan.images if plan.images is not None else training_images(data)
    an_epoch = None if images is None else max(1, images // batch)
    settings = {key: plan.trainer[key] for key in ("precision", "accumulate_grad_batches", "max_steps", "max_epochs")}
    iterations = iterations_of(plan.trainer, an_epoch)
    trainer = UnstartedTrainer(iterations, an_epoch or 1, accelerator="cpu", **settings)
    for package in PACKAGES:  # what is imported below would otherwise find its own constants without values
        import_module(f"ebmzoo.{package}")
    with torch.device("meta"):
        module = plan.build()
    counts, shape = parameters(module), (data.channels, data.size, data.size)
    labels = () if getattr(data, "concepts", None) is None else (len(data.concepts),)  # type: ignore[union-attr, arg-type]
    with faked(module, trainer) as cost:
        found = []
        for phase in phases(module, trainer):
            trainer.go_to(phase.first)
            found.append((phase, iteration_cost(module, trainer, cost, (batch, *shape), (batch, *labels))))
        largest = max(found, key=lambda one: one[1].peak)
        small, less = batch, largest[1].peak
        if less > USABLE * min(device.memory for device in DEVICES):
            small = max(1, batch // 2)
            trainer.go_to(largest[0].first)
            less = iteration_cost(module, trainer, cost, (small, *shape), (small, *labels)).peak
        test = None
        if isinstance(module, Method) and plan.tasks:
            test = test_cost(plan.tasks, module, data, sampling_cost(module, cost), score_cost(module, cost, shape))
    return Estimate(counts, batch, tuple(found), (small, less), test)
