"""A small image classifier, trained here, whose features stand in for Inception's where those cannot be had."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from ebmzoo.errors import UserError, at_least


class ResNetClassifier(nn.Module):
    """The CIFAR ResNet (He et al., 2016, §4.2, with the widths of ResNet-18): 3×3 stem, no max-pool, global mean.

    Args:
        in_channels: channels C of an image.
        num_classes: number of classes K.
        width: channels of the first stage, doubled at every stage.
        blocks: residual blocks in each stage; every stage after the first halves the image.
    """

    def __init__(self, in_channels: int, num_classes: int, width: int, blocks: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        stages: list[nn.Module] = []
        channels = width
        for i, n in enumerate(blocks):
            out, stride = width * 2**i, 1 if i == 0 else 2
            for j in range(n):
                stages.append(_block(channels, out, stride if j == 0 else 1))
                channels = out
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images `(B, C, H, W)` in [-1, 1] to features `(B, D)` and logits `(B, K)`."""
        features = self.stages(self.stem(x)).mean((2, 3))
        return features, self.head(features)


def _block(channels: int, out: int, stride: int) -> BasicBlock:
    same = channels == out and stride == 1
    shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
    return BasicBlock(channels, out, stride, None if same else shortcut)


class Classifier(LightningModule):
    """A ResNet classifier of images in [-1, 1]; its checkpoint is what `ClassifierFeatures` reads.

    The learning rate follows one cycle: 30 % of the run up to the optimizer's own `lr`, then a cosine down to zero.

    Args:
        in_channels: channels of an image.
        size: height and width of an image.
        num_classes: number of classes.
        width: channels of the first stage, doubled at every stage.
        blocks: residual blocks in each stage.
        name: what figures made with its features are called after, as in `fd_<name>`.
        crop_padding: shift training images by up to this many pixels (reflected at the edge); 0 switches it off.
        flip: mirror half of the training images; wrong for digits.
        label_smoothing: of the cross-entropy, in [0, 1).
        optimizer: optimizer of all parameters; its `lr` is the peak of the cycle.
    """

    def __init__(
        self,
        in_channels: int = 3,
        size: int = 32,
        num_classes: int = 10,
        width: int = 64,
        blocks: list[int] = [2, 2, 2, 2],  # noqa: B006  (jsonargparse prints and copies it)
        name: str = "classifier",
        crop_padding: int = 4,
        flip: bool = True,
        label_smoothing: float = 0.0,
        optimizer: OptimizerCallable = torch.optim.AdamW,
    ) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, num_classes=num_classes, width=width)
        if not 0 <= label_smoothing <= 1:
            raise UserError(f"model.label_smoothing is {label_smoothing}; it must be between 0 and 1")
        if not blocks or min(blocks) < 1:
            raise UserError(f"model.blocks must be one or more positive numbers such as [2, 2, 2, 2], found {blocks}.")
        if not 0 <= crop_padding < size:
            raise UserError(f"model.crop_padding must be at least 0 and below size={size}, found {crop_padding}.")
        self.architecture: dict[str, Any] = {
            "in_channels": in_channels,
            "num_classes": num_classes,
            "width": width,
            "blocks": list(blocks),
        }
        self.size = size
        self.name = name
        self.crop_padding = crop_padding
        self.flip = flip
        self.label_smoothing = label_smoothing
        self.optimizer = optimizer
        self.net = ResNetClassifier(**self.architecture).to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images `(B, C, H, W)` in [-1, 1] to features `(B, D)` and logits `(B, K)`."""
        needed = (self.architecture["in_channels"], self.size, self.size)
        if x.shape[1:] != needed:
            raise UserError(
                f"the classifier is for images {needed}, the data's are {tuple(x.shape[1:])}: "
                "set model.in_channels and model.size to match."
            )
        features, logits = self.net(x.contiguous(memory_format=torch.channels_last))
        return features, logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        _, logits = self(augment(images, self.crop_padding, self.flip))
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._log_accuracy("val/accuracy", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._log_accuracy("test/accuracy", batch)

    def _log_accuracy(self, key: str, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        correct = (self(images)[1].argmax(1) == labels).float().mean()
        self.log(key, correct, prog_bar=True, batch_size=len(images), sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise UserError("the learning rate needs the run's length: set trainer.max_epochs or trainer.max_steps.")
        optimizer = self.optimizer(self.parameters())
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, [group["lr"] for group in optimizer.param_groups], int(steps), cycle_momentum=False
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["classifier"] = {**self.architecture, "size": self.size, "name": self.name}


def augment(images: Tensor, padding: int, flip: bool) -> Tensor:
    """Random shifts of up to `padding` pixels, reflected at the edge, and flips, drawn for each image.

    Args:
        images: `(B, C, H, W)`.
        padding: largest shift, below H and W.
        flip: mirror each image with probability one half.
    """
    b, _, h, w = images.shape
    device = images.device
    if padding:
        rows = torch.randint(2 * padding + 1, (b, 1), device=device) + torch.arange(h, device=device)
        columns = torch.randint(2 * padding + 1, (b, 1), device=device) + torch.arange(w, device=device)
        padded = F.pad(images, (padding,) * 4, mode="reflect").movedim(1, 3)
        index = torch.arange(b, device=device)[:, None, None]
        images = padded[index, rows[:, :, None], columns[:, None, :]].movedim(3, 1)
    if flip:
        mirrored = torch.rand(b, 1, 1, 1, device=device) < 0.5
        images = torch.where(mirrored, images.flip(3), images)
    return images
