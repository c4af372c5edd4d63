"""A small image classifier whose features replace Inception's where those are not available or do not fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.images import UNLABELLED
from ebmzoo.data.matching import matching_flags
from ebmzoo.errors import UserError, at_least, plain


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
        self.classes: tuple[str, ...] | None = None
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
        # A function of the step alone, so that a run resumed with more epochs follows the longer cycle.
        cycle = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(one_cycle, steps=int(steps)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def setup(self, stage: str) -> None:
        """Take the names of the classes from the data, and check their number.

        Raises:
            UserError: If the data has another number of classes than the classifier, or, when testing, other classes.
        """
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, ImageData):
            return
        shape = (self.architecture["in_channels"], self.size, self.size)
        if shape != (now := (data.channels, data.size, data.size)):
            flags = matching_flags(data, getattr(self.trainer, "model_config", None))
            raise UserError(f"the classifier takes images {shape}, but the data has {now}{flags}")
        needed, found = self.architecture["num_classes"], data.classes
        if len(found) != needed and found == UNLABELLED:
            raise UserError(
                f"model.num_classes is {needed}, but the images of {data.name} have no classes: sort them into one "
                "folder for each class; a classifier cannot be trained without"
            )
        if len(found) != needed:
            raise UserError(
                f"model.num_classes is {needed}, but the data has {len(found)} classes ({', '.join(found[:5])}"
                f"{', …' if len(found) > 5 else ''}): set --model.num_classes {len(found)}"
            )
        if self.classes is not None and self.classes != found:
            raise UserError(
                f"the classifier was trained with the classes {', '.join(self.classes)}, but the data has "
                f"{', '.join(found)}, in this order: name the folders as they were"
            )
        self.classes = found

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        classes = None if self.classes is None else list(self.classes)
        checkpoint["classifier"] = {**self.architecture, "size": self.size, "name": self.name, "classes": classes}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if (classes := checkpoint.get("classifier", {}).get("classes")) is not None:
            self.classes = tuple(map(plain, classes))
        for schedule in checkpoint.get("lr_schedulers", []):
            if "lr_lambdas" not in schedule:  # OneCycleLR's of version 0.1.0: its base rates are 1/25 of the peak
                schedule["base_lrs"] = [25 * rate for rate in schedule["base_lrs"]]
                schedule["lr_lambdas"] = [{} for _ in schedule["base_lrs"]]


def one_cycle(step: int, steps: int) -> float:
    """The learning rate as a fraction of its peak: from 1/25 to 1 in the first 30 % of `steps`, then to 0, in cosines.

    Source: Smith and Topin (2019), with the defaults of `torch.optim.lr_scheduler.OneCycleLR`.

    >>> [round(one_cycle(step, 101), 3) for step in (0, 29, 100)]
    [0.04, 1.0, 0.0]
    """
    up = 0.3 * steps - 1
    if step <= up:
        return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * step / up)) / 2
    share = min(1.0, (step - up) / (steps - 1 - up))
    last = 1 / 25 / 1e4
    return last + (1 - last) * (1 + math.cos(math.pi * share)) / 2


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
