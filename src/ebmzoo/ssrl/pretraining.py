"""Training an encoder with a self-supervised objective, and loading it from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.matching import fitted_to
from ebmzoo.errors import at_least
from ebmzoo.metrics.probe import encode, knn_accuracy, linear_probe
from ebmzoo.networks.base import Encoder
from ebmzoo.networks.weights import load_pretrained
from ebmzoo.sampling.randomness import repeatable
from ebmzoo.ssrl.objective import Objective
from ebmzoo.ssrl.schedule import warmup_then_drops

_PREFIX = "encoder."
NEIGHBOURS = 5


class Pretraining(LightningModule):
    """The training of an encoder with a self-supervised objective: stage 1 of LIEBM.

    Validation logs `val/probe_knn`, and testing logs `test/probe/knn` and `test/probe/linear`: the accuracies of 5
    nearest neighbours and of a linear classifier on the backbone's features, trained on the training set. Under DDP
    each rank evaluates its share of the images, and the mean is logged. `load_encoder` reads the checkpoint.

    Args:
        encoder: The network.
        objective: The loss that it is trained with.
        optimizer: The optimizer of the encoder and the networks of the objective.
        warmup_steps: Number of steps during which the learning rate rises linearly.
        drop_epochs: Numbers of epochs before the end at which the learning rate falls to a fifth; a drop before the
            start of a shorter run is omitted.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        optimizer: OptimizerCallable = torch.optim.Adam,
        warmup_steps: int = 500,
        drop_epochs: tuple[int, ...] = (50, 25),
    ) -> None:
        super().__init__()
        at_least(0, warmup_steps=warmup_steps, drop_epochs=min(drop_epochs, default=None))
        self.encoder = encoder
        self.objective = objective
        objective.attach(encoder)
        self.optimizer = optimizer
        self.warmup_steps = warmup_steps
        self.drop_epochs = drop_epochs
        self._queries: list[tuple[Tensor, Tensor]] = []

    def setup(self, stage: str) -> None:
        """Check the encoder against the data, by a dry run on one image.

        Raises:
            UserError: The encoder does not take the data's images.
        """
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, ImageData):
            return
        training = self.encoder.training
        with fitted_to(data, getattr(self.trainer, "model_config", None)), torch.no_grad(), repeatable(seed=0):
            self.encoder.eval()(torch.zeros(1, data.channels, data.size, data.size, device=self.device))
        self.encoder.train(training)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.optimizer(self.parameters())
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate(self, step: int) -> float:
        drops: list[float] = []
        if step > 0:  # at step 0 these properties would set up the data too early to resume within an epoch
            steps = self.trainer.estimated_stepping_batches
            epoch = -(-self.trainer.num_training_batches // self.trainer.accumulate_grad_batches)
            drops = [steps - n * epoch for n in self.drop_epochs if steps > n * epoch]
        return warmup_then_drops(step, warmup=self.warmup_steps, drops=drops)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, _ = batch
        loss: Tensor = self.objective(self.encoder, images)
        self.log("train/ssrl_loss", loss, prog_bar=True)
        return loss

    # Not in on_train_batch_end, which runs after that of the callbacks: a checkpoint would lack the last after_step.
    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        progress = (self.global_step + 1) / self.trainer.estimated_stepping_batches  # this step is not counted yet
        self.objective.after_step(self.encoder, min(1.0, progress))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        self._queries.append((self.encoder.features(images), labels))

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            self._queries.clear()
            return
        accuracy = knn_accuracy(*self._features(), k=NEIGHBOURS)
        self.log("val/probe_knn", accuracy, sync_dist=True, prog_bar=True)

    def on_test_epoch_end(self) -> None:
        features = self._features()
        self.log("test/probe/knn", knn_accuracy(*features, k=NEIGHBOURS), sync_dist=True)
        self.log("test/probe/linear", linear_probe(*features), sync_dist=True)

    def _features(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return features and labels of the training set, and of the images of this epoch."""
        train_set = cast("ImageData", self.trainer.datamodule).train_set  # type: ignore[attr-defined]
        with self.trainer.precision_plugin.forward_context():
            train = encode(self.encoder, train_set.images, read=self.encoder.features)
        features, labels = zip(*self._queries, strict=True)
        self._queries.clear()
        return train, train_set.labels.to(train.device), torch.cat(features), torch.cat(labels)


def load_encoder(encoder: Encoder, path: str | Path) -> None:
    """Load into `encoder` the weights of a checkpoint of `Pretraining`, or of a method that trained an encoder.

    >>> from ebmzoo.networks import ResNetEncoder
    >>> load_encoder(ResNetEncoder(width=4), "nowhere/last.ckpt")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ebmzoo.errors.UserError: nowhere/last.ckpt: no such file; ...

    Raises:
        UserError: If the file is missing, is not a checkpoint with an encoder, or holds another encoder than this one.
    """
    load_pretrained(encoder, path, _PREFIX, "encoder")
