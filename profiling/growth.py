"""`python -m profiling --growth`: how costs grow with what a user can make larger, over two decades each."""

from __future__ import annotations

import json
import math
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from profiling.growth_axes import Axis, axes

MOST = 1.15
"""The largest exponent that counts as linear: CPU seconds of a shared machine vary by some percent."""


@dataclass(frozen=True)
class Growth:
    """CPU seconds by size; where they are a size's power, its exponent."""

    sizes: Sequence[int]
    seconds: Sequence[float]

    @property
    def exponent(self) -> float:
        """The slope of log seconds over log size, of least squares over all sizes."""
        return slope(self.sizes, self.seconds)

    @property
    def last_exponent(self) -> float:
        """The same over the upper half of the sizes, where what does not grow matters less."""
        half = (len(self.sizes) - 1) // 2
        return slope(self.sizes[half:], self.seconds[half:])


def slope(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The slope of log seconds over log size, of least squares.

    >>> round(slope([1, 10, 100], [3.0, 300.0, 30000.0]), 6)
    2.0
    """
    x, y = [math.log(size) for size in sizes], [math.log(second) for second in seconds]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    squares = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / squares


def spent() -> float:
    """The CPU seconds of this process and of those that it has started and that have ended."""
    of_children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + of_children.ru_utime + of_children.ru_stime


def measured(axis: Axis, rounds: int) -> Growth:
    """CPU seconds of each size, the least of the rounds, which take the sizes in turn."""
    with TemporaryDirectory() as temporary:
        works: dict[int, Callable[[], object]] = {}
        for size in axis.sizes:
            folder = Path(temporary) / str(size)
            folder.mkdir()
            torch.manual_seed(0)
            works[size] = axis.cost(size, folder)
        works[axis.sizes[0]]()  # what is imported or compiled at the first use
        taken: dict[int, list[float]] = {size: [] for size in axis.sizes}
        for _ in range(rounds):
            for size, work in works.items():
                start = spent()
                work()
                taken[size].append(spent() - start)
    return Growth(axis.sizes, [min(seconds) for seconds in taken.values()])


def plot(found: Mapping[str, Growth], path: Path) -> None:
    """Each growth beside a line of exponent one, in logarithmic axes with a mark at each decade."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    columns = 3
    lines = math.ceil(len(found) / columns)
    figure = Figure(figsize=(3.2 * columns, 2.6 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).flatten()
    for place in grid[len(found) :]:
        place.set_axis_off()
    for place, (name, growth) in zip(grid, found.items(), strict=False):
        last = growth.seconds[-1] / growth.sizes[-1]
        place.loglog(growth.sizes, [last * size for size in growth.sizes], color="0.7", label="linear")
        place.loglog(growth.sizes, growth.seconds, marker="o", label="measured")
        place.set_xlabel(name)
        place.set_title(f"exponent {growth.exponent:.2f}", fontsize=10)
        least = min(*growth.seconds, last * growth.sizes[0])
        place.set_ylim(10 ** math.floor(math.log10(least)), 10 ** math.ceil(math.log10(max(growth.seconds))))
        for side in (place.xaxis, place.yaxis):
            side.set_major_locator(LogLocator(numticks=20))
            side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
            side.set_minor_formatter(NullFormatter())
        place.yaxis.set_minor_locator(NullLocator())
    for place in grid[::columns]:
        place.set_ylabel("CPU seconds")
    grid[0].legend(frameon=False)
    figure.savefig(path, dpi=100)


def run(out: Path, rounds: int = 3, quick: bool = False) -> dict[str, Any]:
    """Measure, print and keep all of it as `growth.json` and `growth.png` in the folder `out`.

    Raises:
        AssertionError: A cost grows faster than linearly, over all sizes or over the upper half; not with `quick`.
    """
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Growth] = {}
    print("| | sizes | CPU seconds | exponent | of the upper half |\n|---|---|---|---|---|")
    for axis in axes(quick):
        found[axis.name] = one = measured(axis, 1 if quick else rounds)
        seconds = ", ".join(f"{value:.3g}" for value in one.seconds)
        sizes = ", ".join(f"{size:,}" for size in one.sizes)
        print(f"| {axis.name} | {sizes} | {seconds} | {one.exponent:.2f} | {one.last_exponent:.2f} |", flush=True)
    told = {
        name: {"sizes": one.sizes, "seconds": one.seconds, "exponent": one.exponent, "last exponent": one.last_exponent}
        for name, one in found.items()
    }
    (out / "growth.json").write_text(json.dumps(told, indent=2) + "\n")
    plot(found, out / "growth.png")
    if not quick:
        check(found)
    return told


def check(found: Mapping[str, Growth]) -> None:
    """Check that no cost grows faster than linearly, over all sizes or over the upper half."""
    for name, one in found.items():
        assert max(one.exponent, one.last_exponent) <= MOST, f"{name}: {one.exponent:.2f}, {one.last_exponent:.2f}"
