"""Batches from memory, in an order that depends on seed and epoch alone and can be resumed at any batch."""

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
    """Return the batch unchanged: `InMemory` returns whole batches, so there is nothing to collate."""
    return batch


class _Memory(TypedDict):
    collate_fn: Callable[[list[Any]], Any]
    generator: torch.Generator
    pin_memory: bool


def _memory() -> _Memory:
    # A loader without a generator of its own draws a number from the global random state each time it is iterated.
    return {"collate_fn": _whole, "generator": torch.Generator(), "pin_memory": torch.cuda.is_available()}


class Place(TypedDict):
    """A position in the order of the data: `taken` images of `epoch`, counted over all processes."""

    epoch: int
    taken: int


class Labelled(Protocol):
    """Images and as many labels: an `ImageSet` or a `PointSet`."""

    @property
    def images(self) -> Tensor: ...

    @property
    def labels(self) -> Tensor: ...

    def __len__(self) -> int: ...


class InMemory(Dataset[Batch]):
    """A data set in memory that a `DataLoader` reads a whole batch at a time.

    Args:
        images: The images with their labels.
        labels: Labels that replace those of `images`, `(N,)` or `(N, k)`; None keeps them.
    """

    def __init__(self, images: Labelled, labels: Tensor | None = None) -> None:
        self.images = images
        self.labels = images.labels if labels is None else labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Batch:
        return self.images.images[index], self.labels[index]

    def __getitems__(self, indices: list[int]) -> Batch:
        chosen = torch.tensor(indices)
        return self.images.images[chosen], self.labels[chosen]


class EpochSampler(DistributedSampler[int]):
    """One process's part of a new permutation in each epoch.

    The permutation is cut into batches of `batch_size`·`world` images, of which process `rank` takes `batch_size`. The
    remainder is left out of the epoch. As this is a `DistributedSampler`, Lightning does not wrap it in another one.

    Args:
        data: The data set.
        batch_size: Images in one batch of one process.
        seed: Seed of the permutations.
        rank: The index of this process.
        world: The number of processes.

    Raises:
        UserError: If there are too few images for one batch.
    """

    def __init__(self, data: InMemory, batch_size: int, *, seed: int = 0, rank: int = 0, world: int = 1) -> None:
        super().__init__(data, num_replicas=world, rank=rank, seed=seed, drop_last=True)
        self.n = len(data)
        self.batch_size = batch_size
        self.batches = len(data) // (batch_size * world)
        self._start = self._taken = 0
        if not self.batches:
            each = f"{batch_size} images" + (f" on each of {world} processes" if world > 1 else "")
            raise UserError(f"batch_size: {each} are more than the {len(data)} training images: make it smaller")

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Select the permutation of `epoch`; the position is kept only if the epoch does not change."""
        if epoch != self.epoch:
            self._start = self._taken = 0
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        # A generator reads epoch and start at the first `next`: Lightning creates iterators before it sets the epoch.
        self._taken, self._start = self._start, 0
        order = shuffled(self.n, self.seed * 100003 + self.epoch)[: self.batches * self.batch_size * self.num_replicas]
        mine = order.view(self.batches, self.num_replicas, self.batch_size)[:, self.rank].flatten()
        for index in mine[self._taken :].tolist():
            self._taken += 1
            yield index

    def state_dict(self) -> Place:
        """Return the position of the next image."""
        if self._taken == len(self):
            return {"epoch": self.epoch + 1, "taken": 0}
        return {"epoch": self.epoch, "taken": self._taken * self.num_replicas}

    def load_state_dict(self, place: Place) -> None:
        """Continue from `place`.

        Raises:
            UserError: It is no place in the data, as a checkpoint that was changed may state one.
        """
        numbers = [place.get(key) for key in ("epoch", "taken")] if isinstance(place, dict) else []
        if len(numbers) != 2 or not all(isinstance(n, int) and 0 <= n < 2**53 for n in numbers):
            raise UserError(f"ckpt_path: the checkpoint's place in the data is {place!r:.80}, which is none")
        batches = place["taken"] // (self.batch_size * self.num_replicas)
        self.epoch, self._start = place["epoch"], batches * self.batch_size
        self._taken = self._start


class ResumableLoader(DataLoader[Batch]):
    """A loader whose position in the data the trainer saves and restores, since it has `state_dict`.

    Args:
        data: The data set.
        sampler: The order of its images.
    """

    sampler: EpochSampler

    def __init__(self, data: InMemory, sampler: EpochSampler) -> None:
        super().__init__(data, batch_size=sampler.batch_size, sampler=sampler, drop_last=True, **_memory())

    def state_dict(self) -> Place:
        """Return the position of the next batch."""
        return self.sampler.state_dict()

    def load_state_dict(self, place: Place) -> None:
        """Continue from `place`."""
        self.sampler.load_state_dict(place)


def in_order(images: Labelled, batch_size: int) -> DataLoader[Batch]:
    """Return a loader of all `images` in their order; the last batch may be smaller."""
    return DataLoader(dataset=InMemory(images), batch_size=batch_size, **_memory())
