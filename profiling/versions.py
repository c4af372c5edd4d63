"""`python -m profiling.versions OTHER`: a Langevin step of paper-size energies, by another checkout's code and by ours.

OTHER is the `src` folder of a checkout of another commit. Each side is a process of its own; they step in turn.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import torch

import ebmzoo
from ebmzoo.methods import Method
from ebmzoo.sampling import Langevin
from ebmzoo.training.config import build_model
from ebmzoo.training.config_files import named_config

PAPER = ("liebm_cifar=8,3,32,32", "dual_mcmc_cifar=4,3,32,32", "igebm_cifar=8,3,32,32", "clel_cifar=8,3,32,32")
"""Configs, and the shape of a batch of images."""
OWN = Path(__file__).parents[1] / "src"


def work(config: str, shape: list[int]) -> None:
    """Take a step of one seed for each line on the standard input, and answer with its CPU seconds and its result."""
    torch.manual_seed(0)
    method = build_model(named_config(config)).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    assert isinstance(method, Method)
    x = (torch.rand(shape) * 2 - 1).contiguous(memory_format=torch.channels_last)
    for _ in sys.stdin:
        torch.manual_seed(1)
        start = time.process_time()
        step = Langevin(1, 1.0, 0.0)(method.energy, x) - x
        print(time.process_time() - start, float(step.norm()), Path(ebmzoo.__file__).parents[1], flush=True)


def compared(chosen: str, other: Path, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of a step by `other` and by our own code, after one that is not counted.

    Raises:
        AssertionError: The steps differ by more than rounding, or a side runs another code.
    """
    taken: dict[str, list[float]] = {"other": [], "own": []}
    with ExitStack() as stack:
        sides = {}
        for side, source in {"other": other, "own": OWN}.items():
            command = [sys.executable, __file__, "", "--work", chosen]
            pipe, env = subprocess.PIPE, os.environ | {"PYTHONPATH": str(source)}
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env)
            sides[side] = source, stack.enter_context(process)
        for _ in range(1 + rounds):
            norms = []
            for side, (source, process) in sides.items():
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write("\n")
                process.stdin.flush()
                seconds, norm, ran = process.stdout.readline().split()
                assert Path(ran) == source.resolve(), f"{ran} and not {source}"
                taken[side].append(float(seconds))
                norms.append(float(norm))
            assert abs(norms[0] - norms[1]) <= 1e-3 * norms[0], norms
    return {side: seconds[1:] for side, seconds in taken.items()}


def main(argv: list[str] | None = None) -> None:
    """Print a row of Markdown for each config."""
    parser = argparse.ArgumentParser(prog="python -m profiling.versions", description=__doc__)
    parser.add_argument("other", type=Path, help="the src folder of another checkout")
    parser.add_argument("--configs", nargs="+", default=PAPER, help="CONFIG=SHAPE …")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.work is not None:
        config, shape = args.work.split("=")
        return work(config, [int(n) for n in shape.split(",")])
    print(
        "| energy of | shape | other: CPU s, median (least–most) | own | other / own, median |\n|---|---|---|---|---|"
    )
    for chosen in args.configs:
        config, shape = chosen.split("=")
        times, taken = shape.replace(",", "×"), compared(chosen, args.other, args.rounds)
        told = [f"{median(s):.3g} ({min(s):.3g}–{max(s):.3g})" for s in taken.values()]
        ratio = median(a / b for a, b in zip(taken["other"], taken["own"], strict=True))
        print(f"| `{config}` | {times} | {told[0]} | {told[1]} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
