"""The content of a checkpoint beyond the weights, how it is written, and how a method is loaded from one."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from ebmzoo.errors import UserError, plain
from ebmzoo.networks.integrity import check_finite, damage, not_finite
from ebmzoo.networks.weights import read_weights
from ebmzoo.reading import read_yaml
from ebmzoo.sampling.randomness import random_state, set_random_state
from ebmzoo.training.config import sections
from ebmzoo.training.differences import changes_line, conditions
from ebmzoo.training.durable import hard_link, save
from ebmzoo.training.migration import FORMAT, KEY, migrated
from ebmzoo.training.optimizer_states import ResumedOptimizers, optimizer_names
from ebmzoo.training.ranks import differing_buffers, gather_objects
from ebmzoo.training.schema import is_number, value_at
from ebmzoo.training.sharing.shared_model import is_shared, located, read_shared
from ebmzoo.training.training_data import TrainingData
from ebmzoo.version import __version__
from ebmzoo.writing import rename

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
_PLAIN_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)


@dataclass(frozen=True)
class Rollbacks:
    """The number of times a run has gone back after a divergence, and the config keys changed since, with values."""

    tries: int = 0
    changed: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, checkpoint: dict[str, Any]) -> Rollbacks:
        """The rollbacks stored in a checkpoint; none if an ebmzoo without rollbacks wrote it.

        Only numbers at keys where the checkpoint's own config has a number are taken from the file, since they become
        flags: neither a class as a value nor a key such as `trainer.callbacks=[…] #`, `run_dir` or `trust` may reach
        the command line.

        Raises:
            UserError: The file states something else as a change.
        """
        stored = checkpoint[KEY].get("rollbacks", {})
        tries, changed = stored.get("tries", 0), stored.get("changed", {})
        if not isinstance(tries, int) or isinstance(tries, bool) or tries < 0:
            raise UserError(f"ckpt_path: the checkpoint counts {tries!r:.60} rollbacks; it must be a number, 0 or more")
        if not isinstance(changed, Mapping):
            raise UserError(
                f"ckpt_path: the checkpoint's rollbacks change {changed!r:.60}, which is no mapping of keys"
            )
        config = sections(checkpoint[KEY]["config"])
        for key, value in changed.items():
            plain_key = isinstance(key, str) and _PLAIN_KEY.fullmatch(key) is not None
            if not plain_key or not is_number(value) or not is_number(value_at(config, key, default=None)):
                raise UserError(
                    f"ckpt_path: the checkpoint's rollbacks change {key!r:.60}, which is no number of its config"
                )
        return cls(tries, dict(changed))

    @property
    def flags(self) -> list[str]:
        """The changes as flags of a command line."""
        return [f"--{key}={value}" for key, value in self.changed.items()]


class LastCheckpoint(Checkpoint):
    """Writes `<run_dir>/last.ckpt` to a temporary file and renames it, so that it is never half a file.

    The checkpoint before it stays as `previous.ckpt`. The file holds the config of the run and, for every process, its
    random states and its own buffers, so that `test`, `sample` and a resumed `fit` need nothing else. If it cannot be
    written, for example on a full disk, training continues and the next checkpoint tries again.

    Args:
        run_dir: The folder of the file.
        config: The config of the run as YAML text.
        every_n_steps: Iterations between two checkpoints, 1 or more; one is also written at the end.
        rollbacks: The rollbacks so far, for a run that resumes from the file; see `Rollbacks`.
        changed_data: Whether a run may resume on other training images than those of its checkpoint.

    Raises:
        UserError: `every_n_steps` is out of range; the training images are others than those of the checkpoint; or, at
            the end of the fit, the file cannot be written.
    """

    def __init__(
        self,
        run_dir: str | Path,
        config: str,
        every_n_steps: int = 1000,
        rollbacks: Rollbacks | None = None,
        changed_data: bool = False,
    ) -> None:
        if every_n_steps < 1:
            raise UserError(f"checkpoint_every is {every_n_steps}; it must be 1 or more")
        self.path = Path(run_dir) / LAST
        self.config = config
        self.every_n_steps = every_n_steps
        self.rollbacks = rollbacks or Rollbacks()
        self.changed_data = changed_data
        self.kept: int | None = None
        """The iteration of the checkpoint on disk; None if this fit has neither written nor read one."""
        self._loaded: dict[str, Any] | None = None
        self._optimizers: ResumedOptimizers | None = None
        self._failing = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = {
            "format": FORMAT,
            "version": __version__,
            "config": self.config,
            "random": gather_objects(random_state()),
            "buffers": differing_buffers(pl_module),
            "rollbacks": asdict(self.rollbacks),
            "data": TrainingData.of(_data(trainer)).saved(),
            "optimizers": optimizer_names(trainer),
            "conditions": conditions(trainer),
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loaded = checkpoint.get(KEY, {})
        change = TrainingData.read(self._loaded).change(TrainingData.of(_data(trainer)))
        if change is not None and not self.changed_data:
            raise UserError(f"data: {change}; to resume on other data, add --changed_data")
        if change is not None and trainer.is_global_zero:
            print(f"! data: {change}; the run resumes, but will differ from an uninterrupted one", file=sys.stderr)
        self._optimizers = ResumedOptimizers(checkpoint, self._loaded.get("optimizers"))
        if Path(str(trainer.ckpt_path)).parent == self.path.parent:
            self.kept = checkpoint.get("global_step")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._optimizers is not None:  # which exist now; Lightning loads their states after this
            self._optimizers.before_loading(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not in `on_load_checkpoint`: DDP, set up after that, gives every process the buffers of process 0.
        if self._loaded is None:
            return
        epochs = trainer.fit_loop.epoch_progress.state_dict()["total"]
        if trainer.fit_loop.restarted_mid_epoch and epochs["processed"] == epochs["started"]:
            # At the last batch of an epoch, lightning 2.6 takes the next epoch for the rest of this one and does not
            # count it, so that the second checkpoint after it would be misread.
            trainer.fit_loop.reset_restart_stage()
        loaded, self._loaded, rank = self._loaded, None, trainer.global_rank
        if self._optimizers is not None:
            self._optimizers.after_loading(trainer)
        if trainer.is_global_zero and (line := self._changes(trainer, loaded)) is not None:
            print(plain(line), file=sys.stderr)
        self._optimizers = None
        random, buffers = loaded.get("random", []), [{}, *loaded.get("buffers", [])]
        if random and len(random) != trainer.world_size and trainer.is_global_zero:
            print(
                f"the checkpoint has {len(random)} processes and this run has {trainer.world_size}: it resumes, but "
                "not bit for bit; a new process starts with the buffers of process 0 and with "
                "random numbers of its own",
                file=sys.stderr,
            )
        try:
            if rank < len(buffers):
                pl_module.load_state_dict(buffers[rank], strict=False)
            # a changed seed is meant to change the random numbers
            if rank < len(random) and _seed(loaded.get("config", "")) == _seed(self.config):
                set_random_state(random[rank])
        except (RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise UserError(
                f"ckpt_path: {trainer.ckpt_path} holds random states or buffers that this run cannot take up ({reason})"
            ) from error

    def _changes(self, trainer: Trainer, loaded: Mapping[str, Any]) -> str | None:
        """The line about what has changed since the checkpoint."""
        notes = [] if self._optimizers is None else self._optimizers.notes
        before, now = (sections(config) for config in (loaded.get("config", ""), self.config))
        return changes_line(before, now, loaded.get("conditions", {}), conditions(trainer), trainer.global_step, notes)

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        # After `max_steps` Lightning counts the epoch as done: only a checkpoint written now resumes in its middle.
        due = trainer.global_step % self.every_n_steps == 0 or trainer.global_step == trainer.max_steps
        if due and self.kept != trainer.global_step:
            self.save(trainer)

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if self.kept == trainer.global_step:  # the values of an iteration are logged after its checkpoint
            for logger in trainer.loggers:
                logger.save()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.kept != trainer.global_step and (failure := self.save(trainer)) is not None:
            last = f"; the last checkpoint is from iteration {self.kept}" if self.kept is not None else ""
            raise UserError(f"{self.path} cannot be written ({failure}) at the end of the run{last}")

    def save(self, trainer: Trainer) -> str | None:
        """Write the checkpoint now, called by every process; returns the reason if it failed, and None otherwise."""
        failure = save(trainer, self.path, self._put_in_place)
        if failure is None:
            self.kept = trainer.global_step
        if trainer.is_global_zero and self._failing != (failure is not None):
            message = f"cannot be written ({failure}); training continues" if failure else "can be written again"
            print(f"iteration {trainer.global_step}: {self.path} {message}", file=sys.stderr)
        self._failing = failure is not None
        return failure

    def _put_in_place(self, aside: Path) -> None:
        hard_link(self.path, self.path.with_name(PREVIOUS))
        rename(aside, self.path)


def _data(trainer: Trainer) -> LightningDataModule | None:
    return getattr(trainer, "datamodule", None)


def _seed(config: str) -> Any:
    return (read_yaml(config) or {}).get("seed_everything")


def newest(run_dir: str | Path) -> Path | None:
    """The newest intact checkpoint in a run's folder; None if there is none.

    Every byte is read and verified against its checksum; a file that is damaged, or has weights that are not finite, is
    reported and skipped.

    Raises:
        UserError: A file is intact but cannot be used, for example because a newer ebmzoo wrote it.
    """
    for path in (Path(run_dir) / LAST, Path(run_dir) / PREVIOUS):
        if not path.exists():
            continue
        if (reason := damage(path)) is not None:
            print(f"{path} is damaged ({reason}) and is skipped", file=sys.stderr)
        elif (name := not_finite(read(path)["state_dict"])) is not None:
            print(plain(f"{path} holds NaN or infinity in {name} and is skipped"), file=sys.stderr)
        else:
            return path
    return None


def read(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint in the newest format, on the CPU, without running code from the file.

    Args:
        path: The file; or the folder of a shared model, or its address such as `hf:user/name`.

    Raises:
        UserError: The file does not exist, is damaged, is not a checkpoint of `ebmzoo`, or was written by a newer
            version; or as of `located`.
    """
    try:
        path = located(path)
        if not path.is_file():
            raise UserError(f"there is no file {path}")
        return read_shared(path) if is_shared(path) else migrated(read_weights(path), path)
    except UserError as error:
        raise UserError(f"ckpt_path: {error}") from error


def load(path: str | Path, trust: bool = False) -> LightningModule:
    """Build the model of a checkpoint from the config in the file, in eval mode on the CPU.

    Args:
        path: The file; or the folder of a shared model, or its address such as `hf:user/name`.
        trust: Whether its config may name any class, whose code then runs; otherwise only classes of ebmzoo and of the
            libraries that it builds on.

    Raises:
        UserError: The file is not a checkpoint of `ebmzoo`, is damaged or has weights that are not finite or, without
            `trust`, names a class from elsewhere.
    """
    from ebmzoo.training.config import build_model

    checkpoint = read(path)
    try:
        model = build_model(checkpoint[KEY]["config"], trust)
        check_finite(checkpoint["state_dict"], "it")
        model.on_load_checkpoint(checkpoint)
        model.load_state_dict(checkpoint["state_dict"])
    except UserError as error:
        raise UserError(f"ckpt_path: {path}: {error}") from error
    except (KeyError, RuntimeError) as error:
        raise UserError(f"ckpt_path: {path} does not hold the weights of the model that its config names") from error
    return model.eval()
