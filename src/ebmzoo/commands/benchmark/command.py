"""`ebmzoo benchmark`: train and test several methods under one budget, and compare them."""

from __future__ import annotations

import os
import sys

from ebmzoo.commands.benchmark import Plan, execute
from ebmzoo.commands.compare import main as compare
from ebmzoo.training.config import ZooParser


def main(args: list[str]) -> None:
    """Parse the flags after `benchmark` and execute the plan; exit with code 1 if a run has failed."""
    parser = ZooParser(prog="ebmzoo benchmark", description="Train and test several methods under one budget.")
    parser.add_argument("plan", type=str, help="a benchmark plan, by the path of its file or its name, such as digits")
    flags = parser.parse_args(args[1:])
    plan = Plan.read(flags.plan)
    outcomes = execute(plan)
    if int(os.environ.get("RANK", 0)) != 0:
        return  # under torchrun only the first process compares
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    for outcome in failed:
        print(f"{outcome.run.name} failed: {outcome.error}")
    columns = ["--columns", *plan.columns] if plan.columns else []
    runs = [str(outcome.run.run_dir) for outcome in outcomes]
    compare(["compare", *runs, "--out", str(plan.run_dir / "compare"), "--overwrite", *columns])
    if failed:
        names = ", ".join(outcome.run.name for outcome in failed)
        print(f"ebmzoo: {len(failed)} of {len(outcomes)} runs failed: {names}", file=sys.stderr)
        raise SystemExit(1)
