"""Stopping a run with a checkpoint: on Ctrl-C, on SIGTERM, and on the signal that SLURM sends before the time limit."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from types import FrameType
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer

from ebmzoo.training.checkpoint import LastCheckpoint
from ebmzoo.training.ranks import gather_objects
from ebmzoo.training.signals import Stopped
from ebmzoo.training.trust import shell_command


class StopOnSignal(Callback):
    """Stops the run after the iteration in which a signal arrives, with a checkpoint and exit code 128 + signal.

    The signals are SIGTERM, SIGINT (Ctrl-C; a second one stops at once) and SIGUSR1, or the `requeue_signal` of SLURM's
    environment; after that one the job is requeued. A signal to any process of the run counts for all. A signal during
    validation saves at once, and the validation is completed.

    It replaces Lightning's own handlers, which stop without a checkpoint, or write one in the middle of an iteration.
    Only the main thread receives signals; in any other thread Lightning's own behaviour remains.

    Args:
        keep: The callback that writes the checkpoint.
    """

    def __init__(self, keep: LastCheckpoint) -> None:
        self.keep = keep
        self._came: signal.Signals | None = None
        self._agreed: signal.Signals | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning sets its handlers before this, and restores the previous ones when the fit ends.
        if threading.current_thread() is threading.main_thread() and os.name == "posix":
            for number in (signal.SIGTERM, signal.SIGINT, _requeues(trainer) or signal.SIGUSR1):
                signal.signal(number, self._note)

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if self._agree(trainer):
            self.keep.save(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.state.fn == "fit" and self._agreed is None and self._agree(trainer):
            self.keep.save(trainer)

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        # Not at the end of the last batch: its values are logged after that, and a validation may follow.
        if self._agreed is not None:
            self._leave(trainer)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._came is not None:
            raise Stopped(number)
        self._came = signal.Signals(number)
        if number == signal.SIGINT:  # no `print`: the signal may have come in the middle of one
            os.write(
                2, b"\nebmzoo: stopping after this iteration; a second Ctrl-C stops at once, without a checkpoint\n"
            )

    def _agree(self, trainer: Trainer) -> bool:
        if trainer.strategy.reduce_boolean_decision(self._came is not None, all=False):
            self._agreed = next(number for number in gather_objects(self._came) if number is not None)
        return self._agreed is not None

    def _leave(self, trainer: Trainer) -> None:
        assert self._agreed is not None
        if trainer.is_global_zero:
            kept = self.keep.kept
            message = f"stopped by {self._agreed.name} at iteration {trainer.global_step}"
            message += "; " if kept == trainer.global_step else f", the last checkpoint is from iteration {kept}; "
            resume = shell_command("fit", self.keep.path, self.keep.config)
            print(f"ebmzoo: {message}resume with: {resume}", file=sys.stderr)
            if self._agreed == _requeues(trainer):
                _requeue()
        raise SystemExit(128 + self._agreed)


def _requeues(trainer: Trainer) -> signal.Signals | None:
    """The signal after which SLURM requeues the job; None outside SLURM."""
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
        return signal.Signals(environment.requeue_signal or signal.SIGUSR1)
    return None


def _requeue() -> None:
    job = os.environ.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if not re.fullmatch("[0-9_]+", job):
        return
    try:
        code = subprocess.run(["scontrol", "requeue", job], check=False).returncode
    except OSError:
        code = -1
    message = f"job {job} is in SLURM's queue again" if code == 0 else f"SLURM did not requeue job {job}"
    print(f"ebmzoo: {message}", file=sys.stderr)
