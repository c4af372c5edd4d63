"""Checkpoints that are whole or not there: written aside, onto the disk, then renamed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ebmzoo.training.migration import MigratingIO


class DurableIO(MigratingIO):
    """Writes `<file>.part` beside the file, waits until it is on the disk, and renames it.

    Lightning's own collects a checkpoint in memory and passes it through the machine's temporary folder, which may be
    smaller than the run's. What a killed process leaves of a `.part` is written over by the next.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if "://" in str(path):  # not a file of this machine
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
    except RuntimeError as error:  # torch's writer hides why it could not write
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def rename(old: Path, new: Path) -> None:
    """Put `old` in the place of `new` and wait until the folder itself is on the disk."""
    old.replace(new)
    if os.name == "posix":
        folder = os.open(new.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def keep_as(path: Path, second: Path) -> None:
    """Give the file at `path`, if there is one, the second name `second`; it costs no space until `path` is replaced.

    Where the file system knows no second names nothing is kept.
    """
    aside = second.with_name(f"{second.name}.part")
    aside.unlink(missing_ok=True)
    try:
        os.link(path, aside)
    except OSError:
        return
    rename(aside, second)
