"""Checkpoints that are either complete or absent: written to a temporary file, flushed to disk, then renamed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ebmzoo.training.migration import MigratingIO


class DurableIO(MigratingIO):
    """Writes `<file>.part` beside the file, flushes it to disk, and renames it.

    Lightning's own writer collects a checkpoint in memory and passes it through the system's temporary folder, which
    may be smaller than the run's. A `.part` left by a killed process is overwritten by the next checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if "://" in str(path):  # not a local file
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        aside = path.with_name(f"{path.name}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as file:
                _write(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            rename(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


def _write(checkpoint: dict[str, Any], file: Any) -> None:
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:  # torch's writer hides the cause
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def rename(old: Path, new: Path) -> None:
    """Replace `new` by `old` and flush the folder to disk."""
    old.replace(new)
    if os.name == "posix":
        folder = os.open(new.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def hard_link(path: Path, second: Path) -> None:
    """Hard-link the file at `path`, if it exists, as `second`; this costs no space until `path` is replaced.

    Nothing is kept on a file system without hard links.
    """
    aside = second.with_name(f"{second.name}.part")
    aside.unlink(missing_ok=True)
    try:
        os.link(path, aside)
    except OSError:
        return
    rename(aside, second)
