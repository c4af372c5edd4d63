"""Lightning's trainer with the settings that energy-based models need."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy


class ZooTrainer(Trainer):
    """A `Trainer` whose data-parallel strategies bear several backward passes a batch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(self.strategy, DDPStrategy):
            # Each loss reaches some of the networks only; a replay buffer is each process's own.
            self.strategy._ddp_kwargs = {
                "find_unused_parameters": True,
                "broadcast_buffers": False,
            } | self.strategy._ddp_kwargs


# `inference_mode` kills gradients even inside enable_grad; the data module deals out batches to processes itself.
DEFAULTS: dict[str, Any] = {"inference_mode": False, "use_distributed_sampler": False, "num_sanity_val_steps": 0}
