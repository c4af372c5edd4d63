"""What a checkpoint holds beyond the weights, how it is written, and how a method comes back from one."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from ebmzoo.errors import UserError
from ebmzoo.networks.weights import read_weights
from ebmzoo.sampling.randomness import random_state, set_random_state
from ebmzoo.training.durable import keep_as, rename
from ebmzoo.training.migration import FORMAT, KEY, migrated
from ebmzoo.training.ranks import buffers_of_others, of_all
from ebmzoo.version import __version__

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


@dataclass(frozen=True)
class Rollbacks:
    """How often the run has gone back after a divergence, and what was changed: config keys and their numbers."""

    tries: int = 0
    changed: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, checkpoint: dict[str, Any]) -> Rollbacks:
        """Those that a checkpoint tells of; none where it is of an ebmzoo that did not."""
        told = checkpoint[KEY].get("rollbacks", {})
        # Numbers alone: a class named in a file must not come upon the command line.
        changed = {key: value for key, value in told.get("changed", {}).items() if isinstance(value, int | float)}
        return cls(told.get("tries", 0), changed)

    @property
    def flags(self) -> list[str]:
        """What the changes are on a command line."""
        return [f"--{key}={value}" for key, value in self.changed.items()]


class LastCheckpoint(Checkpoint):
    """Keeps `<run_dir>/last.ckpt`: written aside, then renamed over the old one, so that it is never half a file.

    The one before it stays as `previous.ckpt`. The file carries the run's config and of every process its random
    states and what its buffers have for themselves, so that `test`, `sample` and a resumed `fit` need nothing else.
    Where it cannot be written, on a full disk say, training goes on and the next one tries again.

    Args:
        run_dir: where the file is kept.
        config: the run's config as YAML text.
        every_n_steps: iterations between two checkpoints; one is also written at the end.
        rollbacks: how the run came to be what it is, for one that goes on from the file; see `Rollbacks`.

    Raises:
        UserError: `every_n_steps` is out of range; or, at the end of the fit, the file cannot be written.
    """

    def __init__(
        self, run_dir: str | Path, config: str, every_n_steps: int = 1000, rollbacks: Rollbacks | None = None
    ) -> None:
        if every_n_steps < 1:
            raise UserError(f"checkpoint_every is {every_n_steps}; it must be 1 or more")
        self.path = Path(run_dir) / LAST
        self.config = config
        self.every_n_steps = every_n_steps
        self.rollbacks = rollbacks or Rollbacks()
        self.kept: int | None = None
        """The iteration of the checkpoint that is on the disk, None where this fit has written and read none."""
        self._loaded: dict[str, Any] | None = None
        self._failing = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = {
            "format": FORMAT,
            "version": __version__,
            "config": self.config,
            "random": of_all(random_state()),
            "buffers": buffers_of_others(pl_module),
            "rollbacks": asdict(self.rollbacks),
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loaded = checkpoint.get(KEY, {})
        if Path(str(trainer.ckpt_path)).parent == self.path.parent:
            self.kept = checkpoint.get("global_step")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not while it is loaded: DDP, set up after that, gives every process the buffers of process 0.
        if self._loaded is None:
            return
        epochs = trainer.fit_loop.epoch_progress.state_dict()["total"]
        if trainer.fit_loop.restarted_mid_epoch and epochs["processed"] == epochs["started"]:
            # Of the last batch of an epoch: lightning 2.6 takes the next one for the rest of that, and does not count
            # it, so that the second checkpoint after it would be misread.
            trainer.fit_loop.reset_restart_stage()
        loaded, self._loaded, rank = self._loaded, None, trainer.global_rank
        random, buffers = loaded.get("random", []), [{}, *loaded.get("buffers", [])]
        if random and len(random) != trainer.world_size and trainer.is_global_zero:
            print(
                f"the checkpoint is of {len(random)} processes and this run has {trainer.world_size}: it goes on, but "
                "not to the last bit; a process that was not there starts with the buffers of process 0 and with "
                "random numbers of its own",
                file=sys.stderr,
            )
        if rank < len(buffers):
            pl_module.load_state_dict(buffers[rank], strict=False)
        # who gives another seed wants other random numbers
        if rank < len(random) and _seed(loaded.get("config", "")) == _seed(self.config):
            set_random_state(random[rank])

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        # After `max_steps` Lightning counts the epoch as done: only a checkpoint of now resumes in its middle.
        due = trainer.global_step % self.every_n_steps == 0 or trainer.global_step == trainer.max_steps
        if due and self.kept != trainer.global_step:
            self.save(trainer)

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if self.kept == trainer.global_step:  # what is logged of an iteration follows its checkpoint
            for logger in trainer.loggers:
                logger.save()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.kept != trainer.global_step and (failure := self.save(trainer)) is not None:
            kept = f"; the last checkpoint is of iteration {self.kept}" if self.kept is not None else ""
            raise UserError(f"{self.path} cannot be written ({failure}), at the end of the run{kept}")

    def save(self, trainer: Trainer) -> str | None:
        """Write the checkpoint now; every process must call it. Gives back why it could not be, or None."""
        aside = self.path.with_suffix(".tmp")
        try:
            trainer.save_checkpoint(aside, weights_only=False)
            failure = self._put_in_place(aside) if trainer.is_global_zero else None
        except OSError as error:  # of process 0, which alone writes; the others wait for it at the end of the writing
            failure = error.strerror or str(error)
            trainer.strategy.barrier("Trainer.save_checkpoint")
        failure = trainer.strategy.broadcast(failure)
        if failure is None:
            self.kept = trainer.global_step
        if trainer.is_global_zero and self._failing != (failure is not None):
            told = f"cannot be written ({failure}); training goes on" if failure else "is written again"
            print(f"iteration {trainer.global_step}: {self.path} {told}", file=sys.stderr)
        self._failing = failure is not None
        return failure

    def _put_in_place(self, aside: Path) -> str | None:
        try:
            keep_as(self.path, self.path.with_name(PREVIOUS))
            rename(aside, self.path)
        except OSError as error:
            return error.strerror or str(error)
        return None


def _seed(config: str) -> Any:
    return (yaml.safe_load(config) or {}).get("seed_everything")


def newest(run_dir: str | Path) -> Path | None:
    """The newest checkpoint of a run's folder that is whole, None where there is none.

    Every byte of it is read and held against its checksum; a file that fails is told of and passed over.

    Raises:
        UserError: a file is whole but cannot be used, such as one of a newer ebmzoo.
    """
    for path in (Path(run_dir) / LAST, Path(run_dir) / PREVIOUS):
        if not path.exists():
            continue
        try:
            with ZipFile(path) as file:
                damaged = file.testzip()
        except (OSError, BadZipFile) as error:
            damaged = str(error)
        if damaged is None:
            read(path)
            return path
        print(f"{path} is damaged ({damaged}) and is passed over", file=sys.stderr)
    return None


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
