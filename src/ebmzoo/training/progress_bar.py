"""The progress bar of a run: one for the whole training, with its health in a sentence now and then."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from ebmzoo.errors import plain
from ebmzoo.methods.base.method import Method

SENTENCES = (0.05, 0.25, 0.5, 0.75)
"""The parts of a run after which a sentence says how it goes."""
STILL = 1.02
"""A chain that moves no more than this many times its noise is moved by its noise alone, as the watchdog has it."""


class ProgressBar(TQDMProgressBar):
    """Lightning's progress bar over the whole training, so that the time left is that of the run and not of the epoch.

    It shows the phase of a method and the energy gap, the displacement of the chains or the loss of the run's kind,
    and reads the logged values at most once a second, because reading them makes the host wait for the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self._shown: dict[str, Any] = {}
        self._due = -math.inf
        self._said = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        bar, start = self.train_progress_bar, trainer.global_step
        total = iterations(trainer)
        self._describe(pl_module)
        bar.reset(total=int(total) if math.isfinite(total) else None)
        bar.initial = bar.n = start  # so that a resumed run's rate is that of its own iterations
        self._said = sum(start >= part * total for part in SENTENCES) if math.isfinite(total) else len(SENTENCES)

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        self._describe(trainer.lightning_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        bar, step = self.train_progress_bar, trainer.global_step
        if bar.disable or not self._should_update(step, int(bar.total or 0)):
            return
        self._describe(pl_module)
        bar.n = step
        bar.set_postfix(self.get_metrics(trainer, pl_module))
        if self._said < len(SENTENCES) and bar.total and step >= SENTENCES[self._said] * bar.total:
            self._said = sum(step >= part * bar.total for part in SENTENCES)
            if (sentence := health(self._shown)) is not None:
                Tqdm.write(plain(f"iteration {step:,}: {sentence}"), file=bar.fp)

    def _describe(self, model: LightningModule) -> None:
        self.train_progress_bar.set_description(model.phase if isinstance(model, Method) else "training", refresh=False)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        if (now := time.monotonic()) >= self._due:
            metrics = super().get_metrics(trainer, pl_module)
            self._shown = {k.removeprefix("train/"): v for k, v in metrics.items() if k != "v_num"}
            self._due = now + 1
        return self._shown


def iterations(trainer: Trainer) -> float:
    """The iterations of a training from its first to its last; infinite if it has no end."""
    by_steps = math.inf if trainer.max_steps in (-1, None) else float(trainer.max_steps)
    epochs = math.inf if trainer.max_epochs in (-1, None) else float(trainer.max_epochs)
    batches = float(trainer.num_training_batches) / max(1, trainer.accumulate_grad_batches)
    return min(by_steps, epochs * math.ceil(batches) if math.isfinite(batches) else math.inf)


def health(values: Mapping[str, Any]) -> str | None:
    """How the chains of a training do, in a sentence; None where it has no chain with noise.

    >>> health({"displacement_ratio": 4.1, "energy_gap": 0.02})
    'the chain moves 4.1 × its noise, energy gap 0.02: healthy'
    >>> health({"displacement_ratio": 1.0, "energy_gap": 0.0})
    'the chain moves 1 × its noise, energy gap 0: the energy does not yet move it'
    """
    found = [values.get(name) for name in ("displacement_ratio", "energy_gap")]
    ratio, gap = (math.nan if value is None else float(value) for value in found)
    if not math.isfinite(ratio):
        return None
    verdict = "healthy" if ratio > STILL and math.isfinite(gap) else "the energy does not yet move it"
    return f"the chain moves {ratio:.2g} × its noise, energy gap {gap:.2g}: {verdict}"
