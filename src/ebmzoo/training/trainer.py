"""Lightning's trainer with the settings that energy-based models need."""

from __future__ import annotations

from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy

from ebmzoo.methods.base.method import Method
from ebmzoo.training.durable import DurableIO


class ZooTrainer(Trainer):
    """A `Trainer` whose data-parallel strategies bear several backward passes a batch, and which lets a `Method`
    accumulate gradients."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(self.strategy, DDPStrategy):
            # Each loss reaches some of the networks only; a replay buffer is each process's own.
            self.strategy._ddp_kwargs = {
                "find_unused_parameters": True,
                "broadcast_buffers": False,
            } | self.strategy._ddp_kwargs
        if type(self.strategy.checkpoint_io) is TorchCheckpointIO:
            self.strategy.checkpoint_io = DurableIO()
        self.batches_a_step = self.accumulate_grad_batches

    def fit(self, model: LightningModule, *args: Any, **kwargs: Any) -> None:
        # Lightning accumulates for a module that does not step its optimizers itself, and else refuses to.
        steps_itself = isinstance(model, Method)
        if isinstance(model, Method):
            model.optimization.accumulate = self.batches_a_step
        self.accumulate_grad_batches = 1 if steps_itself else self.batches_a_step
        super().fit(model, *args, **kwargs)


# `inference_mode` kills gradients even inside enable_grad; the data module deals out batches to processes itself.
DEFAULTS: dict[str, Any] = {"inference_mode": False, "use_distributed_sampler": False, "num_sanity_val_steps": 0}
