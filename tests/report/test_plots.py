"""Every plot names its axes and what is drawn, as PNG, SVG and PDF."""

import sys

import pytest
import torch

from ebmzoo.errors import UserError
from ebmzoo.report.comparison.curves import draw_curves
from ebmzoo.report.histograms import histogram, save_histograms
from ebmzoo.report.plots import Panel, Panels, save_confusion, save_densities, save_lines, save_scatter
from support.pictures import labels

GRID, POINTS = torch.rand(4, 4, generator=torch.Generator().manual_seed(0)), torch.rand(9, 2) * 2 - 1


def lines(path):
    panel = Panel("mean energy E(x)", {"100 chains": ([0, 1, 10, 100], [4, 3, 2, 1])}, {"real images": 2.5}, "a title")
    save_lines([panel, Panel("FD pixels", {"samples": ([0, 10], [2, 1])})], "Langevin step", path, log=True)


def scatter(path, k=12):
    save_scatter(torch.rand(60, 2), torch.arange(60) % k, [f"class {i}" for i in range(k)], "features", path)


def histograms(path):
    counted = histogram({"in": [0.0, 1.0, 2.0], "out": [1.0, 3.0]}, bins=4)
    save_histograms({"energy: AUROC 0.9": counted}, path, {"in": "digits", "out": "uniform"})


def curves(path):
    folder = path.parent / "run" / "csv" / "version_0"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.csv").write_text("step,train/energy_gap\n1,5.0\n2,4.0\n")
    draw_curves([path.parent / "run"], ["train/energy_gap"], path)


def densities(path):
    blank = Panels("level 1", 2.0, POINTS, None, GRID, None)
    save_densities([blank, Panels("level 0", 1.5, POINTS, GRID, GRID, POINTS)], path)


DRAWN = {
    lines: {"mean energy E(x)", "FD pixels", "Langevin step", "100 chains", "samples", "real images", "a title"},
    scatter: {"features", "first coordinate, no unit", "second coordinate, no unit", "class", "class 0", "class 11"},
    lambda path: scatter(path, 100): {"class, by its index", "features"},
    lambda path: save_confusion(GRID, ["a", "b", "c", "d"], "samples", path): {
        "predicted class",
        "requested class",
        "share of the class's samples",
        *("a", "b", "c", "d"),
    },
    densities: {
        *("level 1", "level 0", "data", "fitted", "exact", "samples", "x₁", "x₂", "−1.5", "1.5"),
        "probability of a cell",
    },
    histograms: {"energy: AUROC 0.9", "score, higher is farther out", "density", "digits", "uniform"},
    curves: {"train/energy_gap", "iteration", "energy gap, running mean", "run"},
}


@pytest.mark.parametrize("draw", DRAWN)
def test_axes_and_legend_are_text_in_the_vector_files(tmp_path, draw):
    draw(tmp_path / "plot.png")
    assert {file.name for file in tmp_path.glob("plot.*")} == {f"plot.{kind}" for kind in ("png", "svg", "pdf")}
    assert not DRAWN[draw] - {line for text in labels(tmp_path / "plot.png") for line in text.split("\n")}
    assert b"/Type3" not in (tmp_path / "plot.pdf").read_bytes(), "publishers refuse Type 3 fonts"


def test_a_logarithmic_axis_of_steps_begins_at_its_first_step(tmp_path):
    lines(tmp_path / "plot.png")
    assert not [text for text in labels(tmp_path / "plot.png") if text.startswith("−10")]


def test_a_plot_may_be_asked_for_as_a_vector(tmp_path):
    curves(tmp_path / "plot.pdf")
    assert sorted(file.name for file in tmp_path.glob("plot.*")) == ["plot.pdf", "plot.svg"]


def test_a_plot_is_laid_out_once_for_all_its_files(tmp_path, monkeypatch):
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    calls, execute = [], ConstrainedLayoutEngine.execute
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda *args: (calls.append(1), execute(*args))[1])
    scatter(tmp_path / "plot.png")
    assert len(list(tmp_path.glob("plot.*"))) == 3
    assert len(calls) == 1


@pytest.mark.parametrize("draw", DRAWN)
def test_without_matplotlib_a_sentence_says_how_to_install_it(tmp_path, monkeypatch, draw):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match="the plot needs matplotlib: pip install"):
        draw(tmp_path / "plot.png")
