"""`python -m profiling.scorecard CHECKPOINT …`: the CPU seconds of `ebmzoo test`, by task, of which pictures take some.

All arguments are those of `ebmzoo test` after `--ckpt_path`; `--again` runs tasks that have results.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from ebmzoo.commands.cli import main as ebmzoo
from ebmzoo.report import histograms, pictures, plots
from ebmzoo.tasks.base import Task


def measured(arguments: list[str]) -> tuple[Counter[str], Counter[str]]:
    """Run `ebmzoo test` on them: CPU seconds of each task, and of its pictures."""
    tasks, drawing, at = Counter[str](), Counter[str](), [""]
    run, save = Task._over_seeds, plots.save

    def run_timed(self: Task, *args: Any) -> Any:
        at[0], start = self.name, time.process_time()
        result = run(self, *args)
        tasks[self.name] += time.process_time() - start
        return result

    def save_timed(*args: Any) -> None:
        start = time.process_time()
        save(*args)
        drawing[at[0]] += time.process_time() - start

    with ExitStack() as stack:
        stack.enter_context(patch.object(Task, "_over_seeds", run_timed))
        for module in (plots, pictures, histograms):
            stack.enter_context(patch.object(module, "save", save_timed))
        ebmzoo(["test", "--ckpt_path", *arguments])
    return tasks, drawing


def main(argv: list[str]) -> None:
    """Print a table in Markdown, the most expensive task first."""
    tasks, drawing = measured(argv)
    total = sum(tasks.values())
    print("| task | CPU s | share | of which pictures, CPU s |\n| --- | --- | --- | --- |")
    for name, seconds in tasks.most_common():
        print(f"| `{name}` | {seconds:.1f} | {100 * seconds / total:.0f}% | {drawing[name]:.1f} |")
    print(f"| all tasks | {total:.1f} | 100% | {sum(drawing.values()):.1f} |")
    print(f"| the whole command | {time.process_time():.1f} | | |")


if __name__ == "__main__":
    main(sys.argv[1:])
