"""The comparison of two versions' steps, at toy size and of this version with itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiling.versions import OWN, compared, main

TOY = "short_run_digits=2,1,8,8"


def test_each_side_steps_in_turn_and_a_row_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main([str(OWN), "--configs", TOY, "--rounds", "2"])
    row = capsys.readouterr().out.splitlines()[-1].split(" | ")
    assert row[:2] == ["| `short_run_digits`", "2×1×8×8"]
    assert 0 < float(row[4].removesuffix(" |")) < 10


def test_a_folder_without_the_package_is_no_other_version(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=f"not {tmp_path}"):
        compared(TOY, tmp_path, rounds=1)
