"""`ebmzoo benchmark`: train and test several methods under one budget, and compare them."""

from __future__ import annotations

import os

from ebmzoo.commands.benchmark import Plan, execute
from ebmzoo.commands.compare import main as compare
from ebmzoo.training.config import ZooParser


def main(args: list[str]) -> None:
    """Parse the flags after `benchmark` and execute the plan."""
    parser = ZooParser(prog="ebmzoo benchmark", description="Train and test several methods under one budget.")
    parser.add_argument("plan", type=str, help="a YAML file such as configs/benchmarks/digits.yaml")
    flags = parser.parse_args(args[1:])
    plan = Plan.read(flags.plan)
    outcomes = execute(plan)
    if int(os.environ.get("RANK", 0)) != 0:
        return  # under torchrun only the first process compares
    for outcome in outcomes:
        if outcome.error is not None:
            print(f"{outcome.run.name} failed: {outcome.error}")
    columns = ["--columns", *plan.columns] if plan.columns else []
    runs = [str(outcome.run.run_dir) for outcome in outcomes]
    compare(["compare", *runs, "--out", str(plan.run_dir / "compare"), "--overwrite", *columns])
