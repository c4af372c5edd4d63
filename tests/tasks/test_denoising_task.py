"""The denoising task, on methods that return exact functions of the clean and the noisy image."""

import json
import math
from dataclasses import replace

import pytest
import torch

from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import Denoises
from ebmzoo.report.scorecard import scorecard
from ebmzoo.tasks import Denoising
from support.oracle import Oracle
from support.pictures import cells, rows_and_columns
from support.tiny import TinyData

SIGMAS = (0.05, 0.1)


class Grey(TinyData):
    """Images in the middle of [-1, 1], so that noise of SIGMAS stays within the range."""

    def load(self):
        pixels = torch.randint(80, 176, (2, 16, 1, 8, 8), generator=torch.Generator().manual_seed(5)).byte()
        return tuple(replace(split.take(slice(16)), images=x) for split, x in zip(super().load(), pixels, strict=True))


class Knowing(Oracle, Denoises):
    """A method that knows the clean images x, and keeps the fraction `keeps(i)` of the noise of image i."""

    def __init__(self, data, keeps):
        super().__init__(data.train_set.float())
        self.clean = data.test_set.float()
        self.kept = torch.tensor([float(keeps(i)) for i in range(len(self.clean))])
        self.seen = {}

    def denoise(self, x, sigma):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.seen.setdefault(sigma, []).append(x)
        which = torch.cdist(x.flatten(1), self.clean.flatten(1)).argmin(1)
        kept, clean = self.kept[which][:, None, None, None], self.clean[which]
        return torch.where(kept == 1, x, clean + kept * (x - clean))


def evaluate(keeps, folder=None, **changes):
    data = Grey()
    method = Knowing(data, keeps)
    torch.manual_seed(0)
    return Denoising(**{"sigmas": SIGMAS, "batch_size": 6} | changes)(method, data, folder), method


def test_the_identity_gains_nothing():
    result, _ = evaluate(lambda i: 1)
    for row in ("sigma=0.05", "sigma=0.1"):
        assert result.figures[f"{row}/gain"] == 0
        for metric in ("mse", "psnr", "ssim"):
            assert result.figures[f"{row}/{metric}"] == result.figures[f"{row}/{metric}_noisy"]
    assert result.notes == []


def test_half_the_noise_gains_six_decibels():
    figures = evaluate(lambda i: 0.5)[0].figures
    for row in ("sigma=0.05", "sigma=0.1"):
        assert figures[f"{row}/gain"] == pytest.approx(20 * math.log10(2), abs=1e-3)
        assert figures[f"{row}/psnr"] - figures[f"{row}/psnr_noisy"] == pytest.approx(20 * math.log10(2), abs=1e-3)
        assert figures[f"{row}/mse_noisy"] / figures[f"{row}/mse"] == pytest.approx(4, rel=1e-4)
        assert figures[f"{row}/ssim_noisy"] < figures[f"{row}/ssim"] < 1


def test_noise_has_the_requested_size_and_is_the_same_for_all_sigmas():
    result, method = evaluate(lambda i: 1)
    eps = {sigma: (torch.cat(method.seen[sigma]) - method.clean) / sigma for sigma in SIGMAS}
    torch.testing.assert_close(eps[0.05], eps[0.1], atol=1e-5, rtol=0)
    assert len(eps[0.1].unique()) > 1000, "each pixel has its own"
    for sigma in SIGMAS:
        mse = sigma**2 * eps[sigma].double().square().mean().item()
        assert result.figures[f"sigma={sigma:g}/mse_noisy"] == pytest.approx(mse, rel=1e-4)
    spread = eps[0.1].square().mean().item()
    assert 0.8 < spread < 1.2, "1024 draws of N(0, I), the same at every run"


def test_the_model_sees_noise_beyond_the_range_and_the_measure_does_not():
    result, method = evaluate(lambda i: 1, sigmas=(1.0,))
    noisy = torch.cat(method.seen[1.0])
    assert noisy.abs().max() > 1
    clamped = (noisy.clamp(-1, 1) - method.clean).double().square().mean().item()
    assert result.figures["sigma=1/mse_noisy"] == pytest.approx(clamped, rel=1e-5)


def test_images_restored_without_error_are_noted(tmp_path):
    result, _ = evaluate(lambda i: 0)
    for row in ("sigma=0.05", "sigma=0.1"):
        assert result.figures[f"{row}/mse"] == 0
        assert result.figures[f"{row}/ssim"] == pytest.approx(1, abs=1e-6)
        assert result.figures[f"{row}/psnr"] == result.figures[f"{row}/gain"] == math.inf
        assert math.isfinite(result.figures[f"{row}/psnr_noisy"])
    stored = json.loads(result.write(tmp_path).read_text())
    assert stored["figures"]["sigma=0.1/psnr"] is None
    partly, _ = evaluate(lambda i: i % 4 > 0)
    assert partly.notes == [
        f"{row}: 4 of 16 images are restored without error, at ∞ dB" for row in ("sigma=0.05", "sigma=0.1")
    ]
    assert partly.figures["sigma=0.1/mse"] < partly.figures["sigma=0.1/mse_noisy"]


def test_units_and_scorecard(tmp_path):
    (wide, _), (unit, _) = evaluate(lambda i: 0.5), evaluate(lambda i: 0.5, image_range=(0.0, 1.0))
    assert wide.figures["sigma=0.1/mse"] == pytest.approx(4 * unit.figures["sigma=0.1/mse"], rel=1e-6)
    assert wide.figures["sigma=0.1/psnr"] == unit.figures["sigma=0.1/psnr"]
    unit.write(tmp_path)
    text = scorecard(tmp_path, ["denoising"])
    assert "16 test images of tiny; MSE in units of [0, 1]; SSIM window 7" in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}
    assert rows["sigma=0.1"][-1] == "6.021"


def test_picture_has_the_clean_images_then_a_pair_of_rows_for_each_sigma(tmp_path):
    result, _ = evaluate(lambda i: 0, tmp_path, shown=4)
    assert result.pictures == [str(tmp_path / "denoising.png")]
    names = ["x", *(f"{kind}, σ = {sigma}" for sigma in ("0.05", "0.1") for kind in ("noisy", "denoised"))]
    found, columns = rows_and_columns(tmp_path / "denoising.png", 5)
    assert (found, columns) == (names, ["image 1", "image 2", "image 3", "image 4"])
    rows = cells(tmp_path / "denoising.png", 5, 4)[:, 0, 0]
    clean = Grey().test_set.images[0, 0]
    for row in (0, 2, 4):
        assert torch.equal(rows[row], clean)
    off = [(rows[row].float() - clean).square().mean() for row in (1, 3)]
    assert 0 < 2 * off[0] < off[1]


def test_supported_methods():
    data = Grey()
    assert Denoising().supports(Knowing(data, lambda i: 1))
    assert not Denoising().supports(Oracle(data.train_set.float()))


@pytest.mark.parametrize("wrong", [{"n": 0}, {"batch_size": 0}, {"shown": 0}])
def test_numbers_out_of_range(wrong):
    with pytest.raises(UserError, match=rf"denoising\.{next(iter(wrong))} is 0"):
        Denoising(**wrong)


@pytest.mark.parametrize("sigmas", [(), (0.0,), (-0.1,), (0.1, 0.1), (math.inf,), (math.nan,)])
def test_impossible_sigmas(sigmas):
    with pytest.raises(UserError, match=r"denoising\.sigmas is"):
        Denoising(sigmas=sigmas)
