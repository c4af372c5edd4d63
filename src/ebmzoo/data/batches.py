"""Batches from memory, in an order that is a function of (seed, epoch) and can be taken up anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypedDict

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from ebmzoo.data.images import shuffled
from ebmzoo.errors import UserError

Batch = tuple[Tensor, Tensor]


def _whole(batch: Any) -> Any:
    """Nothing to collate: `InMemory` gives whole batches."""
    return batch


class _Memory(TypedDict):
    collate_fn: Callable[[list[Any]], Any]
    generator: torch.Generator
    pin_memory: bool


def _memory() -> _Memory:
    # A loader without a generator of its own draws a number from the global random state each time it is iterated.
    return {"collate_fn": _whole, "generator": torch.Generator(), "pin_memory": torch.cuda.is_available()}


class Place(TypedDict):
    """A place in the order of the data: `taken` images of `epoch`, counted over all processes."""

    epoch: int
    taken: int


class Labelled(Protocol):
    """Images with their labels, of one length: an `ImageSet`, or a `PointSet`."""

    @property
    def images(self) -> Tensor: ...

    @property
    def labels(self) -> Tensor: ...

    def __len__(self) -> int: ...


class InMemory(Dataset[Batch]):
    """A `Labelled` set that a `DataLoader` reads a whole batch at a time; `labels` stand in for its own, if given."""

    def __init__(self, images: Labelled, labels: Tensor | None = None) -> None:
        self.images, self.labels = images, images.labels if labels is None else labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Batch:
        return self.images.images[index], self.labels[index]

    def __getitems__(self, indices: list[int]) -> Batch:
        chosen = torch.tensor(indices)
        return self.images.images[chosen], self.labels[chosen]


class EpochSampler(DistributedSampler[int]):
    """One process's part of a fresh permutation each epoch.

    The permutation is cut into batches of `batch_size`·`world` images; of each, process `rank` takes its `batch_size`.
    What fills no such batch waits for another epoch. Being a `DistributedSampler`, it is never wrapped in a second one.

    Args:
        data: What is sampled.
        batch_size: Images in one batch of one process.
        seed: Of the permutations.
        rank: Which process this is.
        world: How many processes there are.

    Raises:
        UserError: If there are too few images for one batch.
    """

    def __init__(self, data: InMemory, batch_size: int, *, seed: int = 0, rank: int = 0, world: int = 1) -> None:
        super().__init__(data, num_replicas=world, rank=rank, seed=seed, drop_last=True)
        self.n, self.batch_size, self.batches = len(data), batch_size, len(data) // (batch_size * world)
        self._start = self._taken = 0
        if not self.batches:
            each = f"{batch_size} images" + (f" on each of {world} processes" if world > 1 else "")
            raise UserError(f"batch_size: {each} cannot be had from {len(data)} training images, make it smaller")

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation; the place within the epoch is kept only if the epoch is the same."""
        if epoch != self.epoch:
            self._start = self._taken = 0
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        # A generator reads epoch and start at the first `next`: lightning makes the iterator before it sets the epoch.
        self._taken, self._start = self._start, 0
        order = shuffled(self.n, self.seed * 100003 + self.epoch)[: self.batches * self.batch_size * self.num_replicas]
        mine = order.view(self.batches, self.num_replicas, self.batch_size)[:, self.rank].flatten()
        for index in mine[self._taken :].tolist():
            self._taken += 1
            yield index

    def state_dict(self) -> Place:
        """The place of the next image."""
        if self._taken == len(self):
            return {"epoch": self.epoch + 1, "taken": 0}
        return {"epoch": self.epoch, "taken": self._taken * self.num_replicas}

    def load_state_dict(self, place: Place) -> None:
        """Go on from `place`."""
        batches = place["taken"] // (self.batch_size * self.num_replicas)
        self.epoch, self._start = place["epoch"], batches * self.batch_size
        self._taken = self._start


class ResumableLoader(DataLoader[Batch]):
    """A loader whose place in the data the trainer saves and restores, because it has these two methods.

    Args:
        data: What is loaded.
        sampler: The order.
    """

    sampler: EpochSampler

    def __init__(self, data: InMemory, sampler: EpochSampler) -> None:
        super().__init__(data, batch_size=sampler.batch_size, sampler=sampler, drop_last=True, **_memory())

    def state_dict(self) -> Place:
        """The place of the next batch."""
        return self.sampler.state_dict()

    def load_state_dict(self, place: Place) -> None:
        """Go on from `place`."""
        self.sampler.load_state_dict(place)


def in_order(images: Labelled, batch_size: int) -> DataLoader[Batch]:
    """A loader of all `images` in their order; the last batch may be smaller."""
    return DataLoader(dataset=InMemory(images), batch_size=batch_size, **_memory())
