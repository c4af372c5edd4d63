"""R̂ and the effective sample size of traces whose answers are known."""

import math

import pytest
import torch

from ebmzoo.errors import UserError
from ebmzoo.metrics import effective_sample_size, rank_normalised, split_rhat


def independent(m=8, n=4000, seed=0):
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def autoregressive(rho, m=16, n=5000):
    """x_{t+1} = ρ x_t + √(1 − ρ²) ξ from its stationary law N(0, 1)."""
    xi = independent(m, n)
    x = [xi[:, 0]]
    for t in range(1, n):
        x.append(rho * x[-1] + math.sqrt(1 - rho**2) * xi[:, t])
    return torch.stack(x, dim=1)


def test_independent_draws_are_worth_themselves():
    x = independent()
    assert split_rhat(x) == pytest.approx(1, abs=1e-3)
    assert effective_sample_size(x) == pytest.approx(x.numel(), rel=0.05)


@pytest.mark.parametrize("rho", [0.9, 0.5, -0.4])
def test_an_autoregression_has_the_sample_size_of_its_law(rho):
    """ESS/N = (1 − ρ)/(1 + ρ): more than N where the chain turns back on itself."""
    x = autoregressive(rho)
    assert effective_sample_size(x) / x.numel() == pytest.approx((1 - rho) / (1 + rho), rel=0.06)


def test_chains_of_different_means_have_the_closed_form():
    """Halves 0, 2, 0, 2, … give W of their own, and means d apart B/N = d²/2 of two chains as of four halves ·4/3."""
    n, d = 50, 3.0
    half = torch.tensor([0.0, 2.0]).repeat(n // 2)
    first = torch.cat([half, half])
    traces = torch.stack([first, first + d])
    within = n / (n - 1)  # the variance of the half 0, 2, 0, 2, …
    between = 4 * (d / 2) ** 2 / 3  # four means at ±d/2
    law = math.sqrt(((n - 1) / n * within + between) / within)
    assert split_rhat(traces) == pytest.approx(law, rel=1e-12)
    assert law > 1.5


def test_a_chain_that_drifts_is_found_by_its_halves():
    trend = torch.linspace(0, 1, 100).repeat(4, 1) + 1e-3 * independent(4, 100)
    assert split_rhat(trend) > 1.5, "all four chains agree, but not with themselves"
    assert effective_sample_size(trend) < 15


def test_chains_stuck_in_their_places_are_worth_few_draws():
    stuck = 10 * torch.arange(4.0).view(-1, 1) + independent(4, 500)
    assert effective_sample_size(stuck) < 10
    assert effective_sample_size(stuck - stuck.mean(1, keepdim=True)) > 1500


def test_ranks_make_both_blind_to_the_scale_and_to_heavy_tails():
    x = independent(4, 300)
    ranks = rank_normalised(x)
    assert torch.equal(rank_normalised(x.exp() * 7), ranks)
    assert split_rhat(ranks) == pytest.approx(split_rhat(x), abs=0.01)
    s = x.numel()
    greatest = torch.tensor((s - 3 / 8) / (s + 1 / 4), dtype=torch.float64)
    assert float(ranks.max()) == pytest.approx(float(torch.special.ndtri(greatest)))
    assert float(ranks.mean()) == pytest.approx(0, abs=1e-12)
    tied = rank_normalised(torch.tensor([[1.0, 1.0], [1.0, 1.0]]))
    assert torch.allclose(tied, torch.zeros(2, 2, dtype=torch.float64), atol=1e-12)


def test_limits():
    assert math.isnan(split_rhat(torch.ones(3, 10)))
    assert math.isnan(effective_sample_size(torch.ones(3, 10)))
    assert split_rhat(torch.tensor([[0.0] * 10, [1.0] * 10])) == math.inf
    back_and_forth = torch.tensor([[1.0, -1.0] * 50])
    assert effective_sample_size(back_and_forth) == pytest.approx(100 * math.log10(100)), "Vehtari's limit"


@pytest.mark.parametrize("wrong", [torch.zeros(4), torch.zeros(2, 3), torch.zeros(0, 10)])
def test_shapes_that_are_no_traces_are_refused(wrong):
    with pytest.raises(UserError, match="traces must have shape"):
        split_rhat(wrong)


def test_traces_that_diverged_are_refused():
    with pytest.raises(UserError, match="diverged"):
        effective_sample_size(torch.tensor([[0.0, 1.0, math.nan, 2.0]]))
