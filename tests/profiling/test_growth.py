"""The measurement of growth at toy size: that all of it runs, and that what is not linear is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from profiling.__main__ import main
from profiling.growth import Growth, check, measured, spent
from profiling.growth_axes import Axis, axes


def test_all_axes_run_at_toy_size_and_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--growth", "--quick", "--out", str(tmp_path)])
    told = json.loads((tmp_path / "growth.json").read_text())
    assert list(told) == [axis.name for axis in axes(quick=False)]
    for one in told.values():
        assert len(one["sizes"]) == len(one["seconds"]) == 2
        assert min(one["seconds"]) > 0
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.count("\n| ") == len(told)


def test_each_axis_covers_two_decades() -> None:
    assert all(axis.sizes[-1] >= 100 * axis.sizes[0] for axis in axes(quick=False))


def test_the_seconds_are_the_least_of_the_rounds_and_preparing_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, spent = [0.0], iter([9.0, 2.0, 4.0, 1.0, 5.0])  # once to warm up, then two rounds of two sizes

    def work() -> None:
        now[0] += next(spent)

    def cost(size: int, folder: Path):
        now[0] += 100
        return work

    monkeypatch.setattr("profiling.growth.spent", lambda: now[0])
    assert measured(Axis("x", (10, 100), cost), rounds=2) == Growth((10, 100), [1.0, 4.0])


def test_a_cost_that_is_quadratic_is_told_also_behind_a_constant() -> None:
    sizes = (10, 30, 100, 300, 1000)
    check({"linear": Growth(sizes, [3.0 * n for n in sizes]), "constant": Growth(sizes, [1.0] * 5)})
    with pytest.raises(AssertionError, match=r"square: 2\.00"):
        check({"square": Growth(sizes, [3.0 * n**2 for n in sizes])})
    late = Growth(sizes, [2e4 + n**2 for n in sizes])
    assert late.exponent < 1 < late.last_exponent
    with pytest.raises(AssertionError, match="late"):
        check({"late": late})


def test_what_a_process_that_has_ended_took_is_counted() -> None:
    before = spent()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    assert spent() - before >= 0.3
