"""The base class of image data sets: three sets in memory, their loaders, and out-of-distribution sets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from ebmzoo.data.batches import Batch, EpochSampler, InMemory, ResumableLoader, in_order
from ebmzoo.data.images import ImageSet, shuffled, to_float
from ebmzoo.errors import UserError, check_seed

MOST_VALIDATION = 5000
"""The largest validation set that `val_fraction` sets aside."""
MONITORED = 1000
"""The number of test images that serve as the validation set otherwise."""


def prepare(images: Tensor, *, flip: bool = False) -> Tensor:
    """Return x = u/127.5 − 1, float32 in [-1, 1] and channels last in memory, as networks take it.

    Args:
        images: uint8 images u of a loader, `(B, C, H, W)`, on any device.
        flip: Mirror each image left to right with probability 1/2, using the device's global random state.
    """
    if flip:
        mirrored = torch.rand(len(images), device=images.device) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    return to_float(images).contiguous(memory_format=torch.channels_last)


SUMMARIES = ("near", "far")
"""Names of rows that summarise the out-of-distribution sets of each kind, which no set can have."""


def _check_names(names: list[str]) -> None:
    """Check that each out-of-distribution set has a row of its own in every table.

    Raises:
        UserError: If two sets have the same name, or one has that of a summary or a `/` in it.
    """
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"ood: {names.count(name)} sets are called {name!r}, but a table has one row for each name: remove "
                "one, or give an ImagesFrom another `name`"
            )
        if name in SUMMARIES or "/" in name or not name:
            raise UserError(
                f"ood: a set cannot be called {name!r}; choose a name without '/' other than {', '.join(SUMMARIES)}"
            )


class OutOfDistribution(ABC):
    """Images that a model of another data set should assign a low likelihood.

    >>> from ebmzoo.data import Digits, UniformNoise
    >>> UniformNoise(n=5).load(Digits()).images.shape
    torch.Size([5, 1, 8, 8])
    """

    name: str
    """The name in tables."""
    near_to: tuple[str, ...] = ()
    """The names of the data sets from which it differs in content alone (OpenOOD's semantic shift)."""

    @abstractmethod
    def load(self, like: ImageData) -> ImageSet:
        """Return images `(N, like.channels, like.size, like.size)`, the same at every call."""

    def is_near(self, like: ImageData) -> bool:
        """Return True if it is near-OOD for `like`, False if it is far-OOD (OpenOOD, Yang et al., 2022)."""
        return like.name in self.near_to


class ImageData(LightningDataModule, ABC):
    """An image data set; a subclass sets `name`, `size` and `channels` and implements `load`.

    Loaders return `(images uint8, labels)`. On the device, images become float in [-1, 1], and if `flip` is true half
    of the training images are mirrored. Each process of a distributed run draws its own part of every global batch, so
    the trainer adds no distributed sampler of its own.

    Args:
        batch_size: Images in one batch of one process.
        flip: Whether to mirror half of the training images, chosen anew for each batch.
        seed: Seed of the order of the batches, and of the choice of images for `max_train` and `val_fraction`.
        val_fraction: The fraction of the training images that is set aside for validation, at most 5,000 images. With
            0, as in the papers, none are set aside and `val_set` is 1,000 fixed images of the test set: suitable for
            monitoring a run, not for choosing between runs. A folder's own validation images need no fraction.
        max_train: Train on this many images only, chosen at random; null for all.
        ood: Out-of-distribution sets that `test` compares with the test set.
        concepts: Attributes whose values are the classes of a class-conditional model, such as `[shape, colour]`. The
            labels of a training batch are then `(B, k)`, one class for each attribute. null for the label alone.

    Raises:
        UserError: If a number is out of its range.
    """

    name: str
    """The name in tables."""
    size: int
    """Side of the images in pixels."""
    channels: int
    """Channels of the images: 3 for RGB, 1 for grey."""
    n_train: int | None = None
    """The number of training images before `max_train` and `val_fraction`, where it is known without reading them."""

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
            raise UserError(f"batch_size: {batch_size} must be 1 or more")
        if not 0 <= val_fraction < 1:
            raise UserError(f"val_fraction: {val_fraction} must be 0 or more and below 1")
        if max_train is not None and max_train < 1:
            raise UserError(f"max_train: {max_train} must be 1 or more, or null for all")
        check_seed(seed=seed)
        self.batch_size = batch_size
        self.flip = flip
        self.seed = seed
        self.val_fraction = val_fraction
        self.max_train = max_train
        self.ood = tuple(ood or ())
        _check_names([source.name for source in self.ood])
        self.concepts = concepts

    @abstractmethod
    def load(self) -> tuple[ImageSet, ImageSet]:
        """Read the training and the test set, each `(N, channels, size, size)`; called once, on first use."""

    def load_validation(self) -> ImageSet | None:
        """Return the validation images that the data set itself has, None if it has none; called after `load`."""
        return None

    @property
    def train_set(self) -> ImageSet:
        """The training images."""
        return self._sets[0]

    @property
    def val_set(self) -> ImageSet:
        """The validation images, for monitoring a run; see `val_fraction`."""
        return self._sets[1]

    @property
    def test_set(self) -> ImageSet:
        """The test images."""
        return self._sets[2]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.train_set.classes

    @property
    def training_classes(self) -> tuple[tuple[str, ...], Tensor]:
        """The classes of a class-conditional model: their names, and the classes of each training image.

        Without `concepts` they are the labels, `(N,)`. With k `concepts` they are the values of these attributes in one
        list, and each image has one of each attribute, `(N, k)`. Labels index the names.

        Raises:
            UserError: If the data has no attributes, or `concepts` is empty or names an unknown one.
        """
        if self.concepts is None:
            return self.classes, self.train_set.labels
        if self.train_set.attributes is None:
            raise UserError(f"concepts: {self.name} has no attributes, so concepts must be null")
        try:
            return self.train_set.attributes.as_classes(self.concepts)
        except UserError as error:
            raise UserError(f"concepts: {error}") from error

    @cached_property
    def _sets(self) -> tuple[ImageSet, ImageSet, ImageSet]:
        train, test = self.load()
        needed = (self.channels, self.size, self.size)
        own = self.load_validation()
        if own is not None and self.val_fraction:
            raise UserError(
                f"val_fraction: {self.val_fraction} must be 0, because {self.name} has validation images of its own"
            )
        for part in (train, test, *([] if own is None else [own])):
            if len(part) == 0 or part.images.shape[1:] != needed:
                found = tuple(part.images.shape)
                raise UserError(f"{part.name}: images are {found}; they must be (N, {', '.join(map(str, needed))})")
        order = shuffled(len(train), self.seed)
        validation = min(round(self.val_fraction * len(train)), MOST_VALIDATION)
        if self.val_fraction and validation in (0, len(train)):
            raise UserError(
                f"val_fraction: {self.val_fraction} of the {len(train)} training images of {self.name} is {validation} "
                "images; both sets need 1 or more"
            )
        kept = len(train) - validation
        if self.max_train is not None:
            if self.max_train > kept:
                raise UserError(f"max_train: {self.max_train} is more than the {kept} training images of {self.name}")
            kept = self.max_train
        if own is not None:
            val = own
        else:
            val = train.take(order[:validation]) if validation else test.take(shuffled(len(test), 0)[:MONITORED])
        return train.take(order[validation : validation + kept]) if kept < len(train) else train, val, test

    def record(self) -> dict[str, Any]:
        """Return what a run states of its data: the name, number and digest of the training and of the test images."""
        return {"train": self.train_set.record(), "test": self.test_set.record()}

    @cached_property
    def ood_sets(self) -> dict[str, ImageSet | UserError]:
        """The out-of-distribution images by the names of their sets; the error where a set cannot be read."""
        found: dict[str, ImageSet | UserError] = {}
        for source in self.ood:
            try:
                found[source.name] = source.load(self)
            except UserError as error:
                found[source.name] = error
        return found

    def prepare_data(self) -> None:
        """Read, and download if needed, in one process of each machine before the others."""
        _ = self._sets

    def train_dataloader(self) -> ResumableLoader:
        """Return shuffled batches of `batch_size`; the trainer saves and restores the position in them."""
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        data = InMemory(self.train_set, self.training_classes[1])
        return ResumableLoader(data, EpochSampler(data, self.batch_size, seed=self.seed, rank=rank, world=world))

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return `val_set` in its order."""
        return in_order(self.val_set, self.batch_size)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return `test_set` in its order."""
        return in_order(self.test_set, self.batch_size)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Return `test_set` in its order."""
        return in_order(self.test_set, self.batch_size)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Apply `prepare` to the images of a batch; the trainer calls this on the device."""
        images, labels = batch
        x = prepare(images, flip=self.flip and self.trainer is not None and self.trainer.training)
        # Lightning converts batches to the precision before this, when images are still bytes.
        return x if self.trainer is None else self.trainer.precision_plugin.convert_input(x), labels
