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
from ebmzoo.networks.integrity import check_finite
from ebmzoo.training.checkpoint import LAST, Rollbacks, newest, read
from ebmzoo.training.migration import KEY
from ebmzoo.training.run_lock import Holder, RunLock, holder_of
from ebmzoo.training.training_data import TrainingData
from ebmzoo.writing import check_local

RUN_DIR = "runs/run"
"""The default of `run_dir`."""

OWN_RUN_DIR = "EBMZOO_RUN_DIR"
"""The variable by which the first process tells those that it starts where the run is."""

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
        """The checkpoint in a file; errors as of `training.checkpoint.read`, and if weights are not finite."""
        checkpoint = read(path)
        if "global_step" not in checkpoint:
            raise UserError(f"ckpt_path: {path} has no global_step, so it is no checkpoint of a run")
        check_finite(checkpoint["state_dict"], f"ckpt_path: {path}")
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
        holder: The fit that writes into it now.
    """

    path: Path
    holds_run: bool = False
    newest: Saved | None = None
    free: Path | None = None
    holder: Holder | None = None

    @classmethod
    def at(cls, path: Path, resumes: bool, looks: bool = True) -> RunFolder:
        """The folder as it is.

        Args:
            path: The folder.
            resumes: Whether its checkpoints are read, every byte of them.
            looks: Whether another fit may hold it; a process beside the first of its own fit does not look.
        """
        holder = holder_of(path) if looks else None
        found = newest(path) if resumes and holder is None else None
        saved = None if found is None else Saved.at(found)
        return cls(path, (path / LAST).exists(), saved, _next_free(path, looks), holder)


@dataclass(frozen=True)
class Start:
    """How a command starts: its final command line, and what happened to the run before.

    Args:
        args: The command line.
        rollbacks: How often the run has gone back after a divergence, and what that has changed.
        step: The iteration of the checkpoint that it starts from; None without one.
        message: A sentence for the user, if there is anything to say.
        evaluated: The checkpoint that a command other than `fit` evaluates.
        continues: Whether it continues the run that its folder holds.
    """

    args: list[str]
    rollbacks: Rollbacks = field(default_factory=Rollbacks)
    step: int | None = None
    message: str | None = None
    evaluated: Saved | None = None
    continues: bool = False

    @property
    def run_dir(self) -> Path:
        """The folder of the run."""
        return Path(str(settings(self.args).get("run_dir") or RUN_DIR))


def start_with_lock(args: list[str], environment: Mapping[str, str] = os.environ) -> tuple[Start, RunLock | None]:
    """How the command starts, and the lock on the folder of a `fit`, which its first process holds.

    Raises:
        UserError: As of `start`; or several processes train together, and another fit writes into their folder.
    """
    while True:
        found = start(args, environment)
        if args[0] != "fit" or _only_shows(args) or not _is_first(environment):
            return found, None
        lock = RunLock.take(found.run_dir)
        if isinstance(lock, RunLock):
            return found, lock  # and otherwise another fit has been faster


def start(args: list[str], environment: Mapping[str, str] = os.environ) -> Start:
    """How the command of a prepared command line starts.

    Raises:
        UserError: A command other than `fit` names no checkpoint, the checkpoint cannot be read, `--resume` and
            `--ckpt_path` contradict each other, or `run_dir` is no place on this machine.
    """
    if _only_shows(args):
        return Start(args)
    found = settings(args)
    if found.get("run_dir") is not None:
        check_local(found["run_dir"], "run_dir")
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
    path, first = Path(str(found.get("run_dir") or RUN_DIR)), _is_first(environment)
    if not first and OWN_RUN_DIR in environment:  # where the first process, which has started this one, has gone
        args, path = [*args, "--run_dir", environment[OWN_RUN_DIR]], Path(environment[OWN_RUN_DIR])
    folder = RunFolder.at(path, resumes, first)
    if folder.holder is not None and environment.get("WORLD_SIZE", "1") != "1":
        raise UserError(f"run_dir: {path} is in use by {folder.holder}; give another folder")
    return start_of_fit(args, folder, checkpoint, resumes)


def start_of_fit(args: Sequence[str], folder: RunFolder, checkpoint: Saved | None, resumes: bool) -> Start:
    """How `fit` starts in a folder: from the newest checkpoint there, from the one named, or from the beginning.

    A run that neither resumes nor continues one of the folder's checkpoints leaves the run that is there untouched,
    and goes to the next folder also where another fit is at work in this one. One that resumes by the configuration
    that it began with repeats the changes that its rollbacks made.

    Args:
        args: The command line.
        folder: What `run_dir` holds.
        checkpoint: The one that `--ckpt_path` names.
        resumes: Whether to start from the newest checkpoint of the folder.

    Raises:
        UserError: It is to resume or continue a run that another fit is at work on.
    """
    own = checkpoint is not None and checkpoint.path.parent == folder.path
    if folder.holder is not None and (resumes or own):
        raise UserError(
            f"run_dir: {folder.path} is in use by another fit, {folder.holder}; wait for it, stop it, or give another "
            "--run_dir"
        )
    if resumes and folder.newest is None:
        return Start([*args], message=f"{folder.path} holds no intact checkpoint: training starts from the beginning")
    if resumes and folder.newest is not None:
        saved = folder.newest
        message = f"resuming from {saved.path}, saved at iteration {saved.step}"
        args = [*args, *_from(saved.path), *saved.rollbacks.flags]
        return Start(args, saved.rollbacks, saved.step, message, continues=True)
    step = None if checkpoint is None else checkpoint.step
    if checkpoint is not None and own:
        return Start([*args], checkpoint.rollbacks, step, continues=True)
    if folder.holder is not None:
        message = f"{folder.path} is in use by another fit, {folder.holder}; this one goes to {folder.free}"
        return Start([*args, "--run_dir", str(folder.free)], step=step, message=message)
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
    return Start(args, rollbacks, None if checkpoint is None else checkpoint.step, message, continues=True)


def _from(path: Path) -> list[str]:
    return ["--resume", "null", "--ckpt_path", str(path)]


def _another_run(run_dir: Any, own: Path) -> Path | None:
    """The folder for results, if it holds another run than the one that is evaluated; otherwise None."""
    folder = Path(str(run_dir or RUN_DIR))
    return folder if (folder / LAST).exists() and folder.resolve() != own.resolve() else None


def _next_free(run_dir: Path, looks: bool) -> Path:
    numbered = (run_dir.with_name(f"{run_dir.name}-{number}") for number in count(2))
    return next(free for free in numbered if not (free / LAST).exists() and not (looks and holder_of(free)))


def _only_shows(args: Sequence[str]) -> bool:
    return any(_ONLY_SHOWS.fullmatch(option.name) for option in options(args))


def _is_first(environment: Mapping[str, str]) -> bool:
    """Whether this is the first of the processes that train together, or the only one."""
    names = ("RANK",) if "RANK" in environment else ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    return all(environment.get(name, "0") == "0" for name in names)


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
