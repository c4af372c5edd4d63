"""Checkpoints of older formats, brought to the one that is written now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO

from ebmzoo import __version__
from ebmzoo.errors import UserError

KEY = "ebmzoo"
"""Where a checkpoint holds what `ebmzoo` needs beyond what Lightning keeps."""

FORMAT = 2
"""The format that is written; a change of what a checkpoint holds raises it and adds a step to `STEPS`."""


def _of_one_process(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Format 1 kept the buffers of process 0 alone, and did not count how often a run had gone back."""
    checkpoint[KEY] = {"buffers": [], "rollbacks": {}, **checkpoint[KEY]}
    return checkpoint


STEPS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _of_one_process}
"""From each older format to the next: the checkpoint's contents, to be changed and given back."""


def migrated(
    checkpoint: Any,
    path: object,
    steps: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = STEPS,
    newest: int = FORMAT,
) -> dict[str, Any]:
    """The contents of the checkpoint that was read from `path`, in the newest format.

    Raises:
        UserError: it is not of `ebmzoo`, or of a newer one than this, or of a format that is read no more.
    """
    own = checkpoint.get(KEY) if isinstance(checkpoint, dict) else None
    if not isinstance(own, dict) or not isinstance(own.get("config"), str):
        raise UserError(f"{path} was not written by `ebmzoo fit`, it carries no config")
    if not isinstance(own.get("format"), int):
        raise UserError(f"{path} does not tell its format, so it was not written by `ebmzoo fit`")
    if own["format"] > newest:
        written = own.get("version")
        raise UserError(f"{path} was written by ebmzoo {written}, newer than this {__version__}; update it")
    for number in range(own["format"], newest):
        if number not in steps:
            written = own.get("version")
            raise UserError(f"{path} is of format {number} (ebmzoo {written}), which is read no more")
        checkpoint = steps[number](checkpoint)
        checkpoint[KEY] = {**checkpoint[KEY], "format": number + 1}
    found: dict[str, Any] = checkpoint
    return found


class MigratingIO(TorchCheckpointIO):
    """How Lightning reads a checkpoint: no code of the file is run, and old formats are migrated.

    One that a plain `Trainer` wrote, without a run's config, is read as it is: the command line refuses it before.
    """

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        checkpoint = super().load_checkpoint(path, map_location, weights_only=True)
        return migrated(checkpoint, path) if KEY in checkpoint else checkpoint
