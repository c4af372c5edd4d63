"""Callbacks that follow a logged value, such as early stopping: whether there is a value of that name."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ebmzoo.errors import UserError, plain
from ebmzoo.methods.base.method import VALIDATED, Method

COUNTS = ("epoch", "step")
"""Values that Lightning has for every module."""


class CheckMonitors(Callback):
    """Refuses a callback that follows a value which a method does not log, and names one that has none after an epoch.

    A method logs `VALIDATED` at a validation, and what its `iterate` returns under `train/` at an iteration, which may
    be other values in another phase: they are not refused.
    """

    def __init__(self) -> None:
        self._named: set[str] = set()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(pl_module, Method) or type(pl_module).validation_step is not Method.validation_step:
            return
        for callback, key in _monitors(trainer):
            if key not in (*VALIDATED, *COUNTS) and not key.startswith("train/"):
                raise UserError(
                    f"trainer.callbacks: {callback} monitors '{key}', which a {type(pl_module).__name__} does not log: "
                    f"it logs {', '.join(VALIDATED)} and, of an iteration, train/…{_near(key, VALIDATED)}"
                )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, Method) and not pl_module.trains_energy:
            return
        logged = trainer.callback_metrics
        for callback, key in _monitors(trainer):
            awaited = key.startswith("val/") and not any(name.startswith("val/") for name in logged)
            if key not in logged and key not in COUNTS and not awaited and key not in self._named:
                self._named.add(key)
                if trainer.is_global_zero:
                    sentence = f"! {callback} monitors '{key}', which has not been logged so far{_near(key, logged)}"
                    print(plain(sentence), file=sys.stderr)


def _monitors(trainer: Any) -> list[tuple[str, str]]:
    """The callbacks that follow a value, by their class, each with its name."""
    found = [(type(callback).__name__, getattr(callback, "monitor", None)) for callback in trainer.callbacks]
    return [(name, key) for name, key in found if isinstance(key, str)]


def _near(key: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(names), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
