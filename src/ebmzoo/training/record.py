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

from ebmzoo.report.write_errors import ignore_write_errors
from ebmzoo.training.schema import is_number
from ebmzoo.writing import write_whole


class TrainingRecord(Callback):
    """Records the iterations, images and seconds of the run, and the size of its networks.

    A resumed run continues the counts. Seconds are the time between the start and the end of an iteration; on a GPU,
    where the host runs ahead, their sum is right but a single one need not be. CPU seconds are those of this process.

    Args:
        run_dir: The folder of `training.json`, which is written at the end of the fit, however it ends.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self.path = Path(run_dir) / "training.json"
        self.iterations = self.images = 0
        self.seconds = self.cpu_seconds = 0.0
        self._recent: list[float] = []
        self._recent_cpu: list[float] = []
        self._start = (0.0, 0.0)

    def state_dict(self) -> dict[str, Any]:
        return {
            "iterations": self.iterations,
            "images": self.images,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in self.state_dict():
            value: Any = state_dict.get(name)
            if is_number(value) and value >= 0:
                setattr(self, name, value)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._start = time.perf_counter(), time.process_time()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        took, took_cpu = time.perf_counter() - self._start[0], time.process_time() - self._start[1]
        self.seconds, self.cpu_seconds = self.seconds + took, self.cpu_seconds + took_cpu
        self._recent, self._recent_cpu = [*self._recent[-999:], took], [*self._recent_cpu[-999:], took_cpu]
        self.iterations += 1
        self.images += len(batch[0]) * trainer.world_size if isinstance(batch[0], Tensor) else 0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, pl_module, finished=not trainer.interrupted)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
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
