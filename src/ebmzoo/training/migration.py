"""Checkpoints of older formats, converted to the format that is written now."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO

from ebmzoo.errors import UserError
from ebmzoo.networks.weights import check_archive
from ebmzoo.reading import CONFIG_BYTES
from ebmzoo.training.schema import check
from ebmzoo.version import __version__

KEY = "ebmzoo"
"""The key of a checkpoint under which `ebmzoo` keeps what Lightning does not."""

FORMAT = 4
"""The format that is written. A change of a checkpoint's contents raises it by one and adds a step to `STEPS`."""


def _add_processes(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Format 1 kept the buffers of process 0 only and did not count rollbacks."""
    checkpoint[KEY] = {"buffers": [], "rollbacks": {}, **checkpoint[KEY]}
    return checkpoint


MOVED = {
    "ebmzoo.autoencoder.KLAutoEncoderTraining": "ebmzoo.methods.KLAutoEncoderTraining",
    "ebmzoo.autoencoder.training": "ebmzoo.methods",
    "ebmzoo.autoencoder": "ebmzoo.networks.autoencoder",
    "ebmzoo.data.Interpolation": "ebmzoo.data.InterpolatedImages",
    "ebmzoo.data.plane.GaussianMixture": "ebmzoo.data.GaussianMixture",
    "ebmzoo.data.ood.Interpolation": "ebmzoo.data.InterpolatedImages",
    "ebmzoo.langevin": "ebmzoo.sampling",
    "ebmzoo.methods.Alternation": "ebmzoo.methods.LIEBMAlternation",
    "ebmzoo.methods.Elbo": "ebmzoo.methods.LIEBMElbo",
    "ebmzoo.methods.Learning": "ebmzoo.methods.DenoisingEBMLearning",
    "ebmzoo.methods.Restoring": "ebmzoo.methods.RestorationSettings",
    "ebmzoo.methods.Sampling": "ebmzoo.methods.DenoisingEBMSampling",
    "ebmzoo.methods.Teaching": "ebmzoo.methods.DualMCMCLosses",
    "ebmzoo.methods.baselines.Cooling": "ebmzoo.methods.baselines.MDSMCooling",
    "ebmzoo.methods.baselines.mdsm.Cooling": "ebmzoo.methods.baselines.MDSMCooling",
    "ebmzoo.methods.capabilities.Restoring": "ebmzoo.methods.RestorationSettings",
    "ebmzoo.methods.conditioning.Alternation": "ebmzoo.methods.LIEBMAlternation",
    "ebmzoo.methods.denoising_ebm.Learning": "ebmzoo.methods.DenoisingEBMLearning",
    "ebmzoo.methods.dual_mcmc.Teaching": "ebmzoo.methods.DualMCMCLosses",
    "ebmzoo.methods.liebm.Elbo": "ebmzoo.methods.LIEBMElbo",
    "ebmzoo.methods.recovery_chain": "ebmzoo.sampling",
    "ebmzoo.methods.two_stage.Sampling": "ebmzoo.methods.DenoisingEBMSampling",
    "ebmzoo.operators": "ebmzoo.data.degradations",
    "ebmzoo.posterior": "ebmzoo.sampling",
    "ebmzoo.schedule": "ebmzoo.sampling",
    "ebmzoo.ssrl.stage": "ebmzoo.methods",
}
"""The classes and modules that a config of format 2 may name, with their present paths."""

_MOVED = re.compile(r"(?<![\w.])(" + "|".join(sorted(map(re.escape, MOVED), key=len, reverse=True)) + r")(?!\w)")


def moved(text: str) -> str:
    """Return `text`, a class path or a whole config, with each path of `MOVED` replaced by the present one."""
    return _MOVED.sub(lambda match: MOVED[match[1]], text)


def _move_classes(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Format 2 named classes by the paths that they had before the packages were laid out by topic.

    The argument `told` of `DRLSchedule` is `time` now. CDRL's averages had no warm-up, which is the default now: a run
    of then goes on without it.
    """
    config = re.sub(r"\btold: (level|logsnr)\b", r"time: \1", moved(checkpoint[KEY]["config"]))
    config = re.sub(r"(class_path: ebmzoo\.methods\.CDRL\n( +)init_args:\n)", r"\1\2  ema_warmup: false\n", config)
    checkpoint[KEY] = {**checkpoint[KEY], "config": config}
    return checkpoint


def _drop_cuda_graph(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Format 3 had a sampler's `cuda_graph` beside `compile`, which did not change what a chain computes."""
    config = re.sub(r"\n +cuda_graph: (true|false)(?=\n)", "", checkpoint[KEY]["config"])
    checkpoint[KEY] = {**checkpoint[KEY], "config": config}
    return checkpoint


STEPS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: _add_processes,
    2: _move_classes,
    3: _drop_cuda_graph,
}
"""For each older format the function that converts a checkpoint's contents to the next format."""


def migrated(
    checkpoint: Any,
    path: object,
    steps: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = STEPS,
    newest: int = FORMAT,
) -> dict[str, Any]:
    """Return the contents of the checkpoint that was read from `path`, in the newest format.

    Args:
        checkpoint: The contents as they were read.
        path: The file, for error messages.
        steps: The conversions, by the format that each starts from.
        newest: The format to convert to.

    Raises:
        UserError: The file was not written by `ebmzoo`, was written by a newer version, or has a format that can no
            longer be read; or it contains what no run writes.
    """
    own = checkpoint.get(KEY) if isinstance(checkpoint, dict) else None
    if not isinstance(own, dict) or not isinstance(own.get("config"), str):
        raise UserError(f"{path} contains no config, so it was not written by `ebmzoo fit`")
    if not isinstance(own.get("format"), int):
        raise UserError(f"{path} has no format number, so it was not written by `ebmzoo fit`")
    if len(own["config"]) > CONFIG_BYTES:
        raise UserError(
            f"{path} has a config of {len(own['config']):,} characters, so it was not written by `ebmzoo fit`"
        )
    if own["format"] > newest:
        written = own.get("version")
        raise UserError(
            f"{path} was written by ebmzoo {written}, which is newer than this {__version__}; update ebmzoo"
        )
    for number in range(own["format"], newest):
        if number not in steps:
            written = own.get("version")
            raise UserError(f"{path} has format {number} (ebmzoo {written}), which can no longer be read")
        checkpoint = steps[number](checkpoint)
        checkpoint[KEY] = {**checkpoint[KEY], "format": number + 1}
    contents: dict[str, Any] = checkpoint
    check(contents, contents[KEY], path)
    return contents


class MigratingIO(TorchCheckpointIO):
    """Lightning's checkpoint reader, which migrates older formats and runs no code from the file.

    A checkpoint without a run's config, as a plain `Trainer` writes it, is returned unchanged; the command line refuses
    it earlier.
    """

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        if "://" not in str(path):  # a local file
            check_archive(path)
        checkpoint = super().load_checkpoint(path, map_location, weights_only=True)
        return migrated(checkpoint, path) if KEY in checkpoint else checkpoint
