"""What every image data set offers: three sets in memory, loaders, and out-of-distribution sets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from ebmzoo.data.batches import Batch, EpochSampler, InMemory, ResumableLoader, in_order
from ebmzoo.data.images import ImageSet, shuffled, to_float
from ebmzoo.errors import UserError

MOST_VALIDATION = 5000
MONITORED = 1000


def prepare(images: Tensor, *, flip: bool = False) -> Tensor:
    """What a network is given: `(B, C, H, W)` uint8 to float32 in [-1, 1], channels last in memory.

    Args:
        images: A batch as the loaders give it, on any device.
        flip: Mirror each image left to right with probability 1/2, by the global random state of its device.
    """
    if flip:
        mirrored = torch.rand(len(images), device=images.device) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    return to_float(images).contiguous(memory_format=torch.channels_last)


class OutOfDistribution(ABC):
    """Images that a model of another data set should find unlikely; `name` is what tables call them."""

    name: str
    near_to: tuple[str, ...] = ()
    """The data sets, by name, whose kind of picture it has with other contents (OpenOOD: semantic shift alone)."""

    @abstractmethod
    def load(self, like: ImageData) -> ImageSet:
        """`(N, like.channels, like.size, like.size)` images, the same at every call."""

    def is_near(self, like: ImageData) -> bool:
        """Whether it is near `like`, or far. Source: Yang et al. 2022 (OpenOOD)."""
        return like.name in self.near_to


class ImageData(LightningDataModule, ABC):
    """An image data set; a concrete one says its `name`, `size` and `channels` and implements `load`.

    Loaders give `(images uint8, labels)`; on the device they become float in [-1, 1], flipped when training and `flip`.
    Each process of a distributed run draws its own part of every global batch, so the trainer need not, and cannot, put
    its own distributed sampler in.

    Args:
        batch_size: Images in one batch of one process.
        flip: Whether to mirror half of the training images, chosen anew at each batch.
        seed: Of the order of the batches, and of which images `max_train` and `val_fraction` choose.
        val_fraction: The part of the training images that is set aside for validation, at most 5,000 images. With 0, as
            in the papers, nothing is set aside and `val_set` is 1,000 fixed images of the test set: good for watching a
            run, not for choosing between runs.
        max_train: Train on this many images only, chosen at random.
        ood: What `test` holds against the test set, out-of-distribution.
        concepts: Attributes whose values are classes for a model that follows classes, such as `[shape, colour]`: the
            labels of a training batch are then `(B, k)`, one class for each attribute. None: the label alone.

    Raises:
        UserError: If a number is out of its range.
    """

    name: str
    size: int
    channels: int

    def __init__(
        self,
        batch_size: int = 128,
        flip: bool = False,
        seed: int = 0,
        val_fraction: float = 0.0,
        max_train: int | None = None,
        ood: list[OutOfDistribution] | None = None,
        concepts: list[str] | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"batch_size: {batch_size} is not possible, 1 or more is needed")
        if not 0 <= val_fraction < 1:
            raise UserError(f"val_fraction: {val_fraction} is not possible, 0 or more and below 1 is needed")
        if max_train is not None and max_train < 1:
            raise UserError(f"max_train: {max_train} is not possible, 1 or more is needed, or null for all")
        if seed < 0:
            raise UserError(f"seed: {seed} is not possible, 0 or more is needed")
        self.batch_size, self.flip, self.seed = batch_size, flip, seed
        self.val_fraction, self.max_train, self.ood = val_fraction, max_train, tuple(ood or ())
        self.concepts = concepts

    @abstractmethod
    def load(self) -> tuple[ImageSet, ImageSet]:
        """Read the training and the test images, each `(N, channels, size, size)`; called once, when first needed."""

    @property
    def train_set(self) -> ImageSet:
        """The images to train on."""
        return self._sets[0]

    @property
    def val_set(self) -> ImageSet:
        """The images to watch a run with."""
        return self._sets[1]

    @property
    def test_set(self) -> ImageSet:
        """The images to report on."""
        return self._sets[2]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.train_set.classes

    @property
    def training_classes(self) -> tuple[tuple[str, ...], Tensor]:
        """What a model that follows classes is told: their names, and those of each training image, `(N,)` or `(N, k)`.

        Raises:
            UserError: If `concepts` names what is no attribute.
        """
        if self.concepts is None:
            return self.classes, self.train_set.labels
        if self.train_set.attributes is None:
            raise UserError(f"concepts: {self.name} has no attributes, null is needed")
        try:
            return self.train_set.attributes.as_classes(self.concepts)
        except UserError as error:
            raise UserError(f"concepts: {error}") from error

    @cached_property
    def _sets(self) -> tuple[ImageSet, ImageSet, ImageSet]:
        train, test = self.load()
        needed = (self.channels, self.size, self.size)
        for part in (train, test):
            if len(part) == 0 or part.images.shape[1:] != needed:
                found = tuple(part.images.shape)
                raise UserError(f"{part.name}: images are {found}, but (N, {', '.join(map(str, needed))}) is needed")
        order = shuffled(len(train), self.seed)
        held_out = min(round(self.val_fraction * len(train)), MOST_VALIDATION)
        kept = len(train) - held_out
        if self.max_train is not None:
            if self.max_train > kept:
                raise UserError(f"max_train: {self.max_train} is more than the {kept} training images of {self.name}")
            kept = self.max_train
        val = train.take(order[:held_out]) if held_out else test.take(shuffled(len(test), 0)[:MONITORED])
        return train.take(order[held_out : held_out + kept]) if kept < len(train) else train, val, test

    def prepare_data(self) -> None:
        """Read, and download, in one process of each machine before the others."""
        _ = self._sets

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled batches of `batch_size`; the trainer saves and restores the place in them."""
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        data = InMemory(self.train_set, self.training_classes[1])
        return ResumableLoader(data, EpochSampler(data, self.batch_size, seed=self.seed, rank=rank, world=world))

    def val_dataloader(self) -> DataLoader[Batch]:
        """`val_set` in its order."""
        return in_order(self.val_set, self.batch_size)

    def test_dataloader(self) -> DataLoader[Batch]:
        """`test_set` in its order."""
        return in_order(self.test_set, self.batch_size)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """`test_set` in its order."""
        return in_order(self.test_set, self.batch_size)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """`prepare` the images of a batch; a trainer calls this on the device."""
        images, labels = batch
        return prepare(images, flip=self.flip and self.trainer is not None and self.trainer.training), labels
