"""The CPU seconds of a scorecard, at toy size."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ebmzoo.tasks import Generation
from profiling.scorecard import main
from support.keeping import empty_home
from support.shared import saved_run

OF = {"n": 20, "extractors": [{"class_path": "ebmzoo.metrics.Pixels"}]}


def test_each_task_has_a_row_with_what_its_pictures_take(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    empty_home(tmp_path_factory, monkeypatch)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    tasks = [{"class_path": "ebmzoo.tasks.Generation", "init_args": OF}]
    saved_run(tmp_path / "run", "vae_digits", tasks=tasks, trainer={"accelerator": "cpu", "logger": False, **quiet})
    call = Generation.__call__

    def slow(self, *args):
        ends = time.process_time() + 0.2
        while time.process_time() < ends:
            pass
        return call(self, *args)

    monkeypatch.setattr(Generation, "__call__", slow)
    main([str(tmp_path / "run" / "last.ckpt"), "--only", "generation,interpolation"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    found = {row[0]: row[1:] for row in rows}
    assert {"`generation`", "`interpolation`", "all tasks"} <= set(found)
    assert float(found["`generation`"][0]) >= 0.2
    assert float(found["`generation`"][2]) == 0, "its grids are PNG files alone"
    assert 0 < float(found["`interpolation`"][2]) <= float(found["`interpolation`"][0])
    assert float(found["the whole command"][0]) >= float(found["all tasks"][0])
