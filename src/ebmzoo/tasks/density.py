"""Whether an energy is the density of the data, on the plane, where that density is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from ebmzoo.data.plane import Checkerboard, PlaneData
from ebmzoo.energy import Energy
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import HasLevels
from ebmzoo.methods.base.method import Method
from ebmzoo.methods.base.samples import Samples
from ebmzoo.metrics import FeatureExtractor
from ebmzoo.report.plots import Panels, save_densities
from ebmzoo.sampling.langevin import ChainDivergedError
from ebmzoo.tasks.base import Result, Task, stopwatch
from ebmzoo.tasks.budget import Budget
from ebmzoo.tasks.generation import chain_protocol

BINS = 16
"""Bins of the histogram of samples on each axis: four per square of the board."""


class Density(Task):
    """e^{−E}/Z on a grid against the exact density p of the data, and samples against p.

    A method with noise levels is evaluated at each, against the density of x_level = ᾱ x + σ̄ ε; any other only against
    that of x; one whose exp(−E) is no density has the figures of its samples alone. Both densities are normalised over
    the grid, which has the half-width `data.half_width`; the exact one is integrated over each cell, and the energy is
    evaluated at the midpoint of the cell. Figures; those without `level_k/` are those of level 0 or of x:

        level_k/total_variation   ½ Σ_cells |model mass − exact mass|, in [0, 1]
        level_k/outside           the exact mass outside the grid
        black_mass                the model's mass on the black squares of a `Checkerboard`, beside truth/black_mass
        samples/black             the share of samples on black squares
        samples/total_variation   that between their histogram, 16×16 bins on the square of half-width `data.reach` and
                                  one for everything outside, and the exact masses of x
        nfe                       network evaluations per sample

    `real/…` are the same figures for equally many points of the data, which a perfect sampler matches up to chance.
    Source: CDRL, §4.4 and Fig. 1, which this task's picture reproduces.

    Args:
        cells: Cells of the grid on each axis.
        n: Samples.
        steps: Langevin steps; None uses the sampler's own number, as do the samples at levels in the picture.
        batch_size: Points per evaluation, per batch of chains, and in the picture.

    Raises:
        UserError: A number is out of range.
    """

    name = "density"
    data_types = PlaneData

    def __init__(self, cells: int = 200, n: int = 10_000, steps: int | None = None, batch_size: int = 2500) -> None:
        for key, value in {"cells": cells, "n": n, "batch_size": batch_size}.items():
            if value < 1:
                raise UserError(f"density.{key} is {value}; it must be 1 or more")
        if steps is not None and steps < 0:
            raise UserError(f"density.steps is {steps}; it must be 0 or more, or null for the sampler's own")
        self.cells = cells
        self.n = n
        self.steps = steps
        self.batch_size = batch_size

    @classmethod
    def standard(cls, extractors: list[FeatureExtractor]) -> Self | None:
        return cls()

    def apply_budget(self, budget: Budget) -> None:
        self.n = budget.samples_of(self.n)

    def __call__(self, method: Method, data: PlaneData, folder: Path | None = None) -> Result:
        result = Result(self.name, protocol={"n": self.n, "cells": self.cells, "data": data.name})
        levels = noise_levels(method)
        fitted = [self._fit(level, method, data, result) for level in levels]
        made = self._sample(method, data, result)
        if folder is not None:
            try:
                self._draw(method, data, levels, fitted, made, path := folder / "density.png")
                result.pictures.append(str(path))
            except (UserError, ChainDivergedError) as error:
                result.notes.append(f"density.png: {error}")
        return result

    def _fit(self, level: NoiseLevel, method: Method, data: PlaneData, result: Result) -> Tensor | None:
        """The model's mass in each cell of the level's grid, `(cells, cells)`; None if the level has no energy."""
        if level.energy is None:
            return None
        edges = level.edges(data, self.cells)
        exact = data.masses(edges, level.alpha_bar, level.sigma_bar)
        with method.evaluating():
            mass = cell_masses(level.energy, edges, self.batch_size, method.device)
        found = {
            "total_variation": total_variation(mass, exact / exact.sum()),
            "outside": max(0.0, 1 - float(exact.sum())),
        }
        if level.index is not None:
            result.figures |= {f"level_{level.index}/{key}": value for key, value in found.items()}
        if not level.index:
            result.figures |= found
            if isinstance(data, Checkerboard):
                black = data.black_share(edges)
                result.figures["black_mass"] = float((mass * black).sum())
                result.figures["truth/black_mass"] = float((exact * black).sum() / exact.sum())
        return mass

    def _sample(self, method: Method, data: PlaneData, result: Result) -> Tensor | None:
        """Compute the figures of samples; returns the samples `(n, 2)`, or None if their chain diverged."""
        random = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        sets: dict[str, Tensor | None] = {"samples": None, "real": data.draw(self.n, random).points}
        try:
            with stopwatch(result.figures, "seconds"):
                sets["samples"], sampled = draw_points(method, self.n, self.batch_size, self.steps)
            result.figures["nfe"] = sampled.nfe
            result.protocol["chains"] = {"full": chain_protocol(sampled)}
        except ChainDivergedError as error:
            result.notes.append(f"samples: {error}")
        exact = with_outside(data.masses(bin_edges(data)))
        for name, points in sets.items():
            if isinstance(data, Checkerboard):
                share = math.nan if points is None else float(data.black(points).double().mean())
                result.figures[f"{name}/black"] = share
            distance = math.nan if points is None else total_variation(histogram(points, bin_edges(data)), exact)
            result.figures[f"{name}/total_variation"] = distance
        return sets["samples"]

    def _draw(
        self,
        method: Method,
        data: PlaneData,
        levels: list[NoiseLevel],
        fitted: list[Tensor | None],
        made: Tensor | None,
        path: Path,
    ) -> None:
        """Draw Fig. 1 of CDRL, with an additional row of exact densities."""
        random, most = torch.Generator().manual_seed(0), min(self.n, self.batch_size)
        real = data.draw(most, random).points
        shown: list[Tensor | None] = [None if made is None else made[:most]]
        if isinstance(method, HasLevels):
            shown = [x.flatten(1).float().cpu() for x in method.trajectory(most)]
        columns = []
        for level, mass, samples in zip(levels, fitted, shown, strict=True):
            noisy = level.alpha_bar * real + level.sigma_bar * torch.randn(real.shape, generator=random)
            exact = data.masses(level.edges(data, self.cells), level.alpha_bar, level.sigma_bar)
            columns.append(Panels(level.title, level.half_width(data), noisy, mass, exact, samples))
        save_densities(columns, path)


@dataclass(frozen=True)
class NoiseLevel:
    """The density of ᾱ x + σ̄ ε at level `index`, None for that of x, and the method's `energy` there, if any."""

    index: int | None
    energy: Energy | None
    alpha_bar: float = 1.0
    sigma_bar: float = 0.0

    @property
    def title(self) -> str:
        """The name of the level in a picture."""
        return "x" if self.index is None else f"level {self.index}"

    def half_width(self, data: PlaneData) -> float:
        """The half-width of the level's grid."""
        return data.half_width(self.alpha_bar, self.sigma_bar)

    def edges(self, data: PlaneData, cells: int) -> Tensor:
        """The edges of the grid's cells on either axis, `(cells + 1,)` float64."""
        return self.half_width(data) * torch.linspace(-1, 1, cells + 1, dtype=torch.float64)


def noise_levels(method: Method) -> list[NoiseLevel]:
    """The levels T, …, 0 of a method with noise levels, T without an energy; for any other method, x alone.

    Where exp(−E) is no density, there is no energy either.
    """
    if not isinstance(method, HasLevels):
        return [NoiseLevel(None, method.energy if method.has_density else None)]
    noise = list(zip(method.schedule.alpha_bar.tolist(), method.schedule.sigma_bar.tolist(), strict=True))
    energies: list[Callable[[Tensor], Tensor] | None] = [
        partial(method.energy_at, level=level) for level in range(method.schedule.levels)
    ]
    levels = zip([*energies, None], noise, strict=True)
    return [NoiseLevel(i, energy, *of_level) for i, (energy, of_level) in enumerate(levels)][::-1]


def cell_masses(energy: Energy, edges: Tensor, batch_size: int, device: torch.device) -> Tensor:
    """e^{−E(m)}/Σ e^{−E(m)} over the midpoints m of a grid's cells: `(K + 1,)` edges to `(K, K)` float64, x first."""
    midpoints = (edges[:-1] + edges[1:]) / 2
    points = torch.cartesian_prod(midpoints, midpoints).float()[:, :, None, None]
    found = [energy(batch.to(device)).cpu().double() for batch in torch.split(points, batch_size)]
    return torch.softmax(-torch.cat(found), dim=0).view(len(midpoints), -1)


def total_variation(p: Tensor, q: Tensor) -> float:
    """½ Σ |p − q| for two vectors of masses."""
    return float((p - q).abs().sum() / 2)


def draw_points(method: Method, n: int, batch_size: int, steps: int | None = None) -> tuple[Tensor, Samples]:
    """Draw `n` samples as points `(n, 2)` float32 on the CPU, and return also the `Samples` of the last batch."""
    points: list[Tensor] = []
    for first in range(0, n, batch_size):
        sampled = method.sample(min(batch_size, n - first), steps=steps)
        points.append(sampled.images.flatten(1).float().cpu())
    return torch.cat(points), sampled


def bin_edges(data: PlaneData) -> Tensor:
    """The edges of the histogram's bins on either axis, aligned with the squares of a board, float64."""
    return data.reach * torch.linspace(-1, 1, BINS + 1, dtype=torch.float64)


def histogram(points: Tensor, edges: Tensor) -> Tensor:
    """The shares of points `(n, 2)` per cell, and of those outside: `(K + 1,)` evenly spaced edges to `(K² + 1,)`."""
    cells = len(edges) - 1
    at = ((points.double() - edges[0]) / (edges[-1] - edges[0]) * cells).floor()
    inside = ((at >= 0) & (at < cells)).all(1)
    index = torch.where(inside, at[:, 0] * cells + at[:, 1], cells**2).long()
    return torch.bincount(index, minlength=cells**2 + 1).double() / len(points)


def with_outside(masses: Tensor) -> Tensor:
    """The masses of cells `(K, K)`, followed by the mass that they lack to 1: `(K² + 1,)`."""
    return torch.cat([masses.flatten(), (1 - masses.sum()).clamp_min(0).view(1)])
