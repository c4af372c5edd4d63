"""What `ebmzoo test` prints and logs when its tasks are done."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch.loggers import Logger

from ebmzoo.report.comparison.records import read_records
from ebmzoo.report.comparison.summary import summary
from ebmzoo.report.scorecard import scorecard
from ebmzoo.report.wandb_runs.loggers import log_scorecard
from ebmzoo.training.watchdog import read_events


def show_results(run_dir: Path, tasks: list[str], loggers: Iterable[Logger], short: bool, details: bool) -> None:
    """Log the results of the tasks, and print the events of training, the tables and the summary of the run.

    Args:
        run_dir: The folder of the run, with the results in `test/`.
        tasks: The names of the tasks, in order.
        loggers: Those of the run.
        short: Whether the summary alone is printed.
        details: Whether every metric of every score is printed, in lines of any length.
    """
    folder, block = run_dir / "test", summary(read_records([run_dir])[0])
    for event in read_events(run_dir):
        print(f"! training: {event.message}")
    log_scorecard(loggers, folder, tasks, block)
    if not short:
        width = None if details else max(80, shutil.get_terminal_size((120, 24)).columns)
        print(f"{scorecard(folder, tasks, width, details)}\n")
    print(block)
