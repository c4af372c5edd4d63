"""What `python -m profiling --growth` measures: what a user makes larger, by sizes over two decades."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import mkdtemp

import torch

from ebmzoo.commands import compare
from ebmzoo.data import Digits
from ebmzoo.data.decode import Frame
from ebmzoo.data.folder import read_images
from ebmzoo.data.layout import layout
from ebmzoo.data.sources import image_files
from ebmzoo.methods import Method
from ebmzoo.methods.baselines import DRL
from ebmzoo.metrics import Pixels
from ebmzoo.networks import CLELEnergy, CLELFeatures
from ebmzoo.report.pictures import save_grid
from ebmzoo.report.wandb_runs.loggers import RunIdentity, closing_wandb, loggers
from ebmzoo.sampling import DRLSchedule
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.tasks import Generation
from ebmzoo.training.config import build_model
from ebmzoo.training.config_files import named_config

Cost = Callable[[int, Path], Callable[[], object]]
"""Prepares a size within an empty folder, which is not timed, and returns the work that is."""


@dataclass(frozen=True)
class Axis:
    """Something that a user makes larger: its name, its sizes and its cost."""

    name: str
    sizes: Sequence[int]
    cost: Cost


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


def levels(n: int, _: Path) -> Callable[[], object]:
    """Ten samples of DRL down n noise levels, one Langevin step at each."""
    method = build_model(named_config("drl_digits")).eval()
    assert isinstance(method, DRL)
    method.schedule = DRLSchedule(n)
    return lambda: method.sample(10, steps=1)


def rows(n: int, folder: Path) -> Callable[[], object]:
    """A run that logs n rows of three values, to W&B offline and as CSV; the process of W&B ends with it."""

    def work() -> None:
        import wandb

        with closing_wandb():
            chosen = loggers(Path(mkdtemp(dir=folder)), RunIdentity("LIEBM", "Digits", "method"))
            for step in range(n):
                for logger in chosen:
                    logger.log_metrics({"train/loss": 0.1 * step, "train/energy_gap": 1.0, "epoch": step // 10}, step)
            for logger in chosen:
                logger.finalize("success")
        wandb.teardown()

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
    """A folder of n images in ten classes: files of 8×8 pixels under n names, at most 50,000 a file (ext4: 65,000)."""
    for i in range(10):
        (folder / "images" / str(i)).mkdir(parents=True)
    for i in range(n):
        source = folder / f"{i % 10}_{i // 500_000}.png"
        if not source.exists():
            save_grid(torch.rand(1, 1, 8, 8), source)
        (folder / "images" / str(i % 10) / f"{i}.png").hardlink_to(source)
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
        Axis("n of generation", (*two, 3_000, 10_000), generation),
        Axis("noise levels", (3, 10, 30, 100, 300), levels),
        Axis("runs of compare", two, comparison),
        Axis("rows of W&B", (100, 1_000, 10_000), rows),
        Axis("names in a folder", (10_000, 100_000, 1_000_000), listing),
        Axis("images decoded", (100, 1_000, 10_000), reading),
    ]
    return [Axis(a.name, a.sizes[:2] if a.sizes[0] < 100 else (10, 20), a.cost) for a in every] if quick else every
