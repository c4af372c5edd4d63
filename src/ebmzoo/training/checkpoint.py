"""What a checkpoint holds beyond the weights, how it is written, and how a method comes back from one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch.distributed as dist
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from ebmzoo import __version__
from ebmzoo.errors import UserError
from ebmzoo.randomness import random_state, set_random_state
from ebmzoo.training.migration import FORMAT, KEY, migrated
from ebmzoo.weights import read_weights


class LastCheckpoint(Checkpoint):
    """Keeps `<run_dir>/last.ckpt`: written aside, then renamed over the old one, so that it is never half a file.

    The file carries the run's config and the random states of all processes, so that `test`, `sample` and a resumed
    `fit` need nothing else.

    Args:
        run_dir: where the file is kept.
        config: the run's config as YAML text.
        every_n_steps: iterations between two checkpoints; one is also written at the end.
    """

    def __init__(self, run_dir: str | Path, config: str, every_n_steps: int = 1000) -> None:
        if every_n_steps < 1:
            raise UserError(f"checkpoint_every is {every_n_steps}; it must be 1 or more")
        self.path = Path(run_dir) / "last.ckpt"
        self.config = config
        self.every_n_steps = every_n_steps
        self._saved = -1
        self._random: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = {
            "format": FORMAT,
            "version": __version__,
            "config": self.config,
            "random": _of_all_processes(random_state()),
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        states = checkpoint.get(KEY, {}).get("random", [])
        if _seed(checkpoint.get(KEY, {}).get("config", "")) != _seed(self.config):
            states = []  # who gives another seed wants other random numbers
        self._random = states[trainer.global_rank] if trainer.global_rank < len(states) else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._random is not None:
            set_random_state(self._random)
            self._random = None

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        # After `max_steps` Lightning counts the epoch as done: only a checkpoint of now resumes in its middle.
        if trainer.global_step % self.every_n_steps == 0 or trainer.global_step == trainer.max_steps:
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._saved != trainer.global_step:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write the checkpoint now; every process must call it."""
        aside = self.path.with_suffix(".tmp")
        trainer.save_checkpoint(aside, weights_only=False)
        if trainer.is_global_zero:
            with aside.open("rb") as file:
                os.fsync(file.fileno())
            aside.replace(self.path)
        trainer.strategy.barrier("LastCheckpoint.save")
        self._saved = trainer.global_step


def _seed(config: str) -> Any:
    return (yaml.safe_load(config) or {}).get("seed_everything")


def _of_all_processes(mine: dict[str, Any]) -> list[dict[str, Any]]:
    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone


def read(path: str | Path) -> dict[str, Any]:
    """A checkpoint's contents in the newest format, on the CPU, with no code run from the file.

    Raises:
        UserError: no such file, not a checkpoint, or not one of `ebmzoo`, or one of a newer.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"ckpt_path: there is no file {path}")
    try:
        return migrated(read_weights(path), path)
    except UserError as error:
        raise UserError(f"ckpt_path: {error}") from error


def load(path: str | Path, trust: bool = False) -> LightningModule:
    """The model of a checkpoint, in eval mode on the CPU, built from the config that the file carries.

    Args:
        path: the file.
        trust: let its config name any class there is, which runs that class's code; without it only classes of ebmzoo
            and of what it builds on.

    Raises:
        UserError: the file is no checkpoint of `ebmzoo`, or, without `trust`, names another's class.
    """
    from ebmzoo.training.config import build_model

    checkpoint = read(path)
    try:
        model = build_model(checkpoint[KEY]["config"], trust)
        model.on_load_checkpoint(checkpoint)
        model.load_state_dict(checkpoint["state_dict"])
    except UserError as error:
        raise UserError(f"ckpt_path: {path}: {error}") from error
    except (KeyError, RuntimeError) as error:
        raise UserError(f"ckpt_path: {path} does not hold the weights of the model that its config names") from error
    return model.eval()
