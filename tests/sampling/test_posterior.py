"""The generator posterior against its closed form for a linear generator (law 3)."""

import math

import pytest
import torch
from torch import nn

from ebmzoo.energy import gradient
from ebmzoo.errors import UserError
from ebmzoo.networks import gaussian
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.posterior import Posterior, PosteriorSampler


def linear(a):
    """G(z) = a z, on images of one pixel."""
    return lambda z: (a * z).view(-1, 1, 1, 1)


@pytest.mark.parametrize(("legacy", "mean", "variance"), [(False, 0.3423, 0.0248), (True, 0.3461, 0.01435)])
def test_linear_generator_has_the_posterior_of_law_3(legacy, mean, variance):
    """P = a²/σ² + 1, mean (a x/σ²)/P and, by the finite step s, variance (1/P)/(1 − s² P/4)."""
    a, sigma, x, s, n = 2.0, 0.3, 0.7, 0.1, 40_000
    sampler = PosteriorSampler(Langevin(steps=150, step_size=s**2 / 2, noise=s), sigma, legacy_sigma=legacy)
    torch.manual_seed(0)
    z = sampler(linear(a), torch.full((n, 1, 1, 1), x), torch.randn(n, 1))
    effective = sigma / math.sqrt(2) if legacy else sigma
    precision = a**2 / effective**2 + 1
    exact = (1 / precision) / (1 - s**2 * precision / 4)
    assert (a * x / effective**2) / precision == pytest.approx(mean, abs=5e-5)
    assert exact == pytest.approx(variance, abs=5e-5)
    assert z.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(exact / n))
    assert z.var().item() == pytest.approx(exact, rel=5 * math.sqrt(2 / n))


def test_without_noise_the_chain_contracts_by_one_minus_eta_p():
    """z_k − z* = (1 − η P)^k (z₀ − z*), z* the posterior's mean, exactly."""
    a, sigma, x, eta = 2.0, 0.3, 0.7, 0.005
    precision = a**2 / sigma**2 + 1
    best = (a * x / sigma**2) / precision
    z0 = torch.tensor([[0.1], [-1.3]], dtype=torch.float64)
    sampler = PosteriorSampler(Langevin(steps=7, step_size=eta, noise=0.0), sigma)
    images = torch.full((2, 1, 1, 1), x, dtype=torch.float64)
    want = [best + (1 - eta * precision) ** k * (z0 - best) for k in range(8)]
    torch.testing.assert_close(sampler(linear(a), images, z0), want[-1])
    for state, exact in zip(sampler.path(linear(a), images, z0), want, strict=True):
        torch.testing.assert_close(state, exact)
    assert len(list(sampler.path(linear(a), images, z0, steps=3))) == 4


def test_the_energy_is_minus_the_log_joint():
    """U(z) differs from −log p(x|z) − log p(z) by a constant."""
    g = nn.Linear(3, 12).double()
    x = torch.randn(5, 3, 2, 2, dtype=torch.float64)
    energy = Posterior(lambda z: g(z).view(-1, 3, 2, 2), x, sigma=0.4)
    z = torch.randn(2, 5, 3, dtype=torch.float64)

    def log_joint(z):
        likelihood = torch.distributions.Normal(g(z).view(-1, 3, 2, 2), 0.4).log_prob(x).flatten(1).sum(1)
        return likelihood + torch.distributions.Normal(0, 1).log_prob(z).sum(1)

    torch.testing.assert_close(energy(z[0]) - energy(z[1]), log_joint(z[1]) - log_joint(z[0]))


def test_legacy_sigma_drops_the_half_of_the_likelihood_and_of_nothing_else():
    images, z = torch.randn(4, 1, 1, 1, dtype=torch.float64), torch.randn(4, 1, dtype=torch.float64)
    right, legacy = (PosteriorSampler(legacy_sigma=flag).posterior(linear(2.0), images) for flag in (False, True))
    prior = gradient(lambda z: z.square().sum(1) / 2, z)
    torch.testing.assert_close(gradient(legacy, z) - prior, 2 * (gradient(right, z) - prior))


def test_the_generator_gets_no_gradient_from_the_chain():
    g = nn.Sequential(nn.Linear(2, 4), nn.Unflatten(1, (1, 2, 2)))
    PosteriorSampler()(g, torch.randn(3, 1, 2, 2), torch.randn(3, 2))
    assert all(p.grad is None and p.requires_grad for p in g.parameters())


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.inf, math.nan])
def test_sigma_must_be_positive(sigma):
    with pytest.raises(UserError, match=r"posterior\.sigma"):
        PosteriorSampler(sigma=sigma)


def test_gaussian_against_torch_distributions():
    torch.manual_seed(0)
    mu, logvar, z = torch.randn(3, 6, 4, dtype=torch.float64).unbind()
    q = torch.distributions.Normal(mu, (logvar / 2).exp())
    log_q = q.log_prob(z).sum(1) + 2 * math.log(2 * math.pi)
    torch.testing.assert_close(gaussian.nll(z, mu, logvar), -log_q, rtol=1e-4, atol=1e-4)  # 1e-6 in the variance
    prior = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    torch.testing.assert_close(gaussian.kl(mu, logvar), torch.distributions.kl_divergence(q, prior))
    draws = gaussian.draw(mu[:1].expand(50_000, -1), logvar[:1].expand(50_000, -1))
    deviation = (logvar[0] / 2).exp()
    assert ((draws.mean(0) - mu[0]).abs() < 5 * deviation / 50_000**0.5).all()
    torch.testing.assert_close(draws.std(0), deviation, rtol=0.02, atol=0)
