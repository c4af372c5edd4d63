"""A small image classifier whose features replace Inception's where those are not available or do not fit."""

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
    """The CIFAR ResNet (He et al., 2016, §4.2) with ResNet-18's widths: 3×3 stem, no max pooling, global mean.

    Args:
        in_channels: The number of channels of an image, C.
        num_classes: The number of classes, K.
        width: Channels of the first stage; they double at every stage.
        blocks: Residual blocks in each stage; every stage after the first halves the image.
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
        """Map images `(B, C, H, W)` in [-1, 1] to features `(B, D)` and logits `(B, K)`."""
        features = self.stages(self.stem(x)).mean((2, 3))
        return features, self.head(features)


def _block(channels: int, out: int, stride: int) -> BasicBlock:
    same = channels == out and stride == 1
    shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
    return BasicBlock(channels, out, stride, None if same else shortcut)


class Classifier(LightningModule):
    """A ResNet classifier of images in [-1, 1]; `ClassifierFeatures` reads its checkpoint.

    The learning rate follows one cycle: it rises to the optimizer's own `lr` during the first 30 % of the run, then
    falls to zero along a cosine (Smith and Topin, 2019).

    >>> classifier = Classifier(in_channels=1, size=8, num_classes=3, width=2, blocks=[1, 1], crop_padding=0)
    >>> features, logits = classifier(torch.zeros(5, 1, 8, 8))
    >>> features.shape, logits.shape
    (torch.Size([5, 4]), torch.Size([5, 3]))

    Args:
        in_channels: Channels of an image.
        size: Height and width of an image.
        num_classes: The number of classes.
        width: Channels of the first stage; they double at every stage.
        blocks: Residual blocks in each stage.
        name: The name that metrics computed with its features carry, as in `fd_<name>`.
        crop_padding: Shift training images by up to this many pixels (reflected at the edge); 0 switches it off.
        flip: Mirror half of the training images; wrong for digits.
        label_smoothing: Label smoothing of the cross-entropy, in [0, 1].
        optimizer: Optimizer of all parameters; its `lr` is the peak of the cycle.

    Raises:
        UserError: If a setting is out of its range.
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
            raise UserError(f"model.blocks must be one or more positive numbers such as [2, 2, 2, 2], found {blocks}")
        if not 0 <= crop_padding < size:
            raise UserError(f"model.crop_padding must be at least 0 and below size={size}, found {crop_padding}")
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
        """Map images `(B, C, H, W)` in [-1, 1] to features `(B, D)` and logits `(B, K)`.

        Raises:
            UserError: If the images have another shape than `in_channels` and `size` say.
        """
        needed = (self.architecture["in_channels"], self.size, self.size)
        if x.shape[1:] != needed:
            raise UserError(
                f"the classifier takes images {needed}, but the data has {tuple(x.shape[1:])}: "
                "set model.in_channels and model.size to match"
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
            raise UserError(
                "the learning-rate schedule needs the length of the run: set trainer.max_epochs or trainer.max_steps"
            )
        optimizer = self.optimizer(self.parameters())
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, [group["lr"] for group in optimizer.param_groups], int(steps), cycle_momentum=False
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["classifier"] = {**self.architecture, "size": self.size, "name": self.name}


def augment(images: Tensor, padding: int, flip: bool) -> Tensor:
    """Shift each image at random by up to `padding` pixels, reflected at the edge, and mirror it or not.

    Args:
        images: Images `(B, C, H, W)`.
        padding: The largest shift in pixels, below H and W.
        flip: Mirror each image with probability one half.
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
