"""The cost of a run: `<run_dir>/training.json`, for tables of quality against cost."""

from __future__ import annotations

import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ebmzoo.report.wandb_runs.axes import RECORD, axes
from ebmzoo.report.wandb_runs.loggers import ZooWandbLogger
from ebmzoo.report.write_errors import ignore_write_errors
from ebmzoo.training.evaluations import EvaluationCounter, countable
from ebmzoo.training.schema import is_number
from ebmzoo.writing import write_whole


class TrainingRecord(Callback):
    """Records the iterations, images, network evaluations and seconds of the run, and the size of its networks.

    They are also the x-axes `cost/…` of the curves in W&B. A resumed run continues the counts. Evaluations are those of
    `EvaluationCounter`, in all processes; null where they cannot be counted, or were not from the start. Seconds are
    the time between the start and the end of an iteration; on a GPU, where the host runs ahead, their sum is right but
    a single one need not be. CPU seconds are those of this process.

    Args:
        run_dir: The folder of `training.json`, which is written at the end of the fit, however it ends.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self.path = Path(run_dir) / RECORD
        self.iterations = self.images = self.evaluations = 0
        self.seconds = self.cpu_seconds = 0.0
        self._recent: list[float] = []
        self._recent_cpu: list[float] = []
        self._start = (0.0, 0.0)
        self._counter = EvaluationCounter()
        self._counts = True

    def costs(self) -> dict[str, float]:
        """What the run has cost so far, by the names of the x-axes in W&B."""
        return axes(self.state_dict())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._counts = self._counts and countable(pl_module)
        for logger in trainer.loggers:
            if isinstance(logger, ZooWandbLogger):
                logger.costs = self.costs

    def state_dict(self) -> dict[str, Any]:
        return {
            "iterations": self.iterations,
            "images": self.images,
            "evaluations": self.evaluations if self._counts else None,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._counts = state_dict.get("evaluations") is not None  # earlier versions did not count them
        for name in self.state_dict():
            value: Any = state_dict.get(name)
            if is_number(value) and value >= 0:
                setattr(self, name, value)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self._counts:
            self._counter.start(pl_module)
        self._start = time.perf_counter(), time.process_time()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.evaluations += self._counter.stop() * trainer.world_size
        took, took_cpu = time.perf_counter() - self._start[0], time.process_time() - self._start[1]
        self.seconds, self.cpu_seconds = self.seconds + took, self.cpu_seconds + took_cpu
        self._recent, self._recent_cpu = [*self._recent[-999:], took], [*self._recent_cpu[-999:], took_cpu]
        self.iterations += 1
        self.images += len(batch[0]) * trainer.world_size if isinstance(batch[0], Tensor) else 0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, pl_module, finished=not trainer.interrupted)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._counter.stop()
        self._write(trainer, pl_module, finished=False)

    def _write(self, trainer: Trainer, module: LightningModule, finished: bool) -> None:
        if not trainer.is_global_zero or (self.path.exists() and not self._recent):
            return  # without an iteration there is nothing to add to the record
        record = self.state_dict() | {
            "finished": finished,
            "seconds_per_iteration_median": statistics.median(self._recent) if self._recent else None,
            "cpu_seconds_per_iteration_median": statistics.median(self._recent_cpu) if self._recent_cpu else None,
            "parameters": parameters(module),
            "device": torch.cuda.get_device_name(module.device) if module.device.type == "cuda" else platform.machine(),
            "devices": trainer.world_size,
            "threads": torch.get_num_threads(),
            "precision": str(trainer.precision),
        }
        with ignore_write_errors(str(self.path)):
            write_whole(self.path, json.dumps(record, indent=2) + "\n")


def parameters(module: LightningModule) -> dict[str, int]:
    """The number of parameters of each network of a method, by name; averages are not counted as networks."""
    children = {name: child for name, child in module.named_children() if name != "averages"}
    counts = {name: sum(p.numel() for p in child.parameters()) for name, child in children.items()}
    return {name: count for name, count in counts.items() if count}
