"""The loggers of a run: CSV always; W&B online with a key, offline without one, and not at all if not installed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

from lightning.fabric.loggers.logger import _DummyExperiment, rank_zero_experiment
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from ebmzoo.data.folder import ImageFolder
from ebmzoo.methods.base.method import Method
from ebmzoo.report.comparison.summary import DETAILS
from ebmzoo.report.csv_rows import WholeRows
from ebmzoo.report.own_files import read_own
from ebmzoo.report.wandb_runs.account import RUN_ID, has_key
from ebmzoo.report.wandb_runs.axes import DRAWN, RECORD, axes
from ebmzoo.report.wandb_runs.privacy import private
from ebmzoo.report.wandb_runs.tables import tables
from ebmzoo.report.write_errors import ignore_write_errors
from ebmzoo.writing import write_whole

KEPT = "wandb.json"
"""The file in a run's folder that stores its identity."""


@dataclass(frozen=True)
class RunIdentity:
    """How the dashboard identifies a run, with the same fields for every method.

    `id` is W&B's; `method` and `data` are the short names of the classes, `data` the name of the folder or file for
    images of one's own; `kind` is one of method, baseline, ablation and network (a model without an energy, such as an
    encoder).
    """

    method: str
    data: str
    kind: str
    id: str = field(default_factory=lambda: os.environ.get("WANDB_RUN_ID") or uuid4().hex[:12])

    @classmethod
    def of(cls, model: LightningModule, data: LightningDataModule, configs: Iterable[Path] = ()) -> RunIdentity:
        """The identity of a run of a model on data; a config file in `ablations/` makes it an ablation."""
        if not isinstance(model, Method):
            kind = "network"
        elif any(path.resolve().parent.name == "ablations" for path in configs):
            kind = "ablation"
        else:
            kind = "baseline" if model.is_baseline else "method"
        own = Path(data.path).resolve().name.split(".")[0] if isinstance(data, ImageFolder) else ""
        return cls(type(model).__name__, own or type(data).__name__, kind)

    def kept(self, run_dir: Path) -> RunIdentity:
        """The identity stored in `run_dir` by the run's first command; the first command stores this one."""
        path = run_dir / KEPT
        if (found := read_own(path, RunIdentity.read)) is not None:
            return found
        write_whole(path, json.dumps(asdict(self), indent=2) + "\n")
        return self

    @classmethod
    def read(cls, content: Any) -> RunIdentity:
        """The identity with the content of its file.

        Raises:
            TypeError: It has another content.
        """
        if not all(isinstance(value, str) for value in content.values()):
            raise TypeError("a value is no text")
        found = cls(**content)
        if not RUN_ID.fullmatch(found.id):
            raise TypeError(f"{found.id!r:.80} is no id of a run")
        return found


class ZooCSVLogger(CSVLogger):
    """A `CSVLogger` that keeps its rows until they can be written whole: a full disk does not end a run."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = WholeRows(self.log_dir)
        return self._experiment

    def save(self) -> None:
        with ignore_write_errors(f"curves in {self.root_dir}"):
            super().save()

    def log_hyperparams(self, params: Any = None) -> None:
        with ignore_write_errors(f"hyperparameters in {self.root_dir}"):
            super().log_hyperparams(params)


class ZooWandbLogger(WandbLogger):
    """A `WandbLogger` that never ends a run: an error of W&B is reported once, and the run continues without it.

    It logs a flat config, with the keys of the command line and of sweeps.
    """

    announced = False
    """Whether the address of the run has been printed."""
    failed = False
    """Whether there was such an error."""
    costs: Callable[[], dict[str, float]] | None = None
    """What the run has cost so far, which is logged beside the values of training and validation as their x-axes."""

    @property
    def experiment(self) -> Any:
        if not self.failed:
            with self.catching_errors():
                run = super().experiment
                address = None if self._offline else getattr(run, "url", None)
                if isinstance(address, str) and not self.announced:
                    self.announced = True
                    print(f"W&B: {address}", file=sys.stderr)
                return run
        return _DummyExperiment()  # Lightning's own, which ignores every call

    def log_hyperparams(self, params: Any) -> None:
        with self.catching_errors():
            super().log_hyperparams(flat(dict(params)))

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        with self.catching_errors():
            drawn = any(key.startswith(DRAWN) for key in metrics)
            costs = self.costs() if drawn and self.costs is not None else {}
            super().log_metrics({**metrics, **costs}, step)

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        with self.catching_errors():
            super().log_image(key, images, step, **kwargs)

    def finalize(self, status: str) -> None:
        with self.catching_errors():
            super().finalize(status)

    @contextmanager
    def catching_errors(self) -> Iterator[None]:
        """Within the block, an error ends logging to W&B, but not the run."""
        try:
            yield
        except Exception as error:  # from W&B, a socket or a full disk: none should end a training run
            if not self.failed:
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                print(f"W&B failed ({reason:.200}); the run continues and logs to csv/ only", file=sys.stderr)
            self.failed = True


def loggers(run_dir: Path, identity: RunIdentity) -> list[Logger]:
    """The loggers of one command; all commands with the same run folder share one W&B run."""
    chosen: list[Logger] = [ZooCSVLogger(run_dir, name="csv")]
    wanted = find_spec("wandb") is not None and os.environ.get("WANDB_MODE") != "disabled"
    if wanted and getattr(rank_zero_only, "rank", 0) == 0:  # only process 0 logs
        chosen.append(_wandb(run_dir, identity.kept(run_dir)))
    return chosen


def log_scorecard(loggers: Iterable[Logger], folder: Path, tasks: Iterable[str], notes: str = "") -> None:
    """Log to W&B the results that the tasks wrote into `folder`, in the form of `tables`.

    `notes`, the summary, become the run's notes, unless these are someone's own. What the training has cost is logged
    again: `wandb sync` of a test forgets the run's summary of the fit.
    """
    for logger in loggers:
        if isinstance(logger, ZooWandbLogger) and not logger.failed:
            with logger.catching_errors():
                logger.experiment.log(tables(folder, tasks))
                logger.experiment.summary.update(axes(read_own(folder.parent / RECORD, dict) or {}))
                if notes and (not logger.experiment.notes or DETAILS in logger.experiment.notes):
                    logger.experiment.notes = notes


@contextmanager
def closing_wandb() -> Iterator[None]:
    """Finish the W&B run that the block opened, so that the next run of this process is a new one."""
    try:
        yield
    except BaseException:
        _finish(exit_code=1)
        raise
    _finish(exit_code=0)


def flat(config: Any, name: str = "") -> dict[str, Any]:
    """Flatten `{"model": {"init_args": {"gamma": 0.1}}}` to `{"model.gamma": 0.1}`; lists of sections count from 0."""
    if isinstance(config, dict):
        parts = list(config.items())
    elif isinstance(config, list) and any(isinstance(part, dict) for part in config):
        parts = [(str(i), part) for i, part in enumerate(config)]
    else:
        return {name: config}
    found: dict[str, Any] = {}
    for key, value in parts:
        found |= flat(value, name if key == "init_args" else f"{name}.{key}".lstrip("."))
    return found


def _finish(exit_code: int) -> None:
    wandb = sys.modules.get("wandb")
    if wandb is None or wandb.run is None:
        return
    try:
        wandb.finish(exit_code)
    except Exception as error:  # the results of the run are on disk by now
        print(f"W&B could not end its run ({type(error).__name__})", file=sys.stderr)


def _wandb(run_dir: Path, identity: RunIdentity) -> Logger:
    from wandb import Settings

    offline = os.environ.get("WANDB_MODE") in ("offline", "dryrun") or not has_key()
    logger = ZooWandbLogger(
        name=run_dir.name,
        save_dir=str(run_dir.absolute()),  # W&B's own process keeps the working directory in which it was started
        project=os.environ.get("WANDB_PROJECT", "ebmzoo"),
        id=identity.id,
        resume="allow",  # offline too: `wandb sync` then adds a test to its fit instead of replacing config and summary
        offline=offline,
        group=identity.data,
        tags=[identity.method, identity.data, identity.kind],
        config={"method": identity.method, "data_set": identity.data, "kind": identity.kind},
        settings=Settings(silent=True, console="off", **private()),
    )
    logger._wandb_init.pop("anonymous", None)  # lightning 2.6 always passes it, and wandb warns of it in every run
    return logger
