"""Executing a benchmark: each run in its own processes, so that a failed run costs only its row."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ebmzoo.commands.benchmark.plan import Plan, Run, agrees
from ebmzoo.errors import UserError
from ebmzoo.report.own_files import read_own
from ebmzoo.training.checkpoint import read
from ebmzoo.training.config import sections
from ebmzoo.training.migration import KEY
from ebmzoo.training.run_lock import CLAIM, RunLock, holder_of
from ebmzoo.training.schema import is_number, value_at
from ebmzoo.training.signals import GRACE, PARENT
from ebmzoo.writing import appending, write_whole

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
    """Run `python -P -m ebmzoo ARGS` in its own process, which ends with this one; returns its exit status.

    Without `-P` Python would import from the working folder. The process leads a group of its own, which is ended when
    this one is stopped; where this one is killed, the process itself notices (`signals.end_with_parent`). It holds the
    claim on the run's folder too, so that nobody else begins the run while it is at work.
    """
    with appending(log) as file:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ebmzoo", *args],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**environment, PARENT: str(os.getpid())},
            start_new_session=True,
            close_fds=False,  # of descriptors only the claim's is inheritable
        )
        try:
            return process.wait()
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process's group, with time for a checkpoint; a second signal ends it at once."""
    if process.poll() is not None:
        return
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        pass
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def execute(plan: Plan, command: Command = in_own_process, report: Callable[[str], None] = print) -> list[Outcome]:
    """Make the prerequisites of the plan, then train and test each run; finished runs are kept, failures are reported.

    Several processes may execute one plan at once, on one machine: `torchrun --nproc-per-node G -m ebmzoo benchmark …`
    gives each a GPU, and a run belongs to the process that claims its folder first. A claim ends with its process and
    those that it has started.

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
        claim = RunLock.take(run.run_dir, CLAIM, inherited=True)
        if not isinstance(claim, RunLock):
            continue  # another process is working on it
        with claim:
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
            with _claimed(run.run_dir):
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
        with _claimed(run.run_dir):
            if not run.checkpoint.exists():
                report(f"{run.name}: making {run.checkpoint} (its output is in {log})")
                if (error := _do(command, _fit(run), log, environment)) is not None:
                    raise UserError(f"{run.config} failed: {error} (see {log})")
                if not run.checkpoint.exists():
                    raise UserError(f"{run.config} failed: it has left no {run.checkpoint} (see {log})")


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
        if not run.checkpoint.exists():
            return _failed(run, "fit", f"it has left no {run.checkpoint}", start)
    tested = {"test": dict(test), "checkpoint": _stamp(run.checkpoint)}
    if _marker(run) != tested:
        report(f"{run.name}: testing")
        worked = True
        if (error := _do(command, _test(run, test), run.run_dir / "test.log", environment)) is not None:
            return _failed(run, "test", error, start)
        write_whole(run.run_dir / "benchmark.json", json.dumps(tested, indent=2) + "\n")
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
    if args[0] == "fit" and (holder := holder_of(log.parent)) is not None:
        return f"{log.parent} is in use by another fit, {holder}"
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
    write_whole(run.run_dir / "failed.json", json.dumps(failure, indent=2) + "\n")
    return Outcome(run, "failed", time.monotonic() - start, f"{stage}: {error}")


def _failure(run: Run) -> str | None:
    failure = read_own(run.run_dir / "failed.json", lambda content: f"{content['stage']}: {content['error']}")
    if failure is not None:
        return failure
    return None if run.checkpoint.exists() else "there is no checkpoint"


def _check(run: Run) -> None:
    """Check that the run's folder holds no checkpoint of another config.

    Raises:
        UserError: It does.
    """
    if not run.checkpoint.exists():
        return
    made = sections(read(run.checkpoint)[KEY]["config"])
    if (key := agrees(run.wanted(), made)) is not None:
        raise UserError(
            f"{run.run_dir} holds a run with another config than {run.config} with the plan's changes: {key} differs; "
            "move it away, or give the benchmark another run_dir"
        )


def _trained(run: Run) -> bool:
    """Whether the checkpoint is from the end of the run."""
    if not run.checkpoint.exists():
        return False
    if read_own(run.run_dir / "training.json", lambda content: content["finished"]):
        return True
    steps = value_at(run.wanted(), "trainer.max_steps", -1)
    return is_number(steps) and steps > 0 and int(read(run.checkpoint)["global_step"]) >= steps


def _marker(run: Run) -> Any:
    return read_own(run.run_dir / "benchmark.json", dict)


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


def _claimed(folder: Path) -> RunLock:
    """The claim on a run's folder, for which this process waits."""
    claim = RunLock.take(folder, CLAIM, wait=True, inherited=True)
    assert isinstance(claim, RunLock)
    return claim
