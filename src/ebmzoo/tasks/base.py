"""What a task is: a question put to a trained model, with the protocol under which it was answered."""

from __future__ import annotations

import json
import math
import platform
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Self

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from ebmzoo.data.datamodule import ImageData
from ebmzoo.methods.base.method import Method
from ebmzoo.metrics.extractors import FeatureExtractor
from ebmzoo.networks.weights import sha256
from ebmzoo.progress import doing
from ebmzoo.sampling.randomness import repeatable
from ebmzoo.tasks.budget import Budget


@dataclass
class Result:
    """What a task found.

    `figures` maps a figure's name, with `/` between parts, to its value; `curves` maps a curve's to its values, one a
    step; `protocol` is under what conditions; `pictures` are the files drawn; `notes` are sentences that a reader of
    the figures must know. `histograms` maps a histogram's name to its `edges` (K + 1) and, by set, its counts (K).
    `spread` has the standard deviation (divisor S − 1) of a figure that is a mean over S seeds.
    """

    task: str
    figures: dict[str, float] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    curves: dict[str, list[float]] = field(default_factory=dict)
    histograms: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Result:
        """What `write` kept; a figure that was not finite is NaN."""
        told = json.loads(path.read_text())
        for group in ("figures", "spread"):
            told[group] = {k: math.nan if v is None else v for k, v in told.get(group, {}).items()}
        return cls(**told)

    def write(self, folder: Path) -> Path:
        """Keep it as `<folder>/<task>.json`; what is not a finite number becomes null."""
        folder.mkdir(parents=True, exist_ok=True)
        told = asdict(self)
        told["figures"] = {k: _finite(v) for k, v in self.figures.items()}
        told["spread"] = {k: _finite(v) for k, v in self.spread.items()}
        told["curves"] = {k: [_finite(v) for v in values] for k, values in self.curves.items()}
        path = folder / f"{self.task}.json"
        aside = path.with_suffix(".tmp")
        aside.write_text(json.dumps(told, indent=2) + "\n")
        aside.replace(path)  # an interruption leaves no half of it
        return path


NO_SETTINGS = ("seeds", "again", "log", "log_dict")
"""Attributes of a task that its protocol tells elsewhere, and those that Lightning gives every callback."""


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class Task(Callback, ABC):
    """A question put to a trained method: plainly callable in a notebook, a callback under `ebmzoo test`."""

    name: str
    seeds: int = 1
    """How often `ebmzoo test` asks it, with other random numbers."""
    again: bool = False
    """Whether `ebmzoo test` asks it though the folder has its answer."""
    asks_of: type[LightningDataModule] | tuple[type[LightningDataModule], ...] = ImageData
    """The kinds of data that it can be asked of."""

    @abstractmethod
    def __call__(self, method: Method, data: Any, folder: Path | None = None) -> Result:
        """Ask it, with data of the kinds `asks_of`. Pictures go into `folder`; none are drawn without one."""

    def can_ask(self, method: Method) -> bool:
        """Whether the method can do what the task asks, by the kinds that it inherits from."""
        return True

    @classmethod
    def standard(cls, extractors: list[FeatureExtractor]) -> Self | None:
        """The task as `ebmzoo test` asks it where a config does not name it; None where it needs to be told more."""
        return None

    def under(self, budget: Budget) -> None:
        """Set the task's own counts to what the budget allows; a task without counts has nothing to do."""

    def missing(self) -> list[str]:
        """Sentences that say what the task lacks and what to do; `ebmzoo` tells them at the start, of `fit` too."""
        return []

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = getattr(trainer, "datamodule", None)
        if not (trainer.is_global_zero and isinstance(pl_module, Method) and self.fits(pl_module, data)):
            return
        folder = Path(trainer.default_root_dir) / "test"
        seed = int(torch.initial_seed())
        under: dict[str, Any] = {
            "seed": seed,
            "seeds": self.seeds,
            "weights": "ema" if pl_module.use_averages else "raw",
        }
        under |= provenance(trainer) | {"settings": self.settings()}
        place = self._place(trainer)
        if not self.again and answered(folder, self.name, under):
            print(f"{place}{self.name}: answered before, for this checkpoint and these settings", file=sys.stderr)
            result = Result.read(folder / f"{self.name}.json")
        else:
            clock: dict[str, float] = {}
            with stopwatch(clock, "seconds"):
                result = self._over_seeds(pl_module, data, folder, under, place)
            print(f"{place}{self.name}: {clock['seconds']:.0f} s", file=sys.stderr)
        for figure, value in result.figures.items():
            pl_module.log(f"test/{self.name}/{figure}", value, rank_zero_only=True)

    def fits(self, method: Method, data: object) -> bool:
        """Whether it can be asked of this method with this data."""
        return isinstance(data, self.asks_of) and self.can_ask(method)

    def settings(self) -> dict[str, Any]:
        """What the task was built with, as a protocol tells it."""
        own = {k: v for k, v in vars(self).items() if k not in NO_SETTINGS and not k.startswith("_")}
        return {key: _told(value) for key, value in own.items()}

    def _place(self, trainer: Trainer) -> str:
        """Which of how many tasks it is."""
        method, data = trainer.lightning_module, getattr(trainer, "datamodule", None)
        every = [c for c in trainer.callbacks if isinstance(c, Task)]  # type: ignore[attr-defined]
        asked = [task for task in every if isinstance(method, Method) and task.fits(method, data)]
        return f"task {asked.index(self) + 1} of {len(asked)}, " if len(asked) > 1 else ""

    def _over_seeds(self, method: Method, data: Any, folder: Path, under: dict[str, Any], place: str) -> Result:
        """The mean over seeds, each kept as it comes, so that an interruption costs one seed's work at most."""
        parts: list[Result] = []
        for k in range(self.seeds):
            alone = {**under, "seed": under["seed"] + k, "seeds": 1}
            aside = folder / "seeds" / str(alone["seed"])
            if self.seeds > 1 and not self.again and answered(aside, self.name, alone):
                parts.append(Result.read(aside / f"{self.name}.json"))
                continue
            which = f", seed {k + 1} of {self.seeds}" if self.seeds > 1 else ""
            with doing(f"{place}{self.name}{which}"), repeatable(alone["seed"]):
                part = self(method, data, folder if k == 0 else None)
            part.protocol |= alone
            if self.seeds > 1:
                part.write(aside)
            parts.append(part)
        result = mean_of(parts)
        result.protocol |= under
        result.write(folder)
        return result


def answered(folder: Path, task: str, under: dict[str, Any]) -> bool:
    """Whether `<folder>/<task>.json` holds what asking now would find: the same checkpoint, settings, seeds, versions.

    An answer with notes, which tell of what was missing, does not count.
    """
    path = folder / f"{task}.json"
    try:
        told = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    same = all(told["protocol"].get(key) == json.loads(json.dumps(value)) for key, value in under.items())
    return same and not told["notes"] and under["checkpoint_sha256"] is not None


def mean_of(parts: list[Result]) -> Result:
    """One result of one a seed: means and standard deviations of the figures, all else of the first."""
    first, *others = parts
    if not others:
        return first
    for name in first.figures:
        values = [part.figures[name] for part in parts if name in part.figures]
        first.figures[name] = mean(values)
        if len(values) > 1:
            first.spread[name] = stdev(values)
    return first


def _told(value: Any) -> Any:
    """A setting in JSON's types; of an object its class and its own settings."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_told(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _told(v) for k, v in value.items()}
    if isinstance(value, FeatureExtractor):
        return value.name if value.available() is None else type(value).__name__
    own = vars(value) if hasattr(value, "__dict__") else {}
    return {"class": type(value).__name__, **{k: _told(v) for k, v in own.items() if not k.startswith("_")}}


@contextmanager
def stopwatch(into: dict[str, float], key: str) -> Iterator[None]:
    """Put the seconds that the block took into `into[key]`."""
    start = time.perf_counter()
    yield
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    into[key] = time.perf_counter() - start


def provenance(trainer: Trainer) -> dict[str, Any]:
    """Which weights, made by which versions, on which machine."""
    path = trainer.ckpt_path
    device = trainer.lightning_module.device
    return {
        "checkpoint": str(path) if path else None,
        "checkpoint_sha256": sha256(path)[:12] if path else None,
        "precision": str(trainer.precision),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.machine()} {device.type}",
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("ebmzoo", "torch", "torchvision", "lightning", "torchmetrics")},
    }
