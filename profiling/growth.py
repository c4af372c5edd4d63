"""`python -m profiling --growth`: how costs grow with what a user can make larger, over two decades each."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ebmzoo.commands import compare
from ebmzoo.data import Digits
from ebmzoo.data.decode import Frame
from ebmzoo.data.folder import read_images
from ebmzoo.data.layout import layout
from ebmzoo.data.sources import image_files
from ebmzoo.methods import Method
from ebmzoo.metrics import Pixels
from ebmzoo.networks import CLELEnergy, CLELFeatures
from ebmzoo.report.pictures import save_grid
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.tasks import Generation
from ebmzoo.training.config import build_model
from ebmzoo.training.config_files import named_config

MOST = 1.15
"""The largest exponent that counts as linear: CPU seconds of a shared machine vary by some percent."""

NOT_LINEAR = {"n of generation": 2.0}
"""The exponent allowed elsewhere: the kernel distance takes 100 subsets of min(n, 1000), n² up to there."""

Cost = Callable[[int, Path], Callable[[], object]]
"""Prepares a size within an empty folder, which is not timed, and returns the work that is."""


@dataclass(frozen=True)
class Axis:
    """Something that a user makes larger: its name, its sizes and its cost."""

    name: str
    sizes: Sequence[int]
    cost: Cost


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


def energy() -> CLELEnergy:
    """A small energy of images of any size."""
    features = CLELFeatures(1, width=8, multiples=(1, 1), depth=1, hidden=16, latent=8, mean=None, std=None)
    return CLELEnergy(features, latent=8, hidden=16).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def chain(steps: int, batch: int, side: int) -> Callable[[], object]:
    """A chain of so many steps, images and pixels a side."""
    net, x = energy(), torch.rand(batch, 1, side, side) * 2 - 1
    return lambda: Langevin(steps, 0.01, 0.01)(net, x)


def generation(n: int, _: Path) -> Callable[[], object]:
    """The task `generation` with n samples of one Langevin step, in batches of ten."""
    method, data = build_model(named_config("short_run_digits")).eval(), Digits()
    assert isinstance(method, Method)
    task = Generation([Pixels()], n=n, real="n", batch_size=10, steps=1)

    def work() -> object:
        with method.evaluating():
            return task(method, data)

    data.setup("test")
    return work


def comparison(runs: int, folder: Path) -> Callable[[], object]:
    """`ebmzoo compare` of so many runs, of two methods, with figures of two tasks each."""
    for i in range(runs):
        test = folder / f"run_{i}" / "test"
        test.mkdir(parents=True)
        method = ("VAE", "ShortRun")[i % 2]
        (test.parent / "config.yaml").write_text(f"model: {{class_path: ebmzoo.methods.{method}}}\n")
        protocol = {"n": 1000, "split": "train", "chains": {"full": {"start": "noise", "steps": 60}}}
        figures = {"fd_pixels": 3.0 + i, "kd_pixels": 0.1 * i, "seconds": 2.0, "nfe": 60.0}
        for task in ("generation", "ood"):
            result = {"task": task, "figures": figures, "protocol": protocol, "notes": [], "pictures": []}
            (test / f"{task}.json").write_text(json.dumps(result))
    names = [str(path) for path in sorted(folder.iterdir())]

    def work() -> None:
        with redirect_stdout(StringIO()):
            compare.main([*names, "--out", str(folder / "out"), "--overwrite"])

    return work


def pictures(n: int, folder: Path) -> Path:
    """A folder of n images in ten classes: a file of 8×8 pixels for each class, under n names."""
    for i in range(10):
        (folder / "images" / str(i)).mkdir(parents=True)
        save_grid(torch.rand(1, 1, 8, 8), folder / f"{i}.png")
    for i in range(n):
        (folder / "images" / str(i % 10) / f"{i}.png").hardlink_to(folder / f"{i % 10}.png")
    return folder / "images"


def listing(n: int, folder: Path) -> Callable[[], object]:
    """The names of a folder's images, with classes and splits; no image is decoded."""
    path = pictures(n, folder)
    return lambda: layout(sorted(name for name, _ in image_files(path, Counter())), str(path))


def reading(n: int, folder: Path) -> Callable[[], object]:
    """All images of a folder, decoded."""
    path = pictures(n, folder)
    return lambda: read_images(path, Frame(8, 1, "none"), split=True, cache=False)


def axes(quick: bool) -> list[Axis]:
    """What is measured: over two decades, or with `quick` at two sizes that say nothing."""
    two = (10, 30, 100, 300, 1000)
    every = [
        Axis("steps of a chain", (3, 10, 30, 100, 300), lambda n, _: chain(n, 10, 8)),
        Axis("images of a batch", two, lambda n, _: chain(2, n, 8)),
        Axis("pixels of an image", tuple(s * s for s in (8, 16, 24, 40, 80)), lambda n, _: chain(2, 10, math.isqrt(n))),
        Axis("n of generation", two, generation),
        Axis("runs of compare", two, comparison),
        Axis("names in a folder", (1_000, 10_000, 100_000), listing),
        Axis("images decoded", (100, 1_000, 10_000), reading),
    ]
    return [Axis(a.name, a.sizes[:2] if a.sizes[0] < 100 else (10, 20), a.cost) for a in every] if quick else every


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
                start = time.process_time()
                work()
                taken[size].append(time.process_time() - start)
    return Growth(axis.sizes, [min(seconds) for seconds in taken.values()])


def plot(found: Mapping[str, Growth], path: Path) -> None:
    """Each growth beside a line of exponent one, in logarithmic axes."""
    from matplotlib.figure import Figure

    columns = 4
    figure = Figure(figsize=(3 * columns, 2.8 * math.ceil(len(found) / columns)), layout="constrained")
    grid = figure.subplots(math.ceil(len(found) / columns), columns, squeeze=False).flatten()
    for place in grid[len(found) :]:
        place.set_axis_off()
    for place, (name, growth) in zip(grid, found.items(), strict=False):
        last = growth.seconds[-1] / growth.sizes[-1]
        place.loglog(growth.sizes, [last * size for size in growth.sizes], color="0.7", label="linear")
        place.loglog(growth.sizes, growth.seconds, marker="o", label="measured")
        place.set(title=f"{name}: exponent {growth.exponent:.2f}", xlabel=name)
        place.title.set_fontsize(10)
    grid[0].set_ylabel("CPU seconds")
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
    """Check that no cost grows faster than linearly, or as is known of it, over all sizes or over the upper half."""
    for name, one in found.items():
        most = NOT_LINEAR.get(name, MOST)
        assert max(one.exponent, one.last_exponent) <= most, f"{name}: {one.exponent:.2f}, {one.last_exponent:.2f}"
