"""Carrying a benchmark out: each run in processes of its own, so that one that fails is a row and no more."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ebmzoo.commands.benchmark.plan import Plan, Run, agrees
from ebmzoo.errors import UserError
from ebmzoo.training.checkpoint import read
from ebmzoo.training.migration import KEY

DISTRIBUTED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells its processes; one that trains on a single device must not take itself for one of many."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `made` now, `kept` from before, or `failed` with a sentence; and its seconds now."""

    run: Run
    status: Literal["made", "kept", "failed"]
    seconds: float = 0.0
    error: str | None = None


Command = Callable[[Sequence[str], Path, Mapping[str, str]], int]
"""Runs `ebmzoo` with arguments, writes what it prints into a file, and gives its exit status."""


def in_a_process(args: Sequence[str], log: Path, environment: Mapping[str, str]) -> int:
    """`python -m ebmzoo ARGS` in a process of its own."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        command = [sys.executable, "-m", "ebmzoo", *args]
        return subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False).returncode


def execute(plan: Plan, command: Command = in_a_process, tell: Callable[[str], None] = print) -> list[Outcome]:
    """Make what the plan prepares, then train and test each of its runs; what is done is kept, failures are told.

    Several processes may execute one plan at once, on one machine: `torchrun --nproc-per-node G -m ebmzoo benchmark …`
    gives each a GPU, and a run belongs to the process that locks its folder first. A lock ends with its process.

    Raises:
        UserError: a run's folder holds what another config made, or what the plan prepares cannot be made.
    """
    environment = _environment()
    for run in plan.prepare:
        with _locked(run.run_dir, wait=True):
            if not run.checkpoint.exists():
                tell(f"{run.name}: making {run.checkpoint}")
                if (error := _do(command, _fit(run), run.run_dir / "fit.log", environment)) is not None:
                    raise UserError(f"{run.config} failed: {error} (all it said: {run.run_dir / 'fit.log'})")
    for run in plan.runs:
        _check(run)
    start, done = time.monotonic(), 0
    outcomes: dict[str, Outcome] = {}
    for at, run in enumerate(plan.runs, start=1):
        with _locked(run.run_dir, wait=False) as mine:
            if not mine:
                continue  # another process is at it
            place = f"{at}/{len(plan.runs)}"
            outcomes[run.name] = _one(run, plan.test, command, environment, partial(_tell, tell, place))
        if outcomes[run.name].status == "made":
            done += 1
            left = (time.monotonic() - start) / done * (len(plan.runs) - at)
            tell(f"    {outcomes[run.name].seconds:.0f} s; about {left / 60:.0f} min left if the others take as long")
    for run in plan.runs:  # those of other processes, which the caller may want to compare
        if run.name not in outcomes:
            with _locked(run.run_dir, wait=True):
                error = _failure(run)
                outcomes[run.name] = Outcome(run, "failed" if error else "kept", error=error)
    return [outcomes[run.name] for run in plan.runs]


def _tell(tell: Callable[[str], None], place: str, sentence: str) -> None:
    tell(f"{place} {sentence}")


def _one(
    run: Run, test: Mapping[str, Any], command: Command, environment: Mapping[str, str], tell: Callable[[str], None]
) -> Outcome:
    start, worked = time.monotonic(), False
    (run.run_dir / "failed.json").unlink(missing_ok=True)
    if not _trained(run):
        tell(f"{run.name}: {'going on with' if run.checkpoint.exists() else 'training'} {run.config}")
        worked = True
        if (error := _do(command, _fit(run), run.run_dir / "fit.log", environment)) is not None:
            return _failed(run, "fit", error, start)
    tested = {"test": dict(test), "checkpoint": _stamp(run.checkpoint)}
    if _marker(run) != tested:
        tell(f"{run.name}: testing")
        worked = True
        if (error := _do(command, _test(run, test), run.run_dir / "test.log", environment)) is not None:
            return _failed(run, "test", error, start)
        (run.run_dir / "benchmark.json").write_text(json.dumps(tested, indent=2) + "\n")
    if not worked:
        tell(f"{run.name}: done before")
    return Outcome(run, "made" if worked else "kept", time.monotonic() - start)


def _fit(run: Run) -> list[str]:
    args = ["fit", "--config", str(run.config), "--run_dir", str(run.run_dir), *_flags(run.fit)]
    args += ["--trainer.enable_progress_bar", "false"]
    return [*args, "--ckpt_path", str(run.checkpoint)] if run.checkpoint.exists() else args


def _test(run: Run, test: Mapping[str, Any]) -> list[str]:
    return ["test", "--ckpt_path", str(run.checkpoint), *_flags(test), "--trainer.enable_progress_bar", "false"]


def _flags(told: Mapping[str, Any]) -> list[str]:
    return [
        part
        for key, value in told.items()
        for part in (f"--{key}", value if isinstance(value, str) else json.dumps(value))
    ]


def _do(command: Command, args: Sequence[str], log: Path, environment: Mapping[str, str]) -> str | None:
    """What went wrong, in a sentence; None where nothing did."""
    before = log.stat().st_size if log.exists() else 0
    status = command(args, log, environment)
    if status == 0:
        return None
    said = log.read_bytes()[before:].decode(errors="replace").splitlines() if log.exists() else []
    told = [line.removeprefix("ebmzoo: ") for line in said if line.startswith("ebmzoo: ")] or [
        s for s in said if s.strip()
    ]
    ended = f"ended by signal {-status}" if status < 0 else f"exit status {status}"
    return f"{told[-1].strip()} ({ended})" if told else ended


def _failed(run: Run, stage: str, error: str, start: float) -> Outcome:
    told = {"stage": stage, "error": error, "log": f"{stage}.log"}
    run.run_dir.mkdir(parents=True, exist_ok=True)
    (run.run_dir / "failed.json").write_text(json.dumps(told, indent=2) + "\n")
    return Outcome(run, "failed", time.monotonic() - start, f"{stage}: {error}")


def _failure(run: Run) -> str | None:
    path = run.run_dir / "failed.json"
    if path.exists():
        told = json.loads(path.read_text())
        return f"{told['stage']}: {told['error']}"
    return None if run.checkpoint.exists() else "nothing was made"


def _check(run: Run) -> None:
    """Raises `UserError` where the run's folder holds a checkpoint of another config."""
    if not run.checkpoint.exists():
        return
    import yaml

    made = yaml.safe_load(read(run.checkpoint)[KEY]["config"])
    if (key := agrees(run.wanted(), made)) is not None:
        raise UserError(
            f"{run.run_dir} holds a run of another config than {run.config} now asks for: {key} differs; "
            "move it away, or give the benchmark another run_dir"
        )


def _trained(run: Run) -> bool:
    """Whether the checkpoint is of the end of the run."""
    if not run.checkpoint.exists():
        return False
    record = run.run_dir / "training.json"
    if record.exists() and json.loads(record.read_text()).get("finished"):
        return True
    steps = run.wanted().get("trainer", {}).get("max_steps", -1)
    return bool(steps > 0 and int(read(run.checkpoint)["global_step"]) >= steps)


def _marker(run: Run) -> Any:
    try:
        return json.loads((run.run_dir / "benchmark.json").read_text())
    except (OSError, ValueError):
        return None


def _stamp(path: Path) -> list[int]:
    return [path.stat().st_size, path.stat().st_mtime_ns]


def _environment() -> dict[str, str]:
    """This process's environment for a run on one device: under torchrun, the GPU of this process's rank."""
    environment = {k: v for k, v in os.environ.items() if k not in DISTRIBUTED and not k.startswith("TORCHELASTIC")}
    if "LOCAL_RANK" in os.environ:
        visible = [v for v in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if v]
        rank = int(os.environ["LOCAL_RANK"])
        environment["CUDA_VISIBLE_DEVICES"] = visible[rank] if rank < len(visible) else str(rank)
    return environment


@contextmanager
def _locked(folder: Path, wait: bool) -> Iterator[bool]:
    """Hold the folder's lock; gives whether it was had. The system takes it back when the process ends, however."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
