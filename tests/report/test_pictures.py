"""Labelled grids: every image in its place, pixel for pixel, and its labels as text in the vector files."""

import sys

import pytest
import torch
from PIL import Image

from ebmzoo.data.images import to_uint8
from ebmzoo.report.pictures import numbered, save_strips
from support.pictures import cells, rows_and_columns


@pytest.mark.parametrize(
    ("side", "rows", "columns"),
    [
        (8, ["a", "a longer name of a row"], ["x", "y", "z"]),
        (8, ["A⁺y, σ = 0.1"], ["a column's name that is wider than the column"] * 9),
        (5, ["$x_1$ and % & <b>", "", "ω"], numbered("image", 7)),
        (96, numbered("pair", 3), ["α = 0.25", "α = 0.5"]),
    ],
)
def test_every_image_is_in_its_place_and_every_label_beside_it(tmp_path, side, rows, columns):
    strips = torch.rand(len(rows), len(columns), 3, side, side, generator=torch.Generator().manual_seed(side)) * 2 - 1
    save_strips(strips, path := tmp_path / "new" / "grid.v1.png", rows, columns)
    if side == 5:  # enlarged by 13, not by 64 / 5
        assert Image.open(path).width > 7 * 67
    else:
        assert torch.equal(cells(path, len(rows), len(columns), side), to_uint8(strips))
    found = rows_and_columns(path, len([row for row in rows if row]))
    assert found == ([row for row in rows if row], columns)
    assert {file.name for file in path.parent.iterdir()} == {f"grid.v1.{kind}" for kind in ("png", "svg", "pdf")}


def test_labels_have_room(tmp_path):
    """Dark pixels of the labels keep away from the edges and from the images."""
    rows, columns = ["a row with a long name"], ["one", "a long name that is turned"]
    save_strips(torch.ones(1, 2, 1, 8, 8), path := tmp_path / "grid.png", rows, columns)
    dark = torch.tensor(list(Image.open(path).convert("L").tobytes())).view(*Image.open(path).size[::-1]) < 128
    assert dark.any()
    assert not dark[:2].any()
    assert not dark[:, :2].any()
    assert not dark[-68:, -134:].any(), "the images are white"


def test_equal_grids_are_equal_files(tmp_path):
    for name in ("a", "b"):
        save_strips(torch.zeros(1, 2, 1, 8, 8), tmp_path / name / "grid.png", ["x"], ["1", "2"])
    for kind in ("png", "svg", "pdf"):
        assert (tmp_path / "a" / f"grid.{kind}").read_bytes() == (tmp_path / "b" / f"grid.{kind}").read_bytes(), kind


def test_without_matplotlib_there_are_the_images(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    strips = torch.rand(2, 3, 1, 8, 8) * 2 - 1
    save_strips(strips, path := tmp_path / "grid.png", ["a", "b"], ["1", "2", "3"])
    assert torch.equal(cells(path, 2, 3), to_uint8(strips).expand(-1, -1, 3, -1, -1))
    assert Image.open(path).size == (3 * 66 + 2, 2 * 66 + 2)
    assert [file.name for file in tmp_path.iterdir()] == ["grid.png"]
