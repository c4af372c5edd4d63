"""A run that is told to end saves first: on Ctrl-C, on SIGTERM, and on what SLURM sends before it takes a node away."""

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
from ebmzoo.training.ranks import of_all


class StopOnSignal(Callback):
    """Ends the run after the iteration in which a signal came, with a checkpoint of it and exit code 128 + signal.

    The signals are SIGTERM, SIGINT (Ctrl-C; a second one ends the run at once) and SIGUSR1, or what SLURM's environment
    has as its `requeue_signal`; after that one the job is put back into SLURM's queue. A signal that any process of the
    run gets counts for all. One that comes during validation saves at once, then lets the validation end.

    It takes the place of Lightning's own handlers, which end a run without a checkpoint, or write one in mid-iteration.
    Signals reach only the main thread; a run in another one is ended as Lightning does.

    Args:
        keep: what writes the checkpoint.
    """

    def __init__(self, keep: LastCheckpoint) -> None:
        self.keep = keep
        self._came: signal.Signals | None = None
        self._agreed: signal.Signals | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning sets its handlers before this, and sets back those from before it when the fit ends.
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
        # Not at the end of the batch before: its readings are logged after that, and a validation may follow.
        if self._agreed is not None:
            self._leave(trainer)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._came is not None:
            raise KeyboardInterrupt
        self._came = signal.Signals(number)
        if number == signal.SIGINT:  # no `print`: the signal may have come in the middle of one
            os.write(2, b"\nebmzoo: stopping after this iteration; once more stops at once, without a checkpoint\n")

    def _agree(self, trainer: Trainer) -> bool:
        if trainer.strategy.reduce_boolean_decision(self._came is not None, all=False):
            self._agreed = next(number for number in of_all(self._came) if number is not None)
        return self._agreed is not None

    def _leave(self, trainer: Trainer) -> None:
        assert self._agreed is not None
        if trainer.is_global_zero:
            kept = self.keep.kept
            told = f"stopped by {self._agreed.name} at iteration {trainer.global_step}"
            told += "; " if kept == trainer.global_step else f", the last checkpoint is of iteration {kept}; "
            print(f"ebmzoo: {told}go on with: ebmzoo fit --ckpt_path {self.keep.path}", file=sys.stderr)
            if self._agreed == _requeues(trainer):
                _requeue()
        raise SystemExit(128 + self._agreed)


def _requeues(trainer: Trainer) -> signal.Signals | None:
    """The signal after which a job of SLURM is queued again, None outside SLURM."""
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
    told = f"job {job} is in SLURM's queue again" if code == 0 else f"SLURM did not put job {job} back into its queue"
    print(f"ebmzoo: {told}", file=sys.stderr)
