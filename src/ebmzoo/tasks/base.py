"""The interface of a task, an evaluation of a trained model, and its result with the protocol."""

from __future__ import annotations

import json
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Self, cast

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from ebmzoo.data.datamodule import ImageData
from ebmzoo.errors import UserError
from ebmzoo.methods.base.method import Method
from ebmzoo.metrics.extractors import FeatureExtractor
from ebmzoo.progress import doing
from ebmzoo.reading import read_json
from ebmzoo.report.own_files import read_own
from ebmzoo.sampling.randomness import repeatable
from ebmzoo.tasks.budget import Budget
from ebmzoo.tasks.provenance import provenance
from ebmzoo.writing import write_whole


@dataclass
class Result:
    """The result of a task.

    `figures` maps the name of a figure, with `/` between its parts, to its value; `curves` maps the name of a curve to
    its values, one per step; `protocol` holds the conditions of the evaluation; `pictures` are the files that were
    drawn; `notes` are sentences that qualify the figures. `histograms` maps the name of a histogram to its `edges`
    (K + 1) and, by set, its counts (K). `spread` is the standard deviation (divisor S − 1) of each figure that is a
    mean over S seeds.

    >>> from tempfile import TemporaryDirectory
    >>> result = Result("generation", figures={"fd_pixels": 1.5}, protocol={"n": 100})
    >>> with TemporaryDirectory() as folder:
    ...     Result.read(result.write(Path(folder))).figures
    {'fd_pixels': 1.5}
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
        """Read the file that `write` made; a figure that was not finite is NaN."""
        content = read_json(path)
        for group in ("figures", "spread"):
            content[group] = {k: math.nan if v is None else v for k, v in content.get(group, {}).items()}
        return cls(**content)

    def write(self, folder: Path) -> Path:
        """Write the result to `<folder>/<task>.json`; a value that is not finite becomes null."""
        content = asdict(self)
        content["figures"] = {k: _finite(v) for k, v in self.figures.items()}
        content["spread"] = {k: _finite(v) for k, v in self.spread.items()}
        content["curves"] = {k: [_finite(v) for v in values] for k, values in self.curves.items()}
        path = folder / f"{self.task}.json"
        write_whole(path, json.dumps(content, indent=2) + "\n")
        return path


NO_SETTINGS = ("seeds", "rerun", "log", "log_dict")
"""Attributes of a task that its protocol holds elsewhere, and those that Lightning sets on every callback."""


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class Task(Callback, ABC):
    """An evaluation of a trained method, which can be called directly and is a callback under `ebmzoo test`.

    >>> class Mean(Task):
    ...     name = "mean"
    ...     def __call__(self, method, data, folder=None):
    ...         return Result(self.name, {"energy": float(method.energy(data.test_set.float()).mean())})
    >>> Mean().settings()
    {}
    """

    name: str
    seeds: int = 1
    """The number of random seeds over which `ebmzoo test` averages the figures."""
    rerun: bool = False
    """Whether `ebmzoo test` runs the task even if the folder has an up-to-date result."""
    data_types: type[LightningDataModule] | tuple[type[LightningDataModule], ...] = ImageData
    """The classes of data modules that the task can be run on."""
    models: type[LightningModule] | tuple[type[LightningModule], ...] = Method
    """The classes of models that the task can be run on: methods, unless a classifier's images can be judged too."""

    @abstractmethod
    def __call__(self, method: Method, data: Any, folder: Path | None = None) -> Result:
        """Evaluate the method on data of one of `data_types`; pictures are drawn into `folder`, if there is one."""

    def supports(self, method: Method) -> bool:
        """Whether the method has the capabilities that the task needs."""
        return True

    @classmethod
    def standard(cls, extractors: list[FeatureExtractor]) -> Self | None:
        """Return the task with default settings, for configs that do not list it; None if a setting has no default."""
        return None

    def apply_budget(self, budget: Budget) -> None:
        """Set the numbers of samples and images to those of `budget`; a task without such numbers ignores it."""

    def sets(self, data: Any) -> dict[str, Any]:
        """The data that the figures rest on, as `data.record` states it."""
        found: dict[str, Any] = data.record()
        return found

    def missing(self) -> list[str]:
        """Sentences about what the task lacks and how to provide it; `ebmzoo` prints them before `fit` and `test`."""
        return []

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = getattr(trainer, "datamodule", None)
        if not (trainer.is_global_zero and self.fits(pl_module, data)):
            return
        model: Any = pl_module
        folder = Path(trainer.default_root_dir) / "test"
        seed = int(torch.initial_seed())
        under: dict[str, Any] = {
            "seed": seed,
            "seeds": self.seeds,
            "weights": "ema" if getattr(pl_module, "use_averages", False) else "raw",
        }
        under |= provenance(trainer) | {"settings": self.settings(), "sets": self.sets(data)}
        place = self._progress_label(trainer)
        if not self.rerun and is_up_to_date(folder, self.name, under):
            print(
                f"{place}{self.name}: skipped, its result for this checkpoint, data and settings is up to date",
                file=sys.stderr,
            )
            result = Result.read(folder / f"{self.name}.json")
        else:
            clock: dict[str, float] = {}
            with stopwatch(clock, "seconds"):
                result = self._over_seeds(model, data, folder, under, place)
            print(f"{place}{self.name}: {clock['seconds']:.0f} s", file=sys.stderr)
        for figure, value in result.figures.items():
            pl_module.log(f"test/{self.name}/{figure}", value, rank_zero_only=True)

    def fits(self, model: Any, data: object) -> bool:
        """Whether the task can be run on this model with this data."""
        return isinstance(data, self.data_types) and isinstance(model, self.models) and self.supports(cast(Any, model))

    def settings(self) -> dict[str, Any]:
        """The arguments that the task was built with, as they appear in its protocol."""
        own = {k: v for k, v in vars(self).items() if k not in NO_SETTINGS and not k.startswith("_")}
        return {key: _to_json(value) for key, value in own.items()}

    def _progress_label(self, trainer: Trainer) -> str:
        """The position of the task in the list, for messages."""
        method, data = trainer.lightning_module, getattr(trainer, "datamodule", None)
        every = [c for c in trainer.callbacks if isinstance(c, Task)]  # type: ignore[attr-defined]
        run = [task for task in every if task.fits(method, data)]
        return f"task {run.index(self) + 1} of {len(run)}, " if len(run) > 1 else ""

    def _over_seeds(self, method: Method, data: Any, folder: Path, under: dict[str, Any], place: str) -> Result:
        """Average over seeds; the result of each seed is written at once, so that an interruption loses at most one."""
        parts: list[Result] = []
        for k in range(self.seeds):
            alone = {**under, "seed": under["seed"] + k, "seeds": 1}
            aside = folder / "seeds" / str(alone["seed"])
            if self.seeds > 1 and not self.rerun and is_up_to_date(aside, self.name, alone):
                parts.append(Result.read(aside / f"{self.name}.json"))
                continue
            which = f", seed {k + 1} of {self.seeds}" if self.seeds > 1 else ""
            with doing(f"{place}{self.name}{which}"), repeatable(alone["seed"]):
                part = self(method, data, folder if k == 0 else None)
            part.protocol |= alone
            if self.seeds > 1:
                part.write(aside)
            parts.append(part)
        result = average_results(parts)
        result.protocol |= under
        result.write(folder)
        return result


def is_up_to_date(folder: Path, task: str, under: dict[str, Any]) -> bool:
    """Whether `<folder>/<task>.json` is a result of the same checkpoint, model, data, settings, seeds and code.

    All that a figure rests on is in `under`. A result with notes about something missing does not count.
    """
    found = read_own(folder / f"{task}.json", lambda content: (content["protocol"].get, content["notes"]))
    if found is None:
        return False
    stated, notes = found
    same = all(stated(key) == json.loads(json.dumps(value)) for key, value in under.items())
    return same and not notes and under["checkpoint_sha256"] is not None


def average_results(parts: list[Result]) -> Result:
    """Average results, one per seed: means and standard deviations of the figures; the rest is that of the first."""
    first, *others = parts
    if not others:
        return first
    for name in first.figures:
        values = [part.figures[name] for part in parts if name in part.figures]
        first.figures[name] = mean(values)
        if len(values) > 1:
            first.spread[name] = stdev(values)
    return first


def _to_json(value: Any) -> Any:
    """A setting in JSON's types; an object becomes its class name and its own settings."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_to_json(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _to_json(v) for k, v in value.items()}
    if isinstance(value, FeatureExtractor):
        present = value.available() is None
        return {"name": value.name, "sha256": value.fingerprint} if present else {"missing": type(value).__name__}
    own = vars(value) if hasattr(value, "__dict__") else {}
    return {"class": type(value).__name__, **{k: _to_json(v) for k, v in own.items() if not k.startswith("_")}}


@contextmanager
def if_possible(result: Result, figure: str) -> Iterator[None]:
    """Within it a figure that cannot be computed, for want of images say, becomes a note that names it."""
    try:
        yield
    except UserError as error:
        result.notes.append(f"{figure}: left out, since {error}")


@contextmanager
def stopwatch(into: dict[str, float], key: str) -> Iterator[None]:
    """Store the duration of the block in seconds as `into[key]`."""
    start = time.perf_counter()
    yield
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    into[key] = time.perf_counter() - start
