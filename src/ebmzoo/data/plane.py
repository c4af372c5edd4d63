"""Points in the plane as images of two channels and one pixel, from densities that are known exactly.

One file because the densities share their base class and the integrals over cells of a grid, and are short.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from ebmzoo.data.batches import Batch, EpochSampler, InMemory, ResumableLoader, in_order
from ebmzoo.data.datamodule import MONITORED
from ebmzoo.data.images import digest_of
from ebmzoo.data.normal_integrals import normal_mass, uniform_cdf
from ebmzoo.errors import UserError, check_seed

FINE = 2**20
"""The number of steps on each axis of a square of the board, of which one is drawn."""


@dataclass(frozen=True)
class PointSet:
    """Points in the plane with their labels.

    >>> len(PointSet(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)))
    3

    Args:
        points: Points `(N, 2)` float32.
        labels: Labels `(N,)` int64.
    """

    points: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.points)

    def record(self, name: str) -> dict[str, Any]:
        """Return `name` with the number and digest of the points."""
        return {"name": name, "n": len(self), "digest": digest_of([self.points, self.labels])}

    @property
    def images(self) -> Tensor:
        """The points as images `(N, 2, 1, 1)`: x is channel 0, y is channel 1."""
        return self.points[:, :, None, None]

    def take(self, index: slice) -> PointSet:
        """Return the points at `index`."""
        return PointSet(self.points[index], self.labels[index])


class PlaneData(LightningDataModule, ABC):
    """Points from a known density in the plane; all methods take them as images of two channels and one pixel.

    Loaders return `((B, 2, 1, 1) float32, labels)`, with the order, resumption and distribution of `ImageData`. All
    densities are those of x' = ᾱ x + σ̄ ε, ε ~ N(0, I); by default ᾱ = 1 and σ̄ = 0, so that x' is the data itself.

    >>> from ebmzoo.data import Checkerboard
    >>> isinstance(Checkerboard(n_train=10, n_test=10), PlaneData)
    True

    Args:
        n_train: The number of training points.
        n_test: The number of test points, of which the first 1,000 at most are also the validation points.
        batch_size: Points in one batch of one process.
        seed: Seed of the order of the batches.
        point_seed: Seed of the points themselves.

    Raises:
        UserError: If a number is out of its range.
    """

    name: str
    """The name in tables."""
    classes: tuple[str, ...]
    """The names of the classes."""
    reach: float
    """The half-width of the square around 0 that contains the data."""
    channels, size = 2, 1

    def __init__(
        self, n_train: int = 50_000, n_test: int = 10_000, batch_size: int = 2500, seed: int = 0, point_seed: int = 0
    ) -> None:
        super().__init__()
        least = {
            "n_train": (n_train, 1),
            "n_test": (n_test, 1),
            "batch_size": (batch_size, 1),
        }
        for key, (number, needed) in least.items():
            if number < needed:
                raise UserError(f"{key}: {number} must be {needed} or more")
        check_seed(seed=seed, point_seed=point_seed)
        self.n_train = n_train
        self.n_test = n_test
        self.batch_size = batch_size
        self.seed = seed
        self.point_seed = point_seed

    @abstractmethod
    def draw(self, n: int, generator: torch.Generator | None = None) -> PointSet:
        """Draw `n` points of the data with a CPU generator."""

    @abstractmethod
    def density(self, points: Tensor, alpha_bar: float = 1.0, sigma_bar: float = 0.0) -> Tensor:
        """Return the exact density p(x') of points `(N, 2)`: `(N,)` float64."""

    @abstractmethod
    def masses(self, edges: Tensor, alpha_bar: float = 1.0, sigma_bar: float = 0.0) -> Tensor:
        """Return the exact probability of each cell of a grid, `(K, K)` float64.

        Entry `[i, j]` is the probability that edges[i] < x' < edges[i + 1] and edges[j] < y' < edges[j + 1].

        Args:
            edges: The edges of the cells on both axes, `(K + 1,)` float64, ascending.
            alpha_bar: ᾱ.
            sigma_bar: σ̄.
        """

    @property
    def extent(self) -> float:
        """The half-width of a plot of the data."""
        return 1.25 * self.reach

    def half_width(self, alpha_bar: float = 1.0, sigma_bar: float = 0.0) -> float:
        """Return the half-width of a plot of x': the larger of `extent` and ᾱ·reach + 4σ̄."""
        return max(self.extent, alpha_bar * self.reach + 4 * sigma_bar)

    def record(self) -> dict[str, Any]:
        """Return what a run states of its data: the name, number and digest of the training and of the test points."""
        return {"train": self.train_set.record(self.name), "test": self.test_set.record(self.name)}

    @cached_property
    def train_set(self) -> PointSet:
        """The training points."""
        return self.draw(self.n_train, torch.Generator().manual_seed(2 * self.point_seed))

    @cached_property
    def test_set(self) -> PointSet:
        """The test points."""
        return self.draw(self.n_test, torch.Generator().manual_seed(2 * self.point_seed + 1))

    @property
    def train_points(self) -> Tensor:
        """The training points, `(N, 2)` float32."""
        return self.train_set.points

    @property
    def test_points(self) -> Tensor:
        """The test points, `(N, 2)` float32."""
        return self.test_set.points

    @property
    def training_classes(self) -> tuple[tuple[str, ...], Tensor]:
        """The names of the classes, and the class of each training point, `(N,)`; see `ImageData`."""
        return self.classes, self.train_set.labels

    def train_dataloader(self) -> ResumableLoader:
        """Return shuffled batches of `batch_size`; the trainer saves and restores the position in them."""
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        data = InMemory(self.train_set)
        return ResumableLoader(data, EpochSampler(data, self.batch_size, seed=self.seed, rank=rank, world=world))

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the first 1,000 test points."""
        return in_order(self.test_set.take(slice(MONITORED)), self.batch_size)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the test points in their order."""
        return in_order(self.test_set, self.batch_size)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Return the test points in their order."""
        return in_order(self.test_set, self.batch_size)


class Checkerboard(PlaneData):
    """The uniform density on the 8 black squares of a 4×4 board on [−scale, scale]²; the lower left square is black.

    p(x') = 1/8 Σ_squares Π_axes [Φ((ᾱb − x')/σ̄) − Φ((ᾱa − x')/σ̄)]/(ᾱ side), where a < b are the edges of a square.
    The class is the index of the square, column by column from the lower left. Source: CDRL, §4.4 and Fig. 1.

    Args:
        scale: Half the side of the board.
        **common: Arguments of `PlaneData`.

    Raises:
        UserError: If a number is out of its range.
    """

    name, classes = "checkerboard", tuple(str(square) for square in range(8))

    def __init__(self, scale: float = 1.0, **common: Any) -> None:
        super().__init__(**common)
        if not (scale > 0 and math.isfinite(scale)):
            raise UserError(f"scale: {scale} must be a positive number")
        self.scale = self.reach = scale
        self.side = scale / 2
        self.lines = scale * torch.linspace(-1, 1, 5, dtype=torch.float64)
        columns = torch.arange(4)
        self.board = ((columns[:, None] + columns) % 2 == 0).double()

    def draw(self, n: int, generator: torch.Generator | None = None) -> PointSet:
        square = torch.randint(8, (n,), generator=generator)
        column = square // 2
        at = torch.stack([column, 2 * (square % 2) + column % 2], dim=1)
        # Midpoints of fine steps, which no rounding can move onto an edge of the next square.
        within = (torch.randint(FINE, (n, 2), generator=generator).double() + 0.5) / FINE
        return PointSet((self.side * (at + within) - self.scale).float(), square)

    def black(self, points: Tensor) -> Tensor:
        """Return whether each point `(N, 2)` is in a black square or on its left or lower edge, `(N,)` bool."""
        at = ((points.double() + self.scale) / self.side).floor()
        return ((at >= 0) & (at < 4)).all(1) & (at.sum(1) % 2 == 0)

    def black_share(self, edges: Tensor) -> Tensor:
        """Return the black fraction of the area of each cell of a grid, in [0, 1]: edges `(K + 1,)` to `(K, K)`."""
        widths = edges.diff()
        return self.masses(edges) * (8 * self.side**2) / (widths[:, None] * widths)

    def density(self, points: Tensor, alpha_bar: float = 1.0, sigma_bar: float = 0.0) -> Tensor:
        area = (alpha_bar * self.side) ** 2
        if sigma_bar == 0:
            return self.black(points / alpha_bar).double() / (8 * area)
        z = (alpha_bar * self.lines[:, None, None] - points.double().T) / sigma_bar
        x, y = normal_mass(z[:-1], z[1:]).unbind(1)
        return torch.einsum("in,ij,jn->n", x, self.board, y) / (8 * area)

    def masses(self, edges: Tensor, alpha_bar: float = 1.0, sigma_bar: float = 0.0) -> Tensor:
        lines = alpha_bar * self.lines[:, None]
        cumulative = uniform_cdf(edges.double(), lines[:-1], lines[1:], sigma_bar)
        each = cumulative.diff().clamp_min(0)
        return torch.einsum("ik,ij,jl->kl", each, self.board, each) / 8
