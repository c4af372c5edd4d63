"""Executing a benchmark: each run in its own processes, so that a failed run costs only its row."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
"""Variables that torchrun sets; a run on a single device must not see them."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run: `made` now, `kept` from before, or `failed` with an error; and the seconds spent now.

    >>> Outcome(Run("cdrl", Path("cdrl.yaml"), Path("runs/cdrl")), "kept").seconds
    0.0
    """

    run: Run
    status: Literal["made", "kept", "failed"]
    seconds: float = 0.0
    error: str | None = None


Command = Callable[[Sequence[str], Path, Mapping[str, str]], int]
"""A function that runs `ebmzoo` with arguments, writes its output into a file, and returns its exit status."""


def in_own_process(args: Sequence[str], log: Path, environment: Mapping[str, str]) -> int:
    """Run `python -P -m ebmzoo ARGS` in its own process; without `-P` Python would import from the working folder."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        command = [sys.executable, "-P", "-m", "ebmzoo", *args]
        return subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False).returncode


def execute(plan: Plan, command: Command = in_own_process, report: Callable[[str], None] = print) -> list[Outcome]:
    """Make the prerequisites of the plan, then train and test each run; finished runs are kept, failures are reported.

    Several processes may execute one plan at once, on one machine: `torchrun --nproc-per-node G -m ebmzoo benchmark …`
    gives each a GPU, and a run belongs to the process that locks its folder first. A lock ends with its process.

    >>> from ebmzoo.commands.benchmark import Plan
    >>> execute(Plan(Path("runs/bench"), prepare=(), runs=(), test={}))
    []

    Raises:
        UserError: A run's folder holds a run of another config, or a prerequisite cannot be made.
    """
    environment = _environment()
    prepare_runs(plan.prepare, command, report)
    for run in plan.runs:
        _check(run)
    start, done = time.monotonic(), 0
    outcomes: dict[str, Outcome] = {}
    for at, run in enumerate(plan.runs, start=1):
        with _locked(run.run_dir, wait=False) as mine:
            if not mine:
                continue  # another process is working on it
            place = f"{at}/{len(plan.runs)}"
            outcomes[run.name] = _one(run, plan.test, command, environment, partial(_prefixed, report, place))
        if outcomes[run.name].status == "made":
            done += 1
            left = (time.monotonic() - start) / done * (len(plan.runs) - at)
            report(
                f"    {outcomes[run.name].seconds:.0f} s; about {left / 60:.0f} min left if the other runs take as long"
            )
    for run in plan.runs:  # the runs of other processes, which the caller may want to compare
        if run.name not in outcomes:
            with _locked(run.run_dir, wait=True):
                error = _failure(run)
                outcomes[run.name] = Outcome(run, "failed" if error else "kept", error=error)
    return [outcomes[run.name] for run in plan.runs]


def prepare_runs(runs: Iterable[Run], command: Command, report: Callable[[str], None]) -> None:
    """Make the checkpoint of each run, unless it is there; of several processes the first makes it, the others wait.

    Raises:
        UserError: One cannot be made.
    """
    environment = _environment()
    for run in runs:
        log = run.run_dir / "fit.log"
        with _locked(run.run_dir, wait=True):
            if not run.checkpoint.exists():
                report(f"{run.name}: making {run.checkpoint} (its output is in {log})")
                if (error := _do(command, _fit(run), log, environment)) is not None:
                    raise UserError(f"{run.config} failed: {error} (see {log})")


def _prefixed(report: Callable[[str], None], place: str, sentence: str) -> None:
    report(f"{place} {sentence}")


def _one(
    run: Run, test: Mapping[str, Any], command: Command, environment: Mapping[str, str], report: Callable[[str], None]
) -> Outcome:
    start, worked = time.monotonic(), False
    (run.run_dir / "failed.json").unlink(missing_ok=True)
    if not _trained(run):
        report(f"{run.name}: {'resuming' if run.checkpoint.exists() else 'training'} {run.config}")
        worked = True
        if (error := _do(command, _fit(run), run.run_dir / "fit.log", environment)) is not None:
            return _failed(run, "fit", error, start)
    tested = {"test": dict(test), "checkpoint": _stamp(run.checkpoint)}
    if _marker(run) != tested:
        report(f"{run.name}: testing")
        worked = True
        if (error := _do(command, _test(run, test), run.run_dir / "test.log", environment)) is not None:
            return _failed(run, "test", error, start)
        (run.run_dir / "benchmark.json").write_text(json.dumps(tested, indent=2) + "\n")
    if not worked:
        report(f"{run.name}: up to date")
    return Outcome(run, "made" if worked else "kept", time.monotonic() - start)


def _fit(run: Run) -> list[str]:
    args = ["fit", "--config", str(run.config), "--run_dir", str(run.run_dir), *_flags(run.fit)]
    args += ["--trainer.enable_progress_bar", "false"]
    return [*args, "--ckpt_path", str(run.checkpoint)] if run.checkpoint.exists() else args


def _test(run: Run, test: Mapping[str, Any]) -> list[str]:
    return ["test", "--ckpt_path", str(run.checkpoint), *_flags(test), "--trainer.enable_progress_bar", "false"]


def _flags(values: Mapping[str, Any]) -> list[str]:
    return [
        part
        for key, value in values.items()
        for part in (f"--{key}", value if isinstance(value, str) else json.dumps(value))
    ]


def _do(command: Command, args: Sequence[str], log: Path, environment: Mapping[str, str]) -> str | None:
    """Run a command; returns its error in a sentence, and None if it succeeded."""
    before = log.stat().st_size if log.exists() else 0
    status = command(args, log, environment)
    if status == 0:
        return None
    lines = log.read_bytes()[before:].decode(errors="replace").splitlines() if log.exists() else []
    errors = [line.removeprefix("ebmzoo: ") for line in lines if line.startswith("ebmzoo: ")]
    errors = errors or [line for line in lines if line.strip()]
    ended = f"ended by signal {-status}" if status < 0 else f"exit status {status}"
    return f"{errors[-1].strip()} ({ended})" if errors else ended


def _failed(run: Run, stage: str, error: str, start: float) -> Outcome:
    failure = {"stage": stage, "error": error, "log": f"{stage}.log"}
    run.run_dir.mkdir(parents=True, exist_ok=True)
    (run.run_dir / "failed.json").write_text(json.dumps(failure, indent=2) + "\n")
    return Outcome(run, "failed", time.monotonic() - start, f"{stage}: {error}")


def _failure(run: Run) -> str | None:
    path = run.run_dir / "failed.json"
    if path.exists():
        failure = json.loads(path.read_text())
        return f"{failure['stage']}: {failure['error']}"
    return None if run.checkpoint.exists() else "there is no checkpoint"


def _check(run: Run) -> None:
    """Check that the run's folder holds no checkpoint of another config.

    Raises:
        UserError: It does.
    """
    if not run.checkpoint.exists():
        return
    import yaml

    made = yaml.safe_load(read(run.checkpoint)[KEY]["config"])
    if (key := agrees(run.wanted(), made)) is not None:
        raise UserError(
            f"{run.run_dir} holds a run with another config than {run.config} with the plan's changes: {key} differs; "
            "move it away, or give the benchmark another run_dir"
        )


def _trained(run: Run) -> bool:
    """Whether the checkpoint is from the end of the run."""
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
    """Hold the folder's lock and yield whether it was acquired; the system releases it when the process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
