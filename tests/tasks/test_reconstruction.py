"""Pixel fidelity by its formulas, and reconstruction by a linear generator with a known posterior."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn.functional import pad

from ebmzoo.data.image_range import ImageRange
from ebmzoo.errors import UserError
from ebmzoo.metrics import fidelity, mean_squared_error, ssim_window
from ebmzoo.report.scorecard import scorecard
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.posterior import PosteriorSampler
from ebmzoo.tasks import Interpolation, Reconstruction, Revision
from support.generators import GeneratorOnly, Linear, orthogonal, quiet
from support.pictures import rows_and_columns
from support.tiny import TinyData, trainer

SIGNED, UNIT = ImageRange(-1, 1), ImageRange(0, 1)


def pictures(n=3, size=16, seed=0, channels=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, size, size, generator=generator, dtype=torch.float64) * 2 - 1


# ── fidelity ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_image_against_itself_is_perfect():
    x = pictures()
    found = fidelity(x, x, SIGNED)
    assert torch.equal(found["mse"], torch.zeros(3, dtype=torch.float64))
    assert (found["psnr"] == math.inf).all()
    torch.testing.assert_close(found["ssim"], torch.ones(3, dtype=torch.float64))


def test_range_is_the_unit_of_mse_alone():
    x, y = pictures(), pictures(seed=1)
    signed, unit = fidelity(y, x, SIGNED), fidelity(y, x, UNIT)
    torch.testing.assert_close(signed["mse"], 4 * unit["mse"])
    torch.testing.assert_close(signed["mse"], (y - x).square().mean((1, 2, 3)))
    assert torch.equal(signed["psnr"], unit["psnr"])
    assert torch.equal(signed["ssim"], unit["ssim"])


@pytest.mark.parametrize("image_range", [SIGNED, UNIT, ImageRange(0, 255)])
def test_psnr_of_a_constant_error(image_range):
    """PSNR = 10 log₁₀(range²/MSE), whatever the range: an error of a tenth of it is 20 dB."""
    x = pictures() * 0.5
    found = fidelity(x + 0.2, x, image_range)
    torch.testing.assert_close(found["psnr"], torch.full((3,), 20.0, dtype=torch.float64), rtol=1e-6, atol=0)
    width = image_range.high - image_range.low
    torch.testing.assert_close(found["mse"], torch.full((3,), 0.01 * width**2, dtype=torch.float64))


def test_psnr_is_the_mean_over_images_not_of_the_mean_error():
    x = pictures(2) * 0.5
    errors = torch.tensor([0.2, 0.02], dtype=torch.float64).view(2, 1, 1, 1)
    torch.testing.assert_close(
        fidelity(x + errors, x, SIGNED)["psnr"], torch.tensor([20.0, 40.0], dtype=torch.float64), rtol=1e-6, atol=0
    )


def test_ssim_of_constant_images():
    """Without variance only the luminance remains: (2ab + C₁)/(a² + b² + C₁) for intensities from 0 to 1."""
    a, b = 0.8, 0.3
    x, y = (torch.full((1, 1, 12, 12), 2 * v - 1, dtype=torch.float64) for v in (a, b))
    law = (2 * a * b + 1e-4) / (a**2 + b**2 + 1e-4)
    assert fidelity(y, x, SIGNED)["ssim"].item() == pytest.approx(law, rel=1e-9)


@pytest.mark.parametrize(("size", "window"), [(3, 3), (4, 3), (8, 7), (10, 9), (11, 11), (12, 11), (32, 11)])
def test_ssim_window_is_the_largest_that_fits(size, window):
    assert ssim_window(size, size) == ssim_window(size, 64) == window
    x, y = pictures(2, size), pictures(2, size, seed=1)
    torch.testing.assert_close(fidelity(y, x, SIGNED)["ssim"], ssim_by_hand((x + 1) / 2, (y + 1) / 2, window))


def ssim_by_hand(x, y, window):
    """Wang et al., 2004 (Eq. 13), with the images mirrored at their borders."""
    radius = (window - 1) // 2
    line = torch.exp(-(torch.arange(-radius, radius + 1).double() ** 2) / (2 * (1.5 * radius / 5) ** 2))
    weights = torch.outer(line, line) / line.sum() ** 2

    def mean(image):
        patches = pad(image, [radius] * 4, mode="reflect").unfold(2, window, 1).unfold(3, window, 1)
        return (patches * weights).sum((-1, -2))

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    values = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    return values.mean((1, 2, 3))


def test_what_leaves_the_range_is_clamped():
    x = torch.ones(1, 1, 8, 8)
    assert fidelity(x * 3, x, SIGNED)["mse"].item() == mean_squared_error(x * 3, x).item() == 0


def test_autocast_does_not_round_what_is_measured():
    x, y = pictures().float(), pictures(seed=1).float()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = fidelity(y, x, SIGNED)
    assert all(torch.equal(value, rounded[name]) for name, value in fidelity(y, x, SIGNED).items())


def test_images_that_cannot_be_measured_are_refused():
    with pytest.raises(UserError, match="2×5"):
        ssim_window(2, 5)
    with pytest.raises(UserError, match="cannot be compared"):
        fidelity(pictures(2), pictures(3), SIGNED)


# ── the task ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_exact_inference_reconstructs_exactly(tmp_path):
    result = Reconstruction(steps=())(Linear(orthogonal()), TinyData())
    assert result.figures["inference/mse"] == pytest.approx(0, abs=1e-12)
    assert result.figures["inference/psnr"] > 100
    assert result.figures["inference/ssim"] == pytest.approx(1, abs=1e-6)
    assert result.figures["inference/nfe"] == 2
    assert result.pictures == []


def test_rows_follow_the_law_of_the_posterior():
    """Without noise z_k = κẑ + (1 − ηP)ᵏ (z₀ − κẑ), with P = c²/σ² + 1, κ = (P − 1)/P and ẑ = A⁻¹x, for AᵀA = c²I."""
    data, c, sigma, eta = TinyData(), 0.2, 0.15, 0.1
    method = Linear(orthogonal(c), posterior=quiet(10, eta, sigma))
    task = Reconstruction(steps=(5, 2), noise_steps=(1, 12))
    figures = task(method, data).figures
    torch.manual_seed(1)
    from_noise = task(Linear(orthogonal(c), posterior=quiet(10, eta, sigma), infers=False), data).figures
    torch.manual_seed(1)
    noise = torch.randn(16, method.latent)
    x = data.test_set.float().double()
    z_hat, precision = method.infer(x), c**2 / sigma**2 + 1
    kappa = (precision - 1) / precision
    for row, z0, k, found in (
        ("inference+2", z_hat, 2, figures),
        ("inference+5", z_hat, 5, figures),
        ("noise+1", noise, 1, from_noise),
        ("noise+12", noise, 12, from_noise),
    ):
        z = kappa * z_hat + (1 - eta * precision) ** k * (z0 - kappa * z_hat)
        law = mean_squared_error(method.decode(z), x).mean().item()
        assert found[f"{row}/mse"] == pytest.approx(law, rel=1e-5), row
    rows = ["inference", "inference+2", "inference+5", "noise+1", "noise+12"]
    assert list(dict.fromkeys(name.rpartition("/")[0] for name in figures)) == rows
    assert [figures[f"{row}/nfe"] for row in rows] == [2, 4, 7, 2, 13]
    assert method.a.requires_grad, "frozen for the chain alone"


def test_one_chain_is_read_at_every_length():
    method = Linear(orthogonal())
    Reconstruction(n=16, steps=(2, 5, 3), batch_size=8)(method, TinyData())
    assert method.decoded == [8] * 5 * 2, "two batches of 5 latent steps, the longest"


def test_batches_change_nothing():
    data = TinyData()
    whole = Reconstruction(steps=(4,))(Linear(orthogonal()), data)
    parts = Reconstruction(steps=(4,), batch_size=5)(Linear(orthogonal()), data)
    for metric in ("mse", "psnr", "ssim"):
        assert parts.figures[f"inference+4/{metric}"] == pytest.approx(whole.figures[f"inference+4/{metric}"])


def test_the_chain_is_the_task_s_or_the_method_s():
    data, method = TinyData(), Linear(orthogonal(), posterior=quiet(7, 0.02, 0.25))
    protocol = Reconstruction(steps=(4, 2))(method, data).protocol
    assert protocol["latent_chain"] == {
        "steps": [2, 4],
        "sigma": 0.25,
        "step_size": 0.02,
        "noise": 0.0,
        "temperature": 0.0,
        "of_method": True,
    }
    legacy = PosteriorSampler(sigma=0.3, legacy_sigma=True)
    protocol = Reconstruction(posterior=legacy)(method, data).protocol["latent_chain"]
    assert protocol["sigma"] == pytest.approx(0.3 / math.sqrt(2)), "the σ of the chain's energy"
    assert protocol["temperature"] == pytest.approx(1)
    assert not protocol["of_method"]


def test_a_chain_that_diverges_leaves_a_note_and_its_later_rows_empty(tmp_path):
    wild = PosteriorSampler(Langevin(steps=1, step_size=1e150, noise=0.0))
    result = Reconstruction(steps=(1, 3), posterior=wild, batch_size=8)(Linear(orthogonal()), TinyData(), tmp_path)
    assert result.figures["inference/mse"] == pytest.approx(0, abs=1e-12)
    assert math.isfinite(result.figures["inference+1/mse"])
    assert all(math.isnan(result.figures[f"inference+3/{metric}"]) for metric in ("mse", "psnr", "ssim", "seconds"))
    assert len(result.notes) == 1, "reported once, not once per batch"
    assert result.notes[0].startswith("inference+3: the state of the Langevin chain became infinite or NaN")
    stored = json.loads(result.write(tmp_path).read_text())
    assert stored["figures"]["inference+3/mse"] is None


def test_supported_methods():
    a = orthogonal()
    assert Reconstruction().supports(Linear(a))
    assert not Reconstruction().supports(Linear(a, infers=False))
    assert not Reconstruction().supports(GeneratorOnly(a))
    from_noise = Reconstruction(noise_steps=(3,))
    assert from_noise.supports(Linear(a, infers=False))
    assert from_noise.supports(GeneratorOnly(a))
    result = from_noise(GeneratorOnly(a), TinyData())
    assert {name.partition("/")[0] for name in result.figures} == {"noise+3"}
    assert not result.protocol["latent_chain"]["of_method"]
    assert {name.partition("/")[0] for name in from_noise(Linear(a, infers=False), TinyData()).figures} == {"noise+3"}


def test_file_picture_and_table(tmp_path):
    result = Reconstruction(steps=(10,), image_range=(0, 1))(Linear(orthogonal()), TinyData(), tmp_path)
    assert result.pictures == [str(tmp_path / "reconstruction.png")]
    columns = [f"image {i}" for i in range(1, 9)]
    assert rows_and_columns(result.pictures[0], 3) == (["x", "inference", "inference+10"], columns)
    stored = json.loads(result.write(tmp_path).read_text())
    assert stored["figures"]["inference+10/mse"] == result.figures["inference+10/mse"]
    text = scorecard(tmp_path, ["reconstruction"])
    assert "16 test images of tiny; MSE in units of [0, 1]; SSIM window 7" in text
    assert "latent chain of 10 steps, σ = 0.3, temperature 0, the method's" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["mse", "psnr", "ssim", "nfe", "seconds"] in lines
    assert [line[0] for line in lines if line[0].startswith("inference")] == ["inference", "inference+10"]


@pytest.mark.parametrize("inference_mode", [False, True])
def test_the_three_tasks_under_a_trainer(tmp_path, inference_mode):
    tasks = [Reconstruction(noise_steps=(2,)), Interpolation(steps=None), Revision(n=10)]
    method = Linear(orthogonal(), posterior=PosteriorSampler())
    test = trainer(tmp_path, callbacks=tasks, inference_mode=inference_mode)
    test.test(method, TinyData(), verbose=False)
    for task in tasks:
        stored = json.loads((tmp_path / "test" / f"{task.name}.json").read_text())
        assert stored["notes"] == []
        assert all(Path(picture).exists() for picture in stored["pictures"])
        for name, value in stored["figures"].items():
            assert float(test.callback_metrics[f"test/{task.name}/{name}"]) == pytest.approx(value), name
        assert stored["protocol"]["weights"] == "ema"
    assert "latent chain of 2, 10 steps, σ = 0.3, temperature 1" in scorecard(tmp_path / "test", ["reconstruction"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n": 0}, r"reconstruction\.n is 0"),
        ({"steps": (0,)}, r"reconstruction\.steps is \[0\]"),
        ({"noise_steps": (5, -1)}, r"reconstruction\.noise_steps is \[5, -1\]"),
        ({"batch_size": 0}, r"reconstruction\.batch_size is 0"),
        ({"shown": 0}, r"reconstruction\.shown is 0"),
        ({"image_range": (1, 0)}, r"image_range is \[1, 0\]"),
    ],
)
def test_impossible_settings_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        Reconstruction(**wrong)
