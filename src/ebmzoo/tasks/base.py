"""What a task is: a question put to a trained model, with the protocol under which it was answered."""

from __future__ import annotations

import json
import math
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from ebmzoo.data.datamodule import ImageData
from ebmzoo.fingerprint import sha256
from ebmzoo.methods.base import Method
from ebmzoo.randomness import repeatable


@dataclass
class Result:
    """What a task found.

    `figures` maps a figure's name, with `/` between parts, to its value; `curves` maps a curve's to its values, one a
    step; `protocol` is under what conditions; `pictures` are the files drawn; `notes` are sentences that a reader of
    the figures must know.
    """

    task: str
    figures: dict[str, float] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    curves: dict[str, list[float]] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Keep it as `<folder>/<task>.json`; what is not a finite number becomes null."""
        folder.mkdir(parents=True, exist_ok=True)
        told = asdict(self)
        told["figures"] = {k: _finite(v) for k, v in self.figures.items()}
        told["curves"] = {k: [_finite(v) for v in values] for k, values in self.curves.items()}
        path = folder / f"{self.task}.json"
        path.write_text(json.dumps(told, indent=2) + "\n")
        return path


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class Task(Callback, ABC):
    """A question put to a trained method: plainly callable in a notebook, a callback under `ebmzoo test`."""

    name: str
    asks_of: type[LightningDataModule] | tuple[type[LightningDataModule], ...] = ImageData
    """The kinds of data that it can be asked of."""

    @abstractmethod
    def __call__(self, method: Method, data: Any, folder: Path | None = None) -> Result:
        """Ask it, with data of the kinds `asks_of`. Pictures go into `folder`; none are drawn without one."""

    def can_ask(self, method: Method) -> bool:
        """Whether the method can do what the task asks, by the kinds that it inherits from."""
        return True

    def missing(self) -> list[str]:
        """Sentences that say what the task lacks and what to do; `ebmzoo` tells them at the start, of `fit` too."""
        return []

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = getattr(trainer, "datamodule", None)
        if not (trainer.is_global_zero and isinstance(pl_module, Method) and isinstance(data, self.asks_of)):
            return
        if not self.can_ask(pl_module):
            return
        folder = Path(trainer.default_root_dir) / "test"
        with repeatable(seed := int(torch.initial_seed())):
            result = self(pl_module, data, folder)
        result.protocol |= {"seed": seed, "weights": "ema" if pl_module.use_averages else "raw"} | provenance(trainer)
        result.write(folder)
        for figure, value in result.figures.items():
            pl_module.log(f"test/{self.name}/{figure}", value, rank_zero_only=True)


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
