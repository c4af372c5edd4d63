"""The joint score with the paper's weight, and with one chosen on half of each set and reported on the other halves."""

import pytest
import torch

from ebmzoo.data import ConstantColours, InterpolatedImages
from ebmzoo.data.datamodule import prepare
from ebmzoo.methods.base.log_values import spread_ratio
from ebmzoo.metrics import auroc
from ebmzoo.tasks import OutOfDistributionDetection
from ebmzoo.tasks.joint_score import WEIGHTS, ChosenWeight, JointParts
from support.clel import clel, without_latent
from support.tiny import TinyData, liebm
from support.tiny import without_latent as liebm_without_latent


@pytest.fixture
def data():
    made = TinyData(n=8, ood=[InterpolatedImages(offset=4), ConstantColours(n=16)])
    made.prepare_data()
    made.setup("test")
    return made


def uint8(n, seed):
    return torch.randint(0, 256, (n, 1, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.mark.parametrize("make", [clel, liebm])
def test_parts_make_the_method_s_own_score(make):
    method, images = make(), uint8(7, 0)
    with method.evaluating():
        parts = JointParts.of(method, images, method.device, batch_size=3)
        own = method.ood_score(prepare(images))
    torch.testing.assert_close(parts.score(method.joint_weight).float(), own, rtol=1e-4, atol=1e-5)
    assert method.joint_weight == 0.1
    ratio = (0.1 * parts.cos).std(correction=0) / parts.energy.std(correction=0)
    assert parts.ratio(0.1) == pytest.approx(float(ratio))


@pytest.mark.parametrize("make", [without_latent, liebm_without_latent])
def test_without_an_encoder_there_is_none(make, data):
    assert make().joint_weight is None
    result = OutOfDistributionDetection(resamples=0, scores=["energy", "score"])(make(), data)
    assert "joint" not in result.protocol
    assert not any("joint" in name for name in result.figures)


def test_the_weight_is_chosen_on_one_half_and_reported_on_the_other(monkeypatch):
    method, test, other = clel(), uint8(40, 1), uint8(30, 2)
    noise = torch.Generator().manual_seed(3)

    def parts(cls, method, images, device, batch_size):
        cos = torch.full((len(images),), 0.5 if len(images) == 40 else -0.5, dtype=torch.float64)
        return JointParts(torch.rand(len(images), generator=noise, dtype=torch.float64) * 0.05, cos)

    monkeypatch.setattr(JointParts, "of", classmethod(parts))
    chosen = ChosenWeight.on(method, test, {"other": other}, n=40, batch_size=8)
    assert chosen.protocol["weight"] == 0.1  # the least whose difference, β · 1, exceeds the spread of E
    assert chosen.protocol["mean_auroc"]["0.1"] == 1.0
    assert list(chosen.protocol["mean_auroc"]) == [f"{weight:g}" for weight in WEIGHTS]
    assert (len(chosen.inside), len(chosen.outside["other"])) == (20, 15)
    assert auroc(chosen.inside, chosen.outside["other"]) == 1.0


def test_the_task_reports_both(data):
    method = clel()
    result = OutOfDistributionDetection(resamples=0)(method, data)
    told = result.protocol["joint"]
    assert told["weight_of_score"] == method.beta_ood
    assert told["weight"] in WEIGHTS
    assert told["sd_ratio_of_score"] > 0
    for name in ("interpolation", "near", "far"):
        assert 0 <= result.figures[f"{name}/auroc_joint"] <= 1
        assert f"{name}/auroc_score" in result.figures
    only = OutOfDistributionDetection(resamples=0, scores=["energy"])(method, data)
    assert not any("joint" in name for name in only.figures)


def test_the_ratio_of_spreads():
    energy, term = torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0.0, 6.0, 12.0])
    assert float(spread_ratio(energy, term)) == pytest.approx(3.0)
    assert torch.isfinite(spread_ratio(torch.ones(1), torch.ones(1)))
