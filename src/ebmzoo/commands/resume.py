"""Where a command starts, decided before its parser is built.

`start` reads what is on the disk, and `start_of_fit` decides from that alone whether a run begins, resumes, or goes to
a new folder; `restarted` decides it after a divergence. Each returns the final command line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from ebmzoo.commands.command_line import options, settings
from ebmzoo.errors import UserError
from ebmzoo.training.checkpoint import LAST, Rollbacks, newest, read
from ebmzoo.training.migration import KEY
from ebmzoo.training.training_data import TrainingData

RUN_DIR = "runs/run"
"""The default of `run_dir`."""

_ONLY_SHOWS = re.compile(r"-h|--(.*\.)?help(\.all)?|--print_config")
"""Options after which nothing is run."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint: its file, its iteration and epoch, the rollbacks that its run has made, and its training data."""

    path: Path
    step: int
    rollbacks: Rollbacks
    epoch: int = 0
    data: TrainingData = field(default_factory=TrainingData)

    @classmethod
    def at(cls, path: str | Path) -> Saved:
        """The checkpoint in a file; errors as of `training.checkpoint.read`."""
        checkpoint = read(path)
        data = TrainingData.read(checkpoint[KEY])
        return cls(Path(path), checkpoint["global_step"], Rollbacks.of(checkpoint), checkpoint.get("epoch", 0), data)


@dataclass(frozen=True)
class RunFolder:
    """What the folder of a run holds.

    Args:
        path: The folder.
        holds_run: Whether a run has saved a checkpoint in it.
        newest: Its newest intact checkpoint; None where there is none, or where no run resumes from it.
        free: The folder for another run of this name, the first of `path-2`, `path-3`, … that holds none.
    """

    path: Path
    holds_run: bool = False
    newest: Saved | None = None
    free: Path | None = None

    @classmethod
    def at(cls, path: Path, resumes: bool) -> RunFolder:
        """The folder as it is; its checkpoints are read, every byte of them, only where `resumes`."""
        found = newest(path) if resumes else None
        return cls(path, (path / LAST).exists(), None if found is None else Saved.at(found), _next_free(path))


@dataclass(frozen=True)
class Start:
    """How a command starts: its final command line, and what happened to the run before.

    Args:
        args: The command line.
        rollbacks: How often the run has gone back after a divergence, and what that has changed.
        step: The iteration of the checkpoint that it starts from; None without one.
        message: A sentence for the user, if there is anything to say.
        evaluated: The checkpoint that a command other than `fit` evaluates.
    """

    args: list[str]
    rollbacks: Rollbacks = field(default_factory=Rollbacks)
    step: int | None = None
    message: str | None = None
    evaluated: Saved | None = None


def start(args: list[str], environment: Mapping[str, str] = os.environ) -> Start:
    """How the command of a prepared command line starts.

    Raises:
        UserError: A command other than `fit` names no checkpoint, the checkpoint cannot be read, or `--resume` and
            `--ckpt_path` contradict each other.
    """
    if any(_ONLY_SHOWS.fullmatch(option.name) for option in options(args)):
        return Start(args)
    found = settings(args)
    path = found.get("ckpt_path")
    if args[0] != "fit" and path is None:
        raise UserError(f"{args[0]} needs --ckpt_path, a checkpoint that `ebmzoo fit` wrote")
    if found.get("resume") is not None and path is not None:
        raise UserError("--resume auto finds the checkpoint by itself, and --ckpt_path names one; use one of the two")
    checkpoint = None if path is None else Saved.at(path)
    if args[0] != "fit":
        if path is not None and (another := _another_run(found.get("run_dir"), Path(path).parent)) is not None:
            raise UserError(f"run_dir: {another} holds another run than that of {path}; give the folder of no run")
        return Start(args, step=checkpoint.step if checkpoint else None, evaluated=checkpoint)
    requeued = environment.get("SLURM_RESTART_COUNT", "0") != "0"
    resumes = checkpoint is None and (found.get("resume") is not None or requeued)
    folder = RunFolder.at(Path(str(found.get("run_dir") or RUN_DIR)), resumes)
    return start_of_fit(args, folder, checkpoint, resumes)


def start_of_fit(args: Sequence[str], folder: RunFolder, checkpoint: Saved | None, resumes: bool) -> Start:
    """How `fit` starts in a folder: from the newest checkpoint there, from the one named, or from the beginning.

    A run that neither resumes nor continues one of the folder's checkpoints leaves the run that is there untouched. One
    that resumes by the configuration that it began with repeats the changes that its rollbacks made.

    Args:
        args: The command line.
        folder: What `run_dir` holds.
        checkpoint: The one that `--ckpt_path` names.
        resumes: Whether to start from the newest checkpoint of the folder.
    """
    if resumes and folder.newest is None:
        return Start([*args], message=f"{folder.path} holds no intact checkpoint: training starts from the beginning")
    if resumes and folder.newest is not None:
        saved = folder.newest
        message = f"resuming from {saved.path}, saved at iteration {saved.step}"
        args = [*args, *_from(saved.path), *saved.rollbacks.flags]
        return Start(args, saved.rollbacks, saved.step, message)
    step = None if checkpoint is None else checkpoint.step
    if checkpoint is not None and checkpoint.path.parent == folder.path:
        return Start([*args], checkpoint.rollbacks, step)
    if folder.holds_run:
        message = f"{folder.path} already holds a run; this one goes to {folder.free}; "
        message += "to continue the first, use --resume auto"
        return Start([*args, "--run_dir", str(folder.free)], step=step, message=message)
    return Start([*args], step=step)


def restarted(before: Start, config: Mapping[str, Any], checkpoint: Saved | None) -> Start | None:
    """How a run starts again after a divergence: from its last checkpoint, with the next seed and `watchdog.changes`.

    Args:
        before: How it started the last time.
        config: Its resolved configuration.
        checkpoint: The newest intact one of its folder.

    Returns:
        The start, with a message that says what it changes; None where `watchdog.retries` are used up.

    Raises:
        UserError: There is no number at a key of `watchdog.changes`.
    """
    watchdog, tries = config["watchdog"], before.rollbacks.tries + 1
    if tries > watchdog["retries"]:
        return None
    changes = {key: _scaled(config, key, factor) for key, factor in (watchdog["changes"] or {}).items()}
    seed = int(config["seed_everything"]) + 1
    back = "the start" if checkpoint is None else str(checkpoint.path)
    message = f"Going back to {back} (try {tries} of {watchdog['retries']}) with seed {seed}"
    message += "".join(f", {key} {value}" for key, value in changes.items())
    rollbacks = Rollbacks(tries, {"seed_everything": seed} | changes)
    args = [*before.args, "--run_dir", str(config["run_dir"]), *rollbacks.flags]
    args += [] if checkpoint is None else _from(checkpoint.path)
    return Start(args, rollbacks, None if checkpoint is None else checkpoint.step, message)


def _from(path: Path) -> list[str]:
    return ["--resume", "null", "--ckpt_path", str(path)]


def _another_run(run_dir: Any, own: Path) -> Path | None:
    """The folder for results, if it holds another run than the one that is evaluated; otherwise None."""
    folder = Path(str(run_dir or RUN_DIR))
    return folder if (folder / LAST).exists() and folder.resolve() != own.resolve() else None


def _next_free(run_dir: Path) -> Path:
    numbered = (run_dir.with_name(f"{run_dir.name}-{number}") for number in count(2))
    return next(free for free in numbered if not (free / LAST).exists())


def _scaled(config: Mapping[str, Any], key: str, factor: float) -> float | int:
    """The number at `key` of a resolved configuration, times `factor`; an integer stays one, and at least 1."""
    at: Any = config
    for part in key.split("."):
        at = at.get("init_args", at) if part not in at else at
        if part not in at:
            raise UserError(f"watchdog.changes: there is no key '{key}'")
        at = at[part]
    if isinstance(at, bool) or not isinstance(at, int | float):
        raise UserError(f"watchdog.changes: {key} is {at}, which is not a number")
    return max(1, round(at * factor)) if isinstance(at, int) else at * factor
