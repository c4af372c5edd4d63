"""The best checkpoints of a run, by a score of samples that are drawn while it trains."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ebmzoo.data.datamodule import ImageData
from ebmzoo.errors import UserError, at_least, plain
from ebmzoo.methods.base.method import Method
from ebmzoo.metrics import FeatureExtractor
from ebmzoo.sampling.langevin import ChainDivergedError
from ebmzoo.sampling.randomness import repeatable
from ebmzoo.tasks.generation import draw
from ebmzoo.training.checkpoint import read
from ebmzoo.training.durable import save
from ebmzoo.training.earlier_records import BEST_FILES
from ebmzoo.training.ranks import gather_objects
from ebmzoo.training.sample_scores import Monitor, monitor
from ebmzoo.writing import rename

BEST = "best.ckpt"
SEED = 0
"""The seed of each score's samples, so that scores differ by the weights alone."""

_OWN_FILE = re.compile(r"best(_\d+)?\.ckpt", re.ASCII)


@dataclass(frozen=True)
class Selection:
    """How the best checkpoints of a run are chosen.

    Args:
        monitor: The score: `fd_`, `kd_` (lower is better) or `is_` (higher is better) and the name of a feature
            extractor of the config's `generation`, or of `pixels`; of Inception `fid`, `kid` or `is`.
        every: Iterations between two scores; 0 for none, which keeps no best checkpoint.
        keep: The number of checkpoints that are kept, 1 or more.
        n: The number of samples of a score, 2 or more; they are compared with all training images.
        batch_size: Samples drawn at once, 1 or more.

    Raises:
        UserError: A number is out of range, or there is no `monitor` to score by.
    """

    monitor: str | None = None
    every: int = 0
    keep: int = 1
    n: int = 1000
    batch_size: int = 250

    def __post_init__(self) -> None:
        at_least(0, **{"checkpoint.every": self.every})
        at_least(1, **{"checkpoint.keep": self.keep, "checkpoint.batch_size": self.batch_size})
        at_least(2, **{"checkpoint.n": self.n})
        if self.every and self.monitor is None:
            raise UserError("checkpoint.monitor is not given; checkpoint.every needs a score, such as fd_pixels")


@dataclass(frozen=True, order=True)
class Kept:
    """A checkpoint that is kept: the loss of its samples (`Monitor.loss`), and its iteration."""

    loss: float
    step: int


class BestCheckpoints(Callback):
    """Keeps the k checkpoints with the best scores: `best.ckpt`, and `best_0000500.ckpt` for those after it.

    Every `every` iterations n samples of the evaluated weights, by default the averaged ones, are scored. The score is
    logged as `val/<monitor>`. Samples have random numbers of their own, so the run trains as without it. Of several
    processes each draws a part of them. The files hold all that `last.ckpt` does.

    What was best so far is read from the files in the folder when a run resumes there: each has its own score. An
    iteration whose samples cannot be scored, such as one with a chain that has diverged, is named and passed over.

    Args:
        selection: How they are chosen.
        run_dir: The folder of the files.
        extractors: The feature extractors that `monitor` may name, besides the pixels.

    Raises:
        UserError: At the start of the fit, if the model does not draw images, or `monitor` names no score.
    """

    def __init__(self, selection: Selection, run_dir: str | Path, extractors: list[FeatureExtractor]) -> None:
        self.selection = selection
        self.best = Path(run_dir) / BEST
        self.extractors = extractors
        self.kept: list[Kept] = []
        """The checkpoints on disk, the best first; in process 0 alone."""
        self._monitor: Monitor | None = None
        self._last: Kept | None = None
        self._failing = False

    def state_dict(self) -> dict[str, Any]:
        if self._last is None:
            return {}
        return {"monitor": self.selection.monitor, "n": self.selection.n} | asdict(self._last)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._last = _scored(state_dict, self.selection)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        chosen, data = self.selection, getattr(trainer, "datamodule", None)
        if not chosen.every:
            return
        if not isinstance(pl_module, Method) or not isinstance(data, ImageData):
            what = f"{type(pl_module).__name__} on {type(data).__name__} draws no images that could be scored"
            raise UserError(f"checkpoint.every is {chosen.every}, but {what}; it must be 0")
        with repeatable(SEED):  # building an extractor's network draws random numbers
            self._monitor = monitor(
                chosen.monitor, self.extractors, data, chosen.batch_size, trainer.strategy.root_device
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        resumes_here = trainer.ckpt_path is not None and Path(str(trainer.ckpt_path)).parent == self.best.parent
        if self._monitor is not None and trainer.is_global_zero and resumes_here:
            self.kept = self._found()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        due = self._monitor is not None and trainer.global_step % self.selection.every == 0
        if due and isinstance(pl_module, Method) and pl_module.trains_energy:
            self._score(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._monitor is not None and self.kept and trainer.is_global_zero:
            figure = f"{self._monitor.name} {self._monitor.sign * self.kept[0].loss:.4g}"
            print(f"best:       {self.best} ({figure}, iteration {self.kept[0].step})")

    # ── the score ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _score(self, trainer: Trainer, method: Method) -> None:
        """Score samples, and keep the checkpoint if it is among the best; called by every process."""
        assert self._monitor is not None
        parts = gather_objects(self._drawn(method, trainer.global_rank, trainer.world_size))
        loss, reason = self._loss(parts) if trainer.is_global_zero else (None, None)
        loss = trainer.strategy.broadcast(loss)
        name, step = self._monitor.name, trainer.global_step
        if loss is None:
            if trainer.is_global_zero:
                print(plain(f"iteration {step}: no {name} ({reason}); training continues"), file=sys.stderr)
            return
        self._last = Kept(loss, step)
        for logger in trainer.loggers:
            logger.log_metrics({f"val/{name}": self._monitor.sign * loss}, step=step)
        if trainer.strategy.broadcast(self._is_among_best(self._last)):
            self._keep(trainer, self._last)

    def _drawn(self, method: Method, rank: int, world: int) -> tuple[Tensor | None, str | None]:
        """This process's part of the samples, or the reason why there are none."""
        share, seed = len(range(rank, self.selection.n, world)), SEED + rank * self.selection.n
        try:
            with repeatable(seed):
                return (draw(method, share, self.selection.batch_size, seed=seed)[0], None) if share else (None, None)
        except (ChainDivergedError, UserError) as error:
            return None, str(error)

    def _loss(self, parts: list[tuple[Tensor | None, str | None]]) -> tuple[float | None, str | None]:
        """The loss of all processes' samples, or the reason why there is none."""
        assert self._monitor is not None
        if failed := [reason for _, reason in parts if reason is not None]:
            return None, failed[0]
        try:
            with repeatable(SEED):
                return self._monitor.loss(torch.cat([part for part, _ in parts if part is not None])), None
        except UserError as error:
            return None, str(error)

    # ── the files ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _is_among_best(self, new: Kept) -> bool:
        """Whether it belongs among the best; the first checkpoint of an iteration stays the only one of it."""
        better = [kept for kept in self.kept if kept.loss <= new.loss]
        return len(better) < self.selection.keep and all(kept.step != new.step for kept in self.kept)

    def _keep(self, trainer: Trainer, new: Kept) -> None:
        """Write the checkpoint; one that is no longer among the best is removed."""
        failure = save(trainer, self.best, lambda aside: self._put_in_place(aside, new))
        if trainer.is_global_zero and self._failing != (failure is not None):
            message = f"cannot be written ({failure}); training continues" if failure else "can be written again"
            print(f"iteration {new.step}: {self.best} {message}", file=sys.stderr)
        self._failing = failure is not None

    def _put_in_place(self, aside: Path, new: Kept) -> None:
        before, kept = self.kept, sorted([*self.kept, new])[: self.selection.keep]
        if new == kept[0] and before and before[0] in kept:
            rename(self.best, self._numbered(before[0]))
        rename(aside, self.best if new == kept[0] else self._numbered(new))
        for dropped in before:
            if dropped not in kept:  # `best.ckpt`, if it was that, has been replaced
                self._numbered(dropped).unlink(missing_ok=True)
        self.kept = kept

    def _numbered(self, which: Kept) -> Path:
        return self.best.with_name(f"best_{which.step:07d}.ckpt")

    def _found(self) -> list[Kept]:
        """The best checkpoints in the folder, by the scores in the files; the best is `best.ckpt` afterwards."""
        files: dict[Kept, Path] = {}
        for path in sorted(path for path in self.best.parent.glob(BEST_FILES) if _OWN_FILE.fullmatch(path.name)):
            try:
                own = read(path).get("callbacks", {}).get(self.state_key, {})
            except UserError as error:
                print(plain(f"{error}; it no longer counts among the best checkpoints"), file=sys.stderr)
                continue
            if (kept := _scored(own, self.selection)) is not None:
                files[kept] = path
            else:
                score = f"{self.selection.monitor} of {self.selection.n} samples"
                print(plain(f"{path} has no {score} and no longer counts among the best checkpoints"), file=sys.stderr)
        found = sorted(files)
        if found and files[found[0]] != self.best:  # after a kill between two renames, for example
            rename(files[found[0]], self.best)
        return found


def _scored(own: Mapping[str, Any], selection: Selection) -> Kept | None:
    """The score that the callback's state in a checkpoint has; None if it has none, or another one than is chosen."""
    step, loss = own.get("step"), own.get("loss")
    alike = (own.get("monitor"), own.get("n")) == (selection.monitor, selection.n)
    if not alike or not isinstance(step, int) or not isinstance(loss, float) or not math.isfinite(loss):
        return None
    return Kept(loss, step)
