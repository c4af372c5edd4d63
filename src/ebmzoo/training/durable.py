"""Checkpoints that are either complete or absent, however large they are."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from ebmzoo.training.migration import MigratingIO
from ebmzoo.training.sharing.shared_model import is_shared, read_shared
from ebmzoo.writing import PART, rename, write_whole


class DurableIO(MigratingIO):
    """Writes a checkpoint beside its file, flushes it to disk, and renames it; links are not followed.

    Lightning's own writer collects a checkpoint in memory and passes it through the system's temporary folder, which
    may be smaller than the run's. The next checkpoint removes what a killed process left, since it may be large.
    Shared models are read too.
    """

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        return read_shared(path) if is_shared(path) else super().load_checkpoint(path, map_location, weights_only)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if "://" in str(path):  # not a local file
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*{PART}"):
            left.unlink(missing_ok=True)
        write_whole(path, lambda file: _write(checkpoint, file))


def _write(checkpoint: dict[str, Any], file: Any) -> None:
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:  # torch's writer hides the cause
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def save(trainer: Trainer, path: Path, put_in_place: Callable[[Path], None]) -> str | None:
    """Write a checkpoint of the run beside `path`, called by every process; return the reason if that failed, or None.

    Args:
        trainer: The trainer of the run.
        path: The file.
        put_in_place: A function that process 0 calls with the file beside it, to rename it.
    """
    aside = path.with_suffix(".tmp")
    try:
        trainer.save_checkpoint(aside, weights_only=False)
        failure = _placed(aside, put_in_place) if trainer.is_global_zero else None
    except OSError as error:  # in process 0, the only one that writes; the others wait for it
        failure = error.strerror or str(error)
        trainer.strategy.barrier("Trainer.save_checkpoint")
    return trainer.strategy.broadcast(failure)


def _placed(aside: Path, put_in_place: Callable[[Path], None]) -> str | None:
    try:
        put_in_place(aside)
    except OSError as error:
        return error.strerror or str(error)
    return None


def hard_link(path: Path, second: Path) -> None:
    """Hard-link the file at `path`, if it exists, as `second`; this costs no space until `path` is replaced.

    Nothing is kept on a file system without hard links, nor of a link to a file elsewhere.
    """
    if path.is_symlink():
        return
    aside = second.with_name(f"{second.name}{PART}")
    aside.unlink(missing_ok=True)
    try:
        os.link(path, aside)
    except OSError:
        return
    rename(aside, second)
