"""The revision task: both chains, state by state, on energies with known chains."""

import json
import math
import sys

import pytest
import torch

from ebmzoo.data.images import to_float, to_uint8
from ebmzoo.errors import UserError
from ebmzoo.metrics import ClassifierFeatures, Pixels, extract, frechet_distance
from ebmzoo.report.scorecard import scorecard
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.tasks import Revision
from ebmzoo.tasks.revision import columns, image_paths, latent_paths
from support.generators import GeneratorOnly, Linear, orthogonal, quiet
from support.pictures import cells, labels, rows_and_columns
from support.tiny import TinyData


def test_energy_and_displacement_follow_the_law():
    """On E = |x|²/2 without noise x_k = (1 − η)ᵏ x₀: energies fall by (1 − η)²ᵏ and x_k − x₀ = ((1 − η)ᵏ − 1) x₀."""
    result = Revision(n=50, batch_size=20)(Linear(orthogonal(), Langevin(6, 0.1, noise=0.0)), TinyData())
    energy, displacement = result.curves["x/energy"], result.curves["x/displacement"]
    assert energy == pytest.approx([energy[0] * 0.9 ** (2 * k) for k in range(7)])
    rms = math.sqrt(2 * energy[0] / 64)
    assert displacement == pytest.approx([(1 - 0.9**k) * rms for k in range(7)])
    assert result.figures["x/energy_start"] == energy[0]
    assert result.figures["x/energy_end"] == energy[-1]
    assert result.figures["x/displacement"] == displacement[-1]
    assert (result.figures["x/nfe_start"], result.figures["x/nfe_end"]) == (1, 7)


def test_the_chain_starts_at_the_generator_and_ends_where_langevin_does():
    method = Linear(orthogonal(), Langevin(steps=4, step_size=0.1, noise=0.3))
    torch.manual_seed(5)
    paths = image_paths(method, 6, batch_size=6, shown=6)
    torch.manual_seed(5)
    with torch.no_grad():
        x0 = method.decode(torch.randn(6, method.latent))
    xK = method.sampler(method.energy, x0)
    assert len(paths.strips) == 5
    assert torch.equal(paths.strips[0], x0.float())
    assert torch.equal(paths.strips[-1], xK.float())
    assert paths.means("energy")[0] == pytest.approx(method.energy(x0).mean().item())
    assert paths.means("energy")[-1] == pytest.approx(method.energy(xK).mean().item())
    assert paths.means("square")[-1] == pytest.approx((xK - x0).square().mean().item())


def test_without_steps_start_and_end_are_equal():
    method = Linear(orthogonal(), Langevin(steps=0, step_size=0.1), posterior=quiet(0))
    result = Revision(n=20, extractors=[Pixels()])(method, TinyData())
    figures = result.figures
    for name in ("x/energy", "x/fd_pixels", "z/mse"):
        assert figures[f"{name}_start"] == figures[f"{name}_end"], name
    assert figures["x/displacement"] == 0
    assert (figures["x/nfe_end"], figures["z/nfe_end"]) == (1, 2)


def test_distances_are_those_of_both_ends():
    data, method = TinyData(n=64), Linear(orthogonal(), Langevin(3, 0.3, noise=0.0))
    torch.manual_seed(0)
    figures = Revision(n=40, extractors=[Pixels()], batch_size=40)(method, data).figures
    torch.manual_seed(0)
    with torch.no_grad():
        x0 = method.decode(torch.randn(40, method.latent)).float()
    real, _ = extract(Pixels(), data.train_set.images)
    for end, x in (("start", x0), ("end", 0.7**3 * x0)):
        law = frechet_distance(real, to_float(to_uint8(x)).flatten(1))
        assert figures[f"x/fd_pixels_{end}"] == pytest.approx(law, rel=1e-4)
    assert figures["x/fd_pixels_end"] != pytest.approx(figures["x/fd_pixels_start"], rel=1e-2)


def test_mse_of_the_latent_chain_follows_the_law():
    """From ẑ = A⁻¹x, with AᵀA = c²I and no noise, the error is (1 − κ)(1 − (1 − ηP)ᵏ) x: P = c²/σ² + 1, κ = 1 − 1/P."""
    c, sigma, eta, data = 0.2, 0.15, 0.1, TinyData()
    result = Revision(n=100, batch_size=5)(Linear(orthogonal(c), posterior=quiet(8, eta, sigma)), data)
    precision = c**2 / sigma**2 + 1
    power = data.test_set.float().square().mean().item()
    law = [((1 - (1 - eta * precision) ** k) / precision) ** 2 * power for k in range(9)]
    assert result.curves["z/mse"] == pytest.approx(law, rel=1e-5, abs=1e-12)
    assert result.figures["z/mse_end"] == result.curves["z/mse"][-1]
    assert (result.figures["z/nfe_start"], result.figures["z/nfe_end"]) == (2, 10)
    assert result.protocol["images"] == 16, "as many as there are"


def test_the_shown_latent_chains_are_the_first_images():
    data, method = TinyData(), Linear(orthogonal(), posterior=quiet(4))
    paths = latent_paths(method, data.test_set.images, batch_size=6, shown=3)
    torch.testing.assert_close(paths.strips[0], data.test_set.float(slice(3)), rtol=0, atol=1e-5)
    assert (len(paths.strips), len(paths.strips[-1])) == (5, 3)


@pytest.mark.parametrize(
    ("steps", "every", "chosen"),
    [
        (30, None, [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30]),  # the paper's
        (10, None, list(range(11))),
        (15, None, [0, 2, 4, 6, 8, 10, 12, 14, 15]),
        (5, 2, [0, 2, 4, 5]),
        (4, 9, [0, 4]),
        (0, None, [0]),
    ],
)
def test_columns_have_the_first_and_the_last(steps, every, chosen):
    assert columns(steps, every) == chosen


def test_columns_are_never_many():
    for steps in range(1, 500):
        chosen = columns(steps, None)
        assert len(chosen) <= 11, steps
        assert (chosen[0], chosen[-1]) == (0, steps)


def test_supported_methods():
    a, task, data = orthogonal(), Revision(n=10), TinyData()
    assert task.supports(Linear(a))
    assert task.supports(Linear(a, infers=False))
    assert not task.supports(GeneratorOnly(a))
    assert set(task(Linear(a, infers=False), data).curves) == {"x/energy", "x/displacement"}
    assert set(task(Linear(a), data).curves) == {"x/energy", "x/displacement", "z/mse"}


def test_a_missing_extractor_is_noted_and_skipped():
    task = Revision(n=10, extractors=[ClassifierFeatures("nowhere.ckpt"), Pixels()])
    assert "nowhere.ckpt" in task.missing()[0]
    result = task(Linear(orthogonal()), TinyData())
    assert result.notes == task.missing()
    assert {name for name in result.figures if "fd_" in name} == {"x/fd_pixels_start", "x/fd_pixels_end"}
    assert result.protocol["extractors"] == {"pixels": {"sha256": None, "features": 64}}


def test_a_chain_that_diverges_is_a_note(tmp_path):
    wild = Langevin(steps=3, step_size=1e150, noise=0.0)
    result = Revision(n=10)(Linear(orthogonal(), wild, posterior=quiet(3, 1e150)), TinyData(), tmp_path)
    assert [note.partition(":")[0] for note in result.notes] == ["x", "z"]
    assert all(math.isnan(value) for value in result.figures.values())
    stored = json.loads(result.write(tmp_path).read_text())
    assert set(stored["figures"].values()) == {None}
    assert result.pictures == []
    assert "! x: the state of the Langevin chain became" in scorecard(tmp_path, ["revision"])


def test_file_pictures_and_table(tmp_path):
    from PIL import Image

    method = Linear(orthogonal(), Langevin(15, 0.1, noise=0.01))
    result = Revision(n=12, extractors=[Pixels()], shown=3)(method, TinyData(), tmp_path)
    assert result.pictures == [str(tmp_path / f"{name}.png") for name in ("revision_x", "revision_z", "revision")]
    steps = [f"step {k}" for k in (0, 2, 4, 6, 8, 10, 12, 14, 15)]
    assert cells(result.pictures[0], 3, 9).shape[:2] == (3, 9)
    assert rows_and_columns(result.pictures[0], 3) == (["chain 1", "chain 2", "chain 3"], steps)
    assert cells(result.pictures[1], 3, 12).shape[:2] == (3, 12), "the image, then 11 states"
    rows, columns = rows_and_columns(result.pictures[1], 3)
    assert rows == ["image 1", "image 2", "image 3"]
    assert columns[:2] == ["x", "step 0"]
    assert {"mean energy E(x)", "MSE of G(z) against x in [-1, 1]", "Langevin step"} <= set(labels(result.pictures[2]))
    assert Image.open(result.pictures[2]).size[0] > 500
    stored = json.loads(result.write(tmp_path).read_text())
    assert stored["curves"] == result.curves
    assert len(stored["curves"]["x/energy"]) == 16
    text = scorecard(tmp_path, ["revision"])
    assert "n = 12; 32 real images of train; 15 Langevin steps from generator at temperature 0.0005" in text
    assert "16 test images" not in text
    assert "12 test images of tiny; MSE in units of [-1, 1]; latent chain of 10 steps" in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}
    assert rows["start"] == ["end"]
    assert rows["x/nfe"] == ["1", "16"]
    assert len(rows["x/energy"]) == len(rows["z/mse"]) == 2
    assert rows["x/displacement"][0] == "–"


def test_without_a_folder_nothing_is_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Revision(n=10)(Linear(orthogonal()), TinyData()).pictures == []
    assert list(tmp_path.iterdir()) == []


def test_no_plot_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = Revision(n=10)(Linear(orthogonal()), TinyData(), tmp_path)
    assert "matplotlib" in result.notes[0]
    assert len(result.pictures) == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n": 0}, r"revision\.n is 0; it must be 1"),
        ({"n": 1, "extractors": [Pixels()]}, r"revision\.n is 1; it must be 2"),
        ({"shown": 0}, r"revision\.shown is 0"),
        ({"every": 0}, r"revision\.every is 0"),
        ({"batch_size": 0}, r"revision\.batch_size is 0"),
    ],
)
def test_impossible_settings_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        Revision(**wrong)
