"""Checkpoints of older formats, brought to the one that is written now."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO

from ebmzoo.errors import UserError
from ebmzoo.version import __version__

KEY = "ebmzoo"
"""Where a checkpoint holds what `ebmzoo` needs beyond what Lightning keeps."""

FORMAT = 3
"""The format that is written; a change of what a checkpoint holds raises it and adds a step to `STEPS`."""


def _of_one_process(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Format 1 kept the buffers of process 0 alone, and did not count how often a run had gone back."""
    checkpoint[KEY] = {"buffers": [], "rollbacks": {}, **checkpoint[KEY]}
    return checkpoint


MOVED = {
    "ebmzoo.autoencoder.KLAutoEncoderTraining": "ebmzoo.methods.KLAutoEncoderTraining",
    "ebmzoo.autoencoder": "ebmzoo.networks.autoencoder",
    "ebmzoo.data.Interpolation": "ebmzoo.data.InterpolatedImages",
    "ebmzoo.data.ood.Interpolation": "ebmzoo.data.InterpolatedImages",
    "ebmzoo.langevin": "ebmzoo.sampling",
    "ebmzoo.methods.Alternation": "ebmzoo.methods.LIEBMAlternation",
    "ebmzoo.methods.Elbo": "ebmzoo.methods.LIEBMElbo",
    "ebmzoo.methods.Learning": "ebmzoo.methods.DenoisingEBMLearning",
    "ebmzoo.methods.Sampling": "ebmzoo.methods.DenoisingEBMSampling",
    "ebmzoo.methods.Teaching": "ebmzoo.methods.DualMCMCLosses",
    "ebmzoo.methods.baselines.Cooling": "ebmzoo.methods.baselines.MDSMCooling",
    "ebmzoo.operators": "ebmzoo.data.degradations",
    "ebmzoo.schedule": "ebmzoo.sampling",
    "ebmzoo.ssrl.stage": "ebmzoo.methods",
}
"""Where the classes and modules that a config of format 2 may name are now."""

_MOVED = re.compile(r"\b(" + "|".join(sorted(map(re.escape, MOVED), key=len, reverse=True)) + r")\b")


def _of_the_old_layout(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Format 2 named classes where they stood before the packages were laid out anew."""
    own = checkpoint[KEY]
    checkpoint[KEY] = {**own, "config": _MOVED.sub(lambda found: MOVED[found[1]], own["config"])}
    return checkpoint


STEPS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _of_one_process, 2: _of_the_old_layout}
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
