"""`ebmzoo dashboard`: the report in W&B that holds runs against each other, or what would be in it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NoReturn

from ebmzoo.errors import UserError
from ebmzoo.report.wandb_runs.account import HOW, has_key
from ebmzoo.report.wandb_runs.dashboard import build, comparison

OFF = ("offline", "dryrun", "disabled")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are a `UserError`; it loads no torch, as jsonargparse of Lightning does."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"dashboard: {message}")


def main(args: list[str]) -> None:
    """Read the flags after `dashboard`, and build the report or say what it would be."""
    parser = Parser(prog="ebmzoo dashboard", description=__doc__, allow_abbrev=False)
    parser.add_argument("--project", default=os.environ.get("WANDB_PROJECT", "ebmzoo"), help="the project of the runs")
    parser.add_argument(
        "--entity", default=os.environ.get("WANDB_ENTITY"), help="who owns it; the account where left out"
    )
    parser.add_argument(
        "--runs",
        nargs="+",
        type=Path,
        help="folders of the runs to compare; where left out, all runs of the data sets that runs in runs/ have",
    )
    given = parser.parse_args(args[1:])
    runs = given.runs or sorted(path.parent for path in Path("runs").rglob("wandb.json"))
    told = comparison(given.project, given.entity, runs, only=given.runs is not None)
    if os.environ.get("WANDB_MODE") in OFF:
        print(f"WANDB_MODE is {os.environ['WANDB_MODE']}, so nothing is built. Otherwise it would be the\n{told}")
    elif not has_key():
        print(f"There is no W&B key, so nothing is built. With one it would be the\n{told}\n\n{HOW}")
        print("runs that were logged offline go there by `wandb sync RUN/wandb/offline-run-*`")
    else:
        try:
            report = build(told)
            report.save()
        except UserError:
            raise
        except Exception as error:  # W&B's errors of the account, the project and the line have no class in common
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"W&B did not take the report ({reason:.300})") from error
        print(f"{told}\n\n{report.url}")
