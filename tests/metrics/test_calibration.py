"""The calibration error of known confidences (law 11)."""

import pytest
import torch

from ebmzoo.metrics import Reliability


@pytest.mark.parametrize(("confidence", "expected"), [(0.95, 0.15), (0.8, 0.0), (0.6, 0.2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_error_is_the_distance_of_confidence_and_accuracy(confidence, expected, dtype):
    found = Reliability.of(torch.full((10,), confidence, dtype=dtype), torch.arange(10) < 8)
    assert found.error == pytest.approx(expected, abs=1e-6)


def test_bins_have_their_upper_edge_and_not_the_lower():
    confidence = torch.tensor([0.8, 0.801, 0.85, 0.851, 1.0])
    found = Reliability.of(confidence, torch.ones(5, dtype=torch.bool))
    assert {k: int(n) for k, n in enumerate(found.counts) if n} == {15: 1, 16: 2, 17: 1, 19: 1}
    assert found.accuracy[16] == 1
    assert found.confidence[16].item() == pytest.approx(0.8255)
    assert found.accuracy[0].isnan()


def test_bins_weigh_by_their_images():
    """9 images at .9, all correct, and 1 at .3, wrong: .9 · .1 + .1 · .3; over one bin it is |.9 − .84|."""
    confidence = torch.tensor([0.9] * 9 + [0.3])
    correct = torch.tensor([True] * 9 + [False])
    assert Reliability.of(confidence, correct).error == pytest.approx(0.12, abs=1e-6)
    assert Reliability.of(confidence, correct, bins=1).error == pytest.approx(0.06, abs=1e-6)
