"""The scorecard in a terminal's width: tables are folded by columns, and no cell is lost."""

import doctest

import pytest

from ebmzoo.report import scorecard as module
from ebmzoo.report.scorecard import scorecard, table
from ebmzoo.tasks.base import Result

HEAD = ("", *(f"column {k}" for k in range(9)))
ROWS = [(f"row {r}", *(str(10 * r + k) for k in range(9))) for r in range(3)]


@pytest.mark.parametrize("width", [20, 40, 80, 1000])
def test_a_wide_table_is_folded_and_loses_no_cell(width):
    text = table(ROWS, HEAD, width)
    blocks = [block.splitlines() for block in text.split("\n\n")]
    assert max(map(len, text.splitlines())) <= width
    rows = [[cell for block in blocks for cell in block[2 + r].split()[2:]] for r in range(3)]
    assert rows == [list(row[1:]) for row in ROWS]
    assert table(ROWS, HEAD) == table(ROWS, HEAD, 1000)


def test_a_column_wider_than_the_terminal_is_shown():
    assert "x" * 50 in table([("a", "x" * 50)], ("", "b"), 20)


def test_details_are_every_metric_of_every_score(tmp_path):
    figures = {f"{kind}/{metric}_energy": 0.5 for kind in ("near", "far") for metric in ("auroc", "aupr", "fpr95")}
    protocol = {"in": "digits", "in_images": 9, "scores": {"energy": "E(x)"}, "weights": "ema"}
    Result("ood", figures, protocol, pictures=["a/b.png"] * 20).write(tmp_path)
    short, every = scorecard(tmp_path, ["ood"], 80, details=False), scorecard(tmp_path, ["ood"])
    assert "auroc_energy" in short
    assert "fpr95" not in short
    assert all(name in every for name in ("auroc_energy", "aupr_energy", "fpr95_energy"))
    assert max(map(len, short.splitlines())) <= 80


@pytest.mark.parametrize(
    ("figures", "heads", "row"),
    [
        ({}, "samples real images", "fd_x 5 0.5"),
        ({"no_mcmc/fd_x": 6.0}, "with MCMC w/o MCMC real images", "fd_x 5 6 0.5"),
    ],
)
def test_real_images_stand_beside_the_samples(tmp_path, figures, heads, row):
    protocol = {"n": 9, "real_images": 9, "split": "train", "weights": "ema"}
    Result("generation", {"nfe": 3.0, "fd_x": 5.0, **figures, "real/fd_x": 0.5}, protocol).write(tmp_path)
    lines = [" ".join(line.split()) for line in scorecard(tmp_path, ["generation"], 80).splitlines()]
    assert heads in lines
    assert row in lines


def test_examples():
    assert doctest.testmod(module).failed == 0
