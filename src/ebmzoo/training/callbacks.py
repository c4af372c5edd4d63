"""Callbacks of a run: sample grids, the sizes of its networks, and predictions as a file."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter, ModelSummary
from lightning.pytorch.loggers import WandbLogger

from ebmzoo.data.plane import PlaneData
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import StartsFromProposal
from ebmzoo.methods.base.method import Method
from ebmzoo.report.pictures import grid, save_png, scatter
from ebmzoo.report.write_errors import ignore_write_errors
from ebmzoo.sampling.randomness import repeatable
from ebmzoo.training.record import parameters
from ebmzoo.writing import write_whole

POINTS = 2500
"""Samples in the picture of a density on the plane."""


class SampleGrid(Callback):
    """Regularly draws samples from the same noise: `<run_dir>/samples/step_0000500.png`, and in the W&B dashboard.

    For `PlaneData` it draws 2,500 points, if matplotlib is installed. The random state of training is restored
    afterwards, so that drawing does not affect training.

    Args:
        every_n_steps: Iterations between two grids; one is also drawn at the end. 0 draws none.
        n: Images in a grid.
    """

    def __init__(self, every_n_steps: int = 500, n: int = 64) -> None:
        self.every_n_steps = every_n_steps
        self.n = n

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every_n_steps and trainer.global_step % self.every_n_steps != 0:
            self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, method: LightningModule) -> None:
        if not (trainer.is_global_zero and isinstance(method, Method) and method.trains_energy):
            return
        data = getattr(trainer, "datamodule", None)
        runs: dict[str, int | None] = {"samples": None}
        if isinstance(method, StartsFromProposal) and method.can_propose:
            runs["samples_no_mcmc"] = 0
        pictures = {}
        for name, steps in runs.items():
            with repeatable(seed=0):
                images = method.sample(POINTS if isinstance(data, PlaneData) else self.n, steps=steps).images
            if not isinstance(data, PlaneData):
                pictures[name] = grid(images)
            elif find_spec("matplotlib") is not None:
                pictures[name] = scatter(images.flatten(1), data.extent)
        for name, picture in pictures.items():
            with ignore_write_errors(f"sample grids in {trainer.default_root_dir}"):
                save_png(picture, Path(trainer.default_root_dir) / name / f"step_{trainer.global_step:07d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                for name, picture in pictures.items():
                    logger.log_image(f"train/{name}", [picture.permute(1, 2, 0).numpy()], step=trainer.global_step)


class NetworkSizes(ModelSummary):
    """Lightning's summary of the model in one line: its networks with the numbers of their parameters."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            sizes = [f"{name} {human(count)}" for name, count in parameters(pl_module).items()]
            print(f"networks: {', '.join(sizes)} parameters")


def human(count: int) -> str:
    """A number of parameters with three digits, such as 4.93M.

    >>> human(4_927_040), human(75_600), human(12)
    ('4.93M', '75.6k', '12')
    """
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.3g}{letter}"
    return str(count)


KEYS = ("energy", "ood_score", "label")


class PredictionsFile(BasePredictionWriter):
    """Writes `<run_dir>/predictions.npz`: energy, out-of-distribution score and label of every image, in data order.

    Args:
        overwrite: Whether it may replace the file.

    Raises:
        UserError: The file is there already, without `overwrite`.
    """

    def __init__(self, overwrite: bool = False) -> None:
        super().__init__("epoch")
        self.overwrite = overwrite

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not self.overwrite and self._path(trainer).exists():
            raise UserError(f"{self._path(trainer)} would be overwritten; give another --run_dir, or --overwrite")
        super().setup(trainer, pl_module, stage)

    def _path(self, trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir) / "predictions.npz"

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Any, batch_indices: Any
    ) -> None:
        import numpy as np

        if not trainer.is_global_zero or not predictions or not isinstance(predictions[0], dict):
            return
        path = self._path(trainer)
        energy, score, label = (torch.cat([p[k] for p in predictions]).cpu().numpy() for k in KEYS)
        write_whole(path, lambda file: np.savez(file, energy=energy, ood_score=score, label=label))
        print(f"predictions of {len(energy)} images: {path}")
