"""A sentence about how long work takes: once, where it is long, and nowhere else."""

import pytest

from ebmzoo import progress
from ebmzoo.progress import forecasting, tracked


@pytest.fixture
def clock(monkeypatch):
    """A clock that the work itself moves, by `clock.append(seconds)`."""
    passed = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: sum(passed))
    return passed


def work(clock, count, seconds, inner=0):
    for _ in tracked(range(count), "samples", unit="batch"):
        for _ in tracked(range(inner), "steps"):
            clock.append(0.001)
        clock.append(seconds)


def test_long_work_says_once_how_long_it_takes(clock, capsys):
    with forecasting():
        work(clock, 400, 3.0, inner=10)
        work(clock, 400, 3.0)
    assert capsys.readouterr().err == "samples: 1 of 400 took 3 s; about 20.0 min left\n"


def test_short_work_and_work_outside_say_nothing(clock, capsys):
    with forecasting():
        work(clock, 10, 3.0)
        work(clock, 1, 3000.0)
        work(clock, 0, 1.0)
    work(clock, 400, 3.0)
    assert capsys.readouterr().err == ""
