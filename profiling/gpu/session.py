"""All parts in turn, each in a process of its own and within its own time; their figures in one file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import profiling
from ebmzoo.errors import UserError
from ebmzoo.writing import write_whole
from profiling.gpu.options import Options

NEEDED = ("torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "pytest")


@dataclass(frozen=True)
class Part:
    """A part and its time.

    Args:
        name: The module of `profiling.gpu` that measures it.
        share: Its share of all the time; the last has all that is left.
        least: The share of its time without which it is not begun.
    """

    name: str
    share: float
    least: float = 0.5


PARTS = (Part("tests", 1 / 6), Part("chain", 0.2), Part("iterations", 0.2), Part("liebm", 0.4))
OWN_END = 0.92
"""The share of its time within which a part must end by itself; it is ended at all of it."""


def run(options: Options, minutes: float) -> dict[str, Any]:
    """Run all parts and return their figures, which are in `gpu.json` after each part too.

    The minutes count from the import of this package on.

    Raises:
        UserError: A package or a file is missing, or a number is out of its range.
    """
    _check(options, minutes)
    start, total = profiling.BEGUN, 60 * minutes
    told: dict[str, Any] = {"minutes": minutes, "rehearsal": options.rehearse, "parts": {}}
    options.out.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        (options.out / f"{part.name}.json").unlink(missing_ok=True)
    for part in PARTS:
        left = start + total - time.monotonic()
        seconds = left if part is PARTS[-1] else min(left, part.share * total)
        if seconds < (needed := part.least * part.share * total):
            told["parts"][part.name] = {"status": "skipped", "skipped": f"{seconds:.0f} s left, {needed:.0f} needed"}
        else:
            print(f"── {part.name}: at most {seconds:.0f} s", flush=True)
            told["parts"][part.name] = _of_part(part, options, seconds)
        told["seconds"] = round(time.monotonic() - start, 1)
        write_whole(options.out / "gpu.json", json.dumps(told, indent=1) + "\n")
    for name, of in told["parts"].items():
        print(f"{name}: {of['status']}" + "".join(f": {of[k]}" for k in ("failure", "skipped") if k in of))
    print(f"figures: {options.out / 'gpu.json'}")
    return told


def _of_part(part: Part, options: Options, seconds: float) -> dict[str, Any]:
    """What a part has recorded, however it ended."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "profiling.gpu.part", part.name, "--seconds", f"{OWN_END * seconds:.2f}"]
    # Its own group: what it has started ends with it.
    child = subprocess.Popen([*command, *options.arguments], process_group=0)
    try:
        code: int | None = child.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    path = options.out / f"{part.name}.json"
    told: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"status": "failed"}
    if told["status"] == "cut":
        told["failure"] = f"ended at {seconds:.0f} s" if code is None else f"its process ended with {code}"
    path.unlink(missing_ok=True)
    return told | {"seconds": round(time.monotonic() - begun, 1)}


def _check(options: Options, minutes: float) -> None:
    if not 0 < minutes < 10_000:
        raise UserError(f"--minutes is {minutes}; it must be a number above 0")
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise UserError(
            f"{', '.join(missing)} missing: where there is no network, carry wheels and install them by "
            f"`pip install --no-index --find-links wheels/ {' '.join(missing)}` (docs/performance.md)"
        )
    for name in ("images", "encoder", "classifier"):
        path: Path | None = getattr(options, name)
        if path is not None and not path.exists():
            raise UserError(f"--{name}: there is no {path}")
