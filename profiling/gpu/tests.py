"""The tests that are marked `gpu`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from profiling.gpu.options import Options
from profiling.gpu.record import Record


class Outcomes:
    """Records what became of each test as soon as it has run, and ends when the time is up."""

    def __init__(self, record: Record) -> None:
        self.record = record

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            told = self.record.told
            outcomes = told.get("outcomes", {})
            failed = {report.nodeid: report.longreprtext[-2000:]} if report.failed else {}
            self.record.put(
                outcomes=outcomes | {report.outcome: outcomes.get(report.outcome, 0) + 1},
                failures=told.get("failures", {}) | failed,
            )

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        if self.record.left <= 0:
            pytest.exit("time is up", returncode=1)


def measure(record: Record, options: Options) -> None:
    """Run them, file by file."""
    # only those files: to collect all the others would take longer than the tests
    files = sorted(str(path) for path in Path("tests").rglob("test_*.py") if "mark.gpu" in path.read_text("utf-8"))
    record.put(files=files)
    code = pytest.main(["-q", "-m", "gpu", "-p", "no:cacheprovider", *files], plugins=[Outcomes(record)])
    record.put(exit_code=int(code))
