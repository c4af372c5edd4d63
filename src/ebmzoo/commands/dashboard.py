"""`ebmzoo dashboard`: a W&B report or workspaces that compare runs, or a preview of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ebmzoo.commands.parser import Parser
from ebmzoo.errors import UserError
from ebmzoo.report.wandb_runs.account import HOW, has_key
from ebmzoo.report.wandb_runs.dashboard import RunsReport, comparison
from ebmzoo.report.wandb_runs.views import build, workspaces

OFF = ("offline", "dryrun", "disabled")


def main(args: list[str]) -> None:
    """Build the report, or print what it would contain."""
    parser = Parser(
        "dashboard", "Build a W&B report that compares runs; without a W&B key, print what it would contain."
    )
    parser.add_argument(
        "--project", default=os.environ.get("WANDB_PROJECT", "ebmzoo"), help="the W&B project of the runs (%(default)s)"
    )
    parser.add_argument(
        "--entity",
        default=os.environ.get("WANDB_ENTITY"),
        help="the W&B entity that owns the project; by default that of the account",
    )
    parser.add_argument(
        "--runs",
        nargs="+",
        type=Path,
        help="folders of the runs to compare; by default all that use the data sets of the runs in runs/",
    )
    parser.add_argument(
        "--workspace",
        action="store_true",
        help="save a workspace for each data set, with the panels in sections, instead of one report",
    )
    options = parser.read(args)
    runs = options.runs or sorted(path.parent for path in Path("runs").rglob("wandb.json"))
    planned = comparison(options.project, options.entity, runs, only=options.runs is not None)
    what = "workspaces" if options.workspace else "report"
    if os.environ.get("WANDB_MODE") in OFF:
        print(f"WANDB_MODE is {os.environ['WANDB_MODE']}, so nothing is built. Otherwise it would be the", what)
        print(planned)
    elif not has_key():
        print(f"There is no W&B key, so nothing is built. With one it would be the {what}\n{planned}\n\n{HOW}")
        print("upload runs that were logged offline with `wandb sync RUN/wandb/offline-run-*`")
    else:
        try:
            addresses = [view.save().url for view in _views(planned, options.workspace)]
        except UserError:
            raise
        except Exception as error:  # W&B's errors of account, project and network have no common base class
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"W&B did not accept the {what} ({reason:.300})") from error
        print(f"{what} {planned}\n\n" + "\n".join(addresses))


def _views(planned: RunsReport, of_workspaces: bool) -> list[Any]:
    if not of_workspaces:
        return [build(planned)]
    if (entity := planned.entity) is None:
        import wandb

        entity = wandb.Api().default_entity
    if entity is None:
        raise UserError("--entity is not given, and the W&B account has no entity of its own")
    return workspaces(planned, entity)
