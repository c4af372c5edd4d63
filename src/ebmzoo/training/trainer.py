"""Lightning's trainer with the settings that energy-based models need."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.plugins.precision.precision import _PRECISION_INPUT
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy

from ebmzoo.methods.base.method import Method
from ebmzoo.sampling.auto_precision import takes_bf16
from ebmzoo.training.durable import DurableIO
from ebmzoo.training.restoring import Restorer


class ZooTrainer(Trainer):
    """A `Trainer` that allows several backward passes per batch under DDP and gradient accumulation in a `Method`.

    Args:
        precision: As Lightning's, or `auto`: `bf16-mixed` on a GPU that has bf16 and on a CPU with AMX, else `32-true`.
            Energies, chain states and noise are fp32 in both.
    """

    def __init__(self, *args: Any, precision: _PRECISION_INPUT | Literal["auto"] | None = None, **kwargs: Any) -> None:
        if precision == "auto":
            on_gpu = torch.cuda.is_available() and kwargs.get("accelerator", "auto") in ("auto", "gpu", "cuda")
            precision = "bf16-mixed" if takes_bf16("cuda" if on_gpu else "cpu") else "32-true"
        super().__init__(*args, precision=precision, **kwargs)
        self._checkpoint_connector = Restorer(self)
        if isinstance(self.strategy, DDPStrategy):
            # Each loss involves only some of the networks; every process has its own replay buffer.
            self.strategy._ddp_kwargs = {
                "find_unused_parameters": True,
                "broadcast_buffers": False,
            } | self.strategy._ddp_kwargs
        if type(self.strategy.checkpoint_io) is TorchCheckpointIO:
            self.strategy.checkpoint_io = DurableIO()
        self.batches_a_step = self.accumulate_grad_batches
        self.model_config: dict[str, Any] | None = None
        """The model's resolved section of the config, where the command line built it; figures name its digest."""

    def log_at(self, step: int, epoch: int) -> None:
        """Let an evaluation log at its checkpoint's iteration and epoch, which Lightning restores for `fit` only."""
        self.fit_loop.epoch_loop._batches_that_stepped = step
        self.fit_loop.epoch_progress.current.completed = epoch

    def fit(self, model: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Train the model; the arguments are those of Lightning's `Trainer.fit`."""
        # Lightning accumulates only for modules with automatic optimization, and raises for others.
        steps_itself = isinstance(model, Method)
        if isinstance(model, Method):
            model.optimization.accumulate = self.batches_a_step
        self.accumulate_grad_batches = 1 if steps_itself else self.batches_a_step
        super().fit(model, *args, **kwargs)


# `inference_mode` disables gradients even inside enable_grad; the data module distributes batches itself.
DEFAULTS: dict[str, Any] = {"inference_mode": False, "use_distributed_sampler": False, "num_sanity_val_steps": 0}
