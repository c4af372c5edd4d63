"""The notebooks of docs/notebooks/, run as scripts with small numbers."""

import os
import subprocess
import sys

import pytest

from support.paths import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.py"))
WRITES = {
    "detection_and_restoration": ("mine.png", "restored.png"),
    "energy_on_the_plane": ("plane.png",),
    "two_methods_on_digits": ("two_methods.png", "compare/compare.html", "runs/jem/test/ood.json"),
}


def test_there_are_three():
    assert [path.stem for path in NOTEBOOKS] == sorted(WRITES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    environment = os.environ | {"EBMZOO_QUICK": "1", "MPLBACKEND": "Agg", "WANDB_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=540
    )
    assert done.returncode == 0, done.stderr
    assert all((tmp_path / name).stat().st_size > 0 for name in WRITES[path.stem])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_text_between_its_code(path):
    jupytext = pytest.importorskip("jupytext", reason="the extra `docs` is not installed")
    kinds = [cell.cell_type for cell in jupytext.read(path).cells]
    assert kinds[0] == "markdown"
    assert kinds.count("markdown") >= 4
    assert kinds.count("code") >= 4
