"""A model without memory: its parameters are fake tensors, which have a shape, a type and a device but no values."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ebmzoo.methods import Method
from ebmzoo.training.trainer import DEFAULTS, ZooTrainer

SILENT: dict[str, Any] = dict.fromkeys(
    ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False
)


def replace_by_fakes(module: nn.Module, mode: FakeTensorMode, device: torch.device | str) -> None:
    """Replace the parameters and buffers of `module` by fake tensors of the same layout on `device`.

    A tensor that several modules share stays shared.
    """
    made: dict[int, Tensor] = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            with mode, torch.no_grad():
                like = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
            is_parameter = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = nn.Parameter(like, tensor.requires_grad) if is_parameter else like
        return made[id(tensor)]

    keep = []  # else another tensor could get the id of one that is gone
    for part in module.modules():
        if isinstance(part, LightningModule):
            part._device = torch.device(device)  # which `to` would set
        for group in (part._parameters, part._buffers):
            for name, tensor in group.items():
                if tensor is not None:
                    keep.append(tensor)
                    group[name] = fake(tensor)  # type: ignore[assignment]  # a parameter for a parameter


class UnstartedTrainer(ZooTrainer):
    """A trainer that runs no loop: single iterations ask it for optimizers, precision and the place in the schedule.

    Args:
        iterations: Batches of the whole run; None for a run without end.
        an_epoch: Batches of an epoch.
        **settings: Arguments of Lightning's trainer.
    """

    def __init__(self, iterations: int | None, an_epoch: int, **settings: Any) -> None:
        folder = tempfile.gettempdir()  # nothing is written into it
        logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
        level = logger.level
        logger.setLevel(logging.ERROR)  # what Lightning says of devices and precision is of runs
        try:
            super().__init__(**DEFAULTS | SILENT | {"devices": 1, "default_root_dir": folder} | settings)
        finally:
            logger.setLevel(level)
        self.iterations = iterations
        self.an_epoch = an_epoch

    @property
    def num_training_batches(self) -> int | float:
        return self.an_epoch

    @property
    def estimated_stepping_batches(self) -> int | float:
        return float("inf") if self.iterations is None else max(1, self.iterations // self.batches_a_step)

    def go_to(self, step: int) -> None:
        """Stand before iteration `step`, counted from 0."""
        counted = self.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        automatic = self.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step
        counted.total.completed = automatic.total.completed = step
        self.fit_loop.epoch_progress.current.completed = step // self.an_epoch

    @contextmanager
    def attached(self, module: LightningModule) -> Iterator[None]:
        """Within it `module` is in training mode, has its optimizers, and logs nothing."""
        self.state.fn = TrainerFn.FITTING
        module.trainer = self
        module.log = module.log_dict = _ignored  # type: ignore[method-assign]
        self.strategy.connect(module)
        self.strategy.setup_optimizers(self)
        module.train()
        if isinstance(module, Method):
            module.optimization.accumulate = self.batches_a_step
        yield


def _ignored(*args: Any, **kwargs: Any) -> None:
    """Values without values are not logged."""
