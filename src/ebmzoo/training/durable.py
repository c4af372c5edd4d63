"""Checkpoints that are either complete or absent, however large they are."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import Any

import torch

from ebmzoo.training.migration import MigratingIO
from ebmzoo.writing import PART, rename, write_whole


class DurableIO(MigratingIO):
    """Writes a checkpoint beside its file, flushes it to disk, and renames it; links are not followed.

    Lightning's own writer collects a checkpoint in memory and passes it through the system's temporary folder, which
    may be smaller than the run's. The next checkpoint removes what a killed process left, since it may be large.
    """

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
