"""The encoder's training inside another method's run: before the energy's, or beside it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from lightning.pytorch import Trainer
from lightning.pytorch.cli import OptimizerCallable
from torch import nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ebmzoo.errors import at_least
from ebmzoo.methods.base.optimization import NetworkOptimizer
from ebmzoo.networks.base import Encoder
from ebmzoo.ssrl.objective import Objective
from ebmzoo.ssrl.schedule import warmup_then_drops


@dataclass(frozen=True)
class EncoderStage:
    """How an encoder is trained in the run of the method that uses it.

    >>> from ebmzoo.ssrl import SimCLR
    >>> EncoderStage(SimCLR(), epochs=30).jointly
    False

    Args:
        objective: the self-supervised loss.
        epochs: how many of the trainer's epochs come first and train the encoder alone.
        optimizer: of the encoder (and of the objective's own weights, if it has any).
        warmup_steps: steps over which the learning rate rises linearly from 0.
        drop_epochs: The numbers of epochs before the stage's end at which the learning rate is multiplied by 0.2.
        jointly: train the encoder in every iteration of the method instead, with the model's own latents as extra
            negatives (CLEL); `epochs` then has no effect.
    """

    objective: Objective
    epochs: int = 1000
    optimizer: OptimizerCallable = Adam
    warmup_steps: int = 500
    drop_epochs: tuple[int, ...] = (50, 25)
    jointly: bool = False

    def __post_init__(self) -> None:
        at_least(0, epochs=self.epochs, warmup_steps=self.warmup_steps, drop_epochs=min(self.drop_epochs, default=None))

    def network_optimizer(self, encoder: Encoder, trainer: Trainer, batches: int = 1) -> NetworkOptimizer:
        """The encoder's optimizer and its schedule over the stage, with one step in every `batches` batches."""
        schedule = partial(self._schedule, trainer, batches)
        return NetworkOptimizer(nn.ModuleList([encoder, self.objective]), self.optimizer, schedule)

    def progress(self, trainer: Trainer) -> float:
        """How much of the stage is done, in [0, 1]."""
        epochs = self._epochs(trainer)
        done = trainer.global_step / max(1, trainer.num_training_batches)
        return min(1.0, done / epochs) if epochs > 0 else 0.0

    def _epochs(self, trainer: Trainer) -> int:
        return (trainer.max_epochs or -1) if self.jointly else self.epochs

    def _schedule(self, trainer: Trainer, batches: int, optimizer: Optimizer) -> LambdaLR:
        return LambdaLR(optimizer, partial(self._rate, trainer, batches))

    def _rate(self, trainer: Trainer, batches: int, step: int) -> float:
        epochs, per_epoch = self._epochs(trainer), trainer.num_training_batches / batches
        # At step 0 the data is not set up yet, and asking for it would be too early to resume within an epoch.
        drops = [(epochs - before) * per_epoch for before in self.drop_epochs if before < epochs] if step > 0 else []
        return warmup_then_drops(step, warmup=self.warmup_steps, drops=drops)
