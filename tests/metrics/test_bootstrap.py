"""Bootstrap intervals of detection: each resample by hand, the exact variance, and what they should cover."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch
from scipy.stats import binom
from torch import Tensor

from ebmzoo.errors import UserError
from ebmzoo.metrics import aupr, aupr_in, auroc, bootstrap, fpr95
from ebmzoo.metrics.bootstrap import intervals, resampled

METRICS = {"auroc": auroc, "aupr": aupr, "aupr_in": aupr_in, "fpr95": fpr95}


def gaussians(n: int, m: int, d: float, seed: int) -> tuple[Tensor, Tensor]:
    """N draws of N(0, 1) and M of N(d, 1), whose AUROC is Φ(d/√2)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=generator), torch.randn(m, generator=generator) + d


@pytest.mark.parametrize("values", [5, 10**6])
def test_a_resample_is_the_metrics_of_what_was_drawn(values: int) -> None:
    """With few values nearly all are tied, and a resample may lack some."""
    inside, outside = ((values * x.sigmoid()).floor() for x in gaussians(13, 7, 1.0, seed=0))
    found = resampled(inside, outside, resamples=20, seed=3)
    draws = [
        side[torch.randint(len(side), (20, len(side)), generator=torch.Generator().manual_seed(seed))]
        for side, seed in ((inside, 6), (outside, 7))
    ]
    assert set(found) == set(METRICS)
    for name, metric in METRICS.items():
        by_hand = [metric(a, b) for a, b in zip(*draws, strict=True)]
        assert found[name].tolist() == pytest.approx(by_hand, rel=1e-12), name
        assert len(set(by_hand)) > 3, name


def test_auroc_of_resamples_has_the_exact_variance() -> None:
    """With a = 1 − 1/N, b = 1 − 1/M and ψ the pairs' ½ steps, E[(NM A*)²] = Σψψ E[w w'] E[v v'] of multinomials.

    A single side resampled, or both by the same draws, has another: half of it or so.
    """
    inside, outside = gaussians(12, 8, 1.0, seed=1)
    n, m = len(inside), len(outside)
    psi = (outside[None] > inside[:, None]).double()
    a, b = 1 - 1 / n, 1 - 1 / m
    square = a * b * psi.sum() ** 2 + b * psi.sum(1).square().sum() + a * psi.sum(0).square().sum() + psi.square().sum()
    exact = float(square / (n * m) ** 2 - psi.mean() ** 2)
    drawn = resampled(inside, outside, resamples=20_000)["auroc"]
    assert float(drawn.mean()) == pytest.approx(float(psi.mean()), abs=5 * math.sqrt(exact / 20_000))
    assert float(drawn.var()) == pytest.approx(exact, rel=0.05), "five standard errors of a variance of 20,000 draws"


def test_what_is_drawn_does_not_depend_on_how_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, outside = gaussians(30, 20, 1.0, seed=2)
    whole = resampled(inside, outside, resamples=50)
    monkeypatch.setattr(bootstrap, "AT_ONCE", 100)
    for name, values in resampled(inside, outside, resamples=50).items():
        assert torch.equal(values, whole[name]), name
    torch.manual_seed(1)
    assert intervals(inside, outside, 50, seed=4) == intervals(inside, outside, 50, seed=4)
    assert intervals(inside, outside, 50, seed=4) != intervals(inside, outside, 50, seed=5)


def test_intervals_cover_the_true_auroc() -> None:
    """In as many of 150 pairs of samples as a binomial of about 90 % allows; an interval half as wide covers 60 %."""
    truth, repeats, covered = NormalDist().cdf(1 / math.sqrt(2)), 150, 0
    for seed in range(repeats):
        low, high = intervals(*gaussians(90, 60, 1.0, seed), resamples=200, level=0.9)["auroc"]
        covered += low <= truth <= high
    assert binom.ppf(1e-3, repeats, 0.87) <= covered <= binom.ppf(1 - 1e-3, repeats, 0.93)


def test_intervals_are_the_quantiles_of_the_level() -> None:
    inside, outside = gaussians(60, 40, 1.0, seed=3)
    drawn = resampled(inside, outside, 101)
    for name, (low, high) in intervals(inside, outside, 101, level=0.8).items():
        rising = drawn[name].sort().values
        assert (low, high) == (pytest.approx(float(rising[10])), pytest.approx(float(rising[90]))), name
        assert low <= METRICS[name](inside, outside) <= high, name


def test_no_resample_separates_less_than_all_do() -> None:
    ends = intervals(torch.zeros(4), torch.ones(3), 50)
    assert ends == {"auroc": (1, 1), "aupr": (1, 1), "aupr_in": (1, 1), "fpr95": (0, 0)}


def test_impossible_requests_are_named() -> None:
    with pytest.raises(UserError, match=r"level is 1\.5"):
        intervals(torch.zeros(2), torch.ones(2), level=1.5)
    with pytest.raises(UserError, match="resamples is 0"):
        resampled(torch.zeros(2), torch.ones(2), 0)
    with pytest.raises(UserError, match="out-of-distribution scores are NaN"):
        resampled(torch.zeros(2), torch.tensor([math.nan]))
