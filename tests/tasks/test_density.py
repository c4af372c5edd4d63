"""The density task on energies and samplers with known results, and points of the plane with the commands."""

import json
import math

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from ebmzoo.commands.cli import main
from ebmzoo.data import Checkerboard, GaussianMixture
from ebmzoo.energy import EnergyNet
from ebmzoo.errors import UserError
from ebmzoo.methods import Method, Samples
from ebmzoo.methods.base.capabilities import HasLevels
from ebmzoo.methods.baselines import ShortRunEBM
from ebmzoo.sampling.langevin import ChainDivergedError, Langevin
from ebmzoo.sampling.noise_schedule import CosineSchedule
from ebmzoo.tasks import Density, OutOfDistributionDetection
from ebmzoo.training.callbacks import SampleGrid
from support.tiny import TinyData, trainer, without_latent

SMALL = {"n_train": 64, "n_test": 32, "batch_size": 16}


class PointEnergy(EnergyNet):
    """A small energy of points on the plane, for use in a config."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, 1))

    def forward(self, x):
        return self.net(x)[:, 0]


class Known(Method):
    """An energy that is a function of points `(B, 2)`, and samples that cycle through the points passed."""

    def __init__(self, energy, points=None):
        super().__init__()
        self.averages, self.weight = nn.ModuleDict(), nn.Parameter(torch.zeros(1))
        self.of_points, self.points = energy, torch.zeros(1, 2) if points is None else points
        self.batches = []

    def trained_networks(self):
        return {}

    def iterate(self, images, labels):
        return {}

    def energy(self, x):
        return self.of_points(x.flatten(1))

    def sample(self, n, *, labels=None, steps=None, generator=None):
        first = sum(self.batches)
        self.batches.append(n)
        chosen = self.points[torch.arange(first, first + n) % len(self.points)]
        return Samples(chosen[:, :, None, None], 5, "noise", 5, 1.0)


class KnownLevels(Known, HasLevels):
    """At each level the energy is −log p of `data` there, as though the level were `shift` higher."""

    def __init__(self, data, shift=0):
        super().__init__(lambda points: self.energy_at(points, 0))
        self.schedule, self.data, self.shift = CosineSchedule(levels=3), data, shift

    def energy_at(self, x, level):
        noise = [float(table[level + self.shift]) for table in (self.schedule.alpha_bar, self.schedule.sigma_bar)]
        return -self.data.density(x.flatten(1), *noise).log()

    def trajectory(self, n, *, generator=None):
        return [torch.full((n, 2, 1, 1), float(level)) for level in (3, 2, 1, 0)]


def minus_log(data):
    return lambda points: -data.density(points).log()


def of(method, data=None, **changes):
    data = Checkerboard(**SMALL) if data is None else data
    return Density(**{"cells": 50, "n": 64, "batch_size": 1000} | changes)(method, data).figures


def test_the_energy_of_the_board_itself_is_exact():
    found = of(Known(minus_log(Checkerboard())))
    assert found["total_variation"] < 1e-9
    assert found["black_mass"] == pytest.approx(1, abs=1e-9)
    assert found["truth/black_mass"] == pytest.approx(1, abs=1e-9)
    assert found["outside"] < 1e-9
    assert not any(name.startswith("level_") for name in found)


@pytest.mark.parametrize("cells", [50, 49])
def test_a_constant_energy_has_the_distance_of_the_areas(cells):
    # mass 1/6.25 for each unit of area on [−1.25, 1.25]², of which 2 are black
    found = of(Known(lambda points: torch.full((len(points),), 1e4)), cells=cells)
    assert found["black_mass"] == pytest.approx(2 / 6.25, abs=1e-9)
    if cells == 50:  # cells that the board's lines cross are grey in the exact density
        assert found["total_variation"] == pytest.approx(1 - 2 / 6.25, abs=1e-9)


def test_a_board_of_the_other_colour_is_wrong_everywhere():
    mirrored = minus_log(Checkerboard())
    found = of(Known(lambda points: mirrored(points * torch.tensor([-1.0, 1.0]))))
    assert found["total_variation"] == pytest.approx(1, abs=1e-9)
    assert found["black_mass"] < 1e-9


def test_the_error_of_the_midpoints_falls_with_the_square_of_a_cell():
    # asymmetric, so that x and y, left and right cannot be confused
    data = GaussianMixture(components=3, radius=0.7, std=0.15, **SMALL)
    coarse, fine = (of(Known(minus_log(data)), data, cells=cells)["total_variation"] for cells in (40, 80))
    assert coarse < 0.01
    assert coarse / fine == pytest.approx(4, rel=0.05)
    turned = of(Known(lambda points: minus_log(data)(points.flip(1))), data)
    assert turned["total_variation"] > 0.5
    assert not any("black" in name for name in turned)


def test_a_wrong_temperature_is_detected():
    data = GaussianMixture(components=1, radius=0.0, std=0.1, **SMALL)
    found = of(Known(lambda points: 2 * minus_log(data)(points)), data, cells=100)["total_variation"]
    # of N(0, s²I) and N(0, s²I/2): r² = 2 s² log 2 is where they cross, so e^{−log 2} − e^{−2 log 2}
    assert found == pytest.approx(0.25, abs=2e-3)


def test_each_level_is_compared_with_its_own_density():
    data = GaussianMixture(components=3, radius=0.7, std=0.15, **SMALL)
    right, wrong = of(KnownLevels(data), data, cells=80), of(KnownLevels(data, shift=1), data, cells=80)
    for level in range(3):
        assert right[f"level_{level}/total_variation"] < 5e-3
        assert wrong[f"level_{level}/total_variation"] > 0.05
        assert right[f"level_{level}/outside"] < 1e-3
    assert "level_3/total_variation" not in right
    assert right["total_variation"] == right["level_0/total_variation"]
    assert right["outside"] == right["level_0/outside"]


def test_black_mass_is_beside_that_of_the_truth_at_its_level():
    data = Checkerboard(**SMALL)
    found = of(KnownLevels(data), cells=200)
    blurred = float(KnownLevels(data).schedule.sigma_bar[0])
    # E[ε⁺] σ̄ of what is within goes over each of a square's four edges, where there is no other black
    expected = 1 - 4 * blurred / math.sqrt(2 * math.pi) / data.side
    assert found["truth/black_mass"] == pytest.approx(expected, abs=2e-3)
    assert found["black_mass"] == pytest.approx(found["truth/black_mass"], abs=5e-3)


def bins(data):
    """The midpoints of the histogram's bins that are black."""
    axis = torch.linspace(-1, 1, 17)[:-1] + 1 / 16
    points = torch.cartesian_prod(axis, axis)
    return points[data.black(points)]


def test_samples_are_compared_with_exact_masses_and_with_chance():
    data = Checkerboard(**SMALL)
    flat = minus_log(data)
    even = bins(data)
    assert len(even) == 128
    method = Known(flat, even)
    found = of(method, n=256, batch_size=100)
    assert method.batches == [100, 100, 56]
    assert (found["samples/black"], found["real/black"], found["nfe"]) == (1, 1, 5)
    assert found["samples/total_variation"] < 1e-9
    assert 0.1 < found["real/total_variation"] < 0.5, "256 points in 128 bins"
    for points, black, distance in (
        (even[:1], 1, 1 - 1 / 128),
        (even * torch.tensor([-1.0, 1.0]), 0, 1),
        (torch.tensor([[9.0, 0.0], [math.nan, 0.1]]), 0, 1),
        (torch.cat([even[:64], torch.full((64, 2), -7.0)]), 0.5, 0.5),
    ):
        found = of(Known(flat, points), n=128)
        assert found["samples/black"] == black
        assert found["samples/total_variation"] == pytest.approx(distance, abs=1e-9)


def test_an_energy_that_is_no_density_is_not_compared_with_one(tmp_path):
    class Ordering(Known):
        @property
        def has_density(self):
            return False

    data = Checkerboard(**SMALL)
    found = Density(cells=50, n=128)(Ordering(minus_log(data), bins(data)), data, tmp_path)
    assert found.figures["samples/total_variation"] < 1e-9
    assert not {"total_variation", "black_mass", "truth/black_mass", "outside"} & set(found.figures)
    assert found.notes == []


def test_bins_of_samples_are_those_of_the_masses():
    # asymmetric, since the board looks the same with x and y exchanged
    data = GaussianMixture(components=3, radius=0.7, std=0.15, **SMALL)
    points = data.draw(2000, torch.Generator().manual_seed(5)).points
    right, wrong = (of(Known(minus_log(data), p), data, n=2000) for p in (points, points.flip(1)))
    assert right["samples/total_variation"] == pytest.approx(right["real/total_variation"], abs=0.05)
    assert right["samples/total_variation"] < 0.2
    assert wrong["samples/total_variation"] > 0.5


def test_the_real_points_are_repeatable():
    torch.manual_seed(3)
    first = of(Known(minus_log(Checkerboard())))["real/total_variation"]
    torch.manual_seed(3)
    assert of(Known(minus_log(Checkerboard())))["real/total_variation"] == first


def test_a_chain_that_diverges_leaves_the_density(tmp_path):
    class Diverging(Known):
        def sample(self, n, **_):
            raise ChainDivergedError("the chain diverged at step 3")

    result = Density(cells=20, n=16)(Diverging(minus_log(Checkerboard())), Checkerboard(**SMALL), tmp_path)
    assert result.notes == ["samples: the chain diverged at step 3"]
    assert math.isnan(result.figures["samples/black"])
    assert math.isnan(result.figures["samples/total_variation"])
    assert result.figures["real/black"] == 1
    assert result.figures["black_mass"] == pytest.approx(1)
    assert (tmp_path / "density.png").exists()


def test_the_picture_has_a_column_for_each_level_from_the_top(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("ebmzoo.tasks.density.save_densities", lambda columns, path: drawn.extend(columns))
    data = Checkerboard(**SMALL)
    result = Density(cells=20, n=16)(KnownLevels(data), data, tmp_path)
    assert result.pictures == [str(tmp_path / "density.png")]
    assert [panels.title for panels in drawn] == ["level 3", "level 2", "level 1", "level 0"]
    assert [float(panels.samples.mean()) for panels in drawn] == [3, 2, 1, 0]
    assert [panels.fitted is None for panels in drawn] == [True, False, False, False]
    assert drawn[-1].half_width == data.extent < drawn[0].half_width
    monkeypatch.undo()
    heights = []
    for method in (KnownLevels(data), Known(minus_log(data))):
        Density(cells=20, n=16)(method, data, tmp_path)
        with Image.open(tmp_path / "density.png") as picture:
            heights.append(picture.size)
    assert heights[0][0] > 3 * heights[1][0]
    assert heights[0][1] == heights[1][1]


def test_without_matplotlib_the_figures_stay(tmp_path, monkeypatch):
    def missing(columns, path):
        raise UserError("the plot needs matplotlib: pip install 'ebmzoo[all]'")

    monkeypatch.setattr("ebmzoo.tasks.density.save_densities", missing)
    result = Density(cells=20, n=16)(Known(minus_log(Checkerboard())), Checkerboard(**SMALL), tmp_path)
    assert result.notes == ["density.png: the plot needs matplotlib: pip install 'ebmzoo[all]'"]
    assert result.pictures == []
    assert result.figures["black_mass"] == pytest.approx(1)


@pytest.mark.parametrize("arguments", [{"cells": 0}, {"n": 0}, {"steps": -1}, {"batch_size": 0}])
def test_impossible_numbers_are_named(arguments):
    with pytest.raises(UserError, match=rf"density\.{next(iter(arguments))} is"):
        Density(**arguments)


def short_run():
    torch.manual_seed(0)
    return ShortRunEBM(PointEnergy(), Langevin(steps=2, step_size=0.01, noise=0.05), in_channels=2, size=1)


def test_a_task_runs_only_on_its_kind_of_data(tmp_path):
    tasks = [Density(cells=10, n=8), OutOfDistributionDetection(n=4)]
    for name, method, data in (
        ("density", short_run(), Checkerboard(**SMALL)),
        ("ood", without_latent(), TinyData()),
    ):
        trainer(tmp_path / name, callbacks=tasks).test(method, data, verbose=False)
        assert [path.name for path in (tmp_path / name / "test").glob("*.json")] == [f"{name}.json"]


def test_points_are_drawn_as_points_while_training(tmp_path, monkeypatch):
    def fit(folder):
        trainer(folder, callbacks=[SampleGrid(every_n_steps=2)]).fit(short_run(), Checkerboard(**SMALL))
        return sorted((folder / "samples").glob("*.png"))

    assert [path.name for path in fit(tmp_path / "with")] == ["step_0000002.png", "step_0000004.png"]
    with Image.open(tmp_path / "with" / "samples" / "step_0000004.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape[2] == 3
    assert pixels.shape[0] == pixels.shape[1] > 100
    assert 0.02 < (pixels < 128).mean() < 0.9, "neither empty nor black"
    monkeypatch.setattr("ebmzoo.training.callbacks.find_spec", lambda name: None)
    assert fit(tmp_path / "without") == []


def test_the_commands_take_points(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    model = {
        "energy_net": {"class_path": "test_density.PointEnergy"},
        "sampler": {"steps": 2, "step_size": 0.01, "noise": 0.05},
        "in_channels": 2,
        "size": 1,
    }
    config = {
        "run_dir": str(tmp_path / "run"),
        "grid_every": 0,
        "model": {"class_path": "ebmzoo.methods.baselines.ShortRunEBM", "init_args": model},
        "data": {"class_path": "ebmzoo.data.Checkerboard", "init_args": SMALL},
        "tasks": [{"class_path": "ebmzoo.tasks.Density", "init_args": {"cells": 10, "n": 20}}],
        "trainer": {"max_epochs": 1, "enable_progress_bar": False, "accelerator": "cpu"},
    }
    (tmp_path / "plane.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(tmp_path / "plane.yaml")])
    checkpoint = str(tmp_path / "run" / "last.ckpt")
    foreign = ["--trust", "true"]  # the network is defined in this file
    main(["test", "--ckpt_path", checkpoint, *foreign])
    output = capsys.readouterr().out
    assert "total_variation" in output
    figures = json.loads((tmp_path / "run" / "test" / "density.json").read_text())["figures"]
    assert set(figures) >= {"total_variation", "black_mass", "truth/black_mass", "samples/black", "real/black", "nfe"}
    assert (tmp_path / "run" / "test" / "density.png").exists()
    main(["predict", "--ckpt_path", checkpoint, *foreign])
    assert np.load(tmp_path / "run" / "predictions.npz")["energy"].shape == (32,)
    for out in ("points.npz", "points.png"):
        main(["sample", "--ckpt_path", checkpoint, "--n", "7", "--out", str(tmp_path / out), *foreign])
    points = np.load(tmp_path / "points.npz")["points"]
    assert points.shape == (7, 2)
    assert len(np.unique(np.round(points * 127.5 % 1, 3))) > 2, "not rounded to a picture's values"
    with Image.open(tmp_path / "points.png") as picture:
        assert picture.size[0] > 100
    with pytest.raises(SystemExit):
        main(["sample", "--ckpt_path", checkpoint, "--out", str(tmp_path / "folder"), *foreign])
    assert "two-dimensional points are written to a .png" in capsys.readouterr().err
