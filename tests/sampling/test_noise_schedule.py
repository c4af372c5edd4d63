"""Noise schedules: the published tables, and what noisy pairs must obey (laws 6 and 7)."""

import math

import pytest
import torch

from ebmzoo.errors import UserError
from ebmzoo.methods import RecoveryChain
from ebmzoo.sampling.noise_schedule import CosineSchedule, DRLSchedule, GeometricNoise, geometric_sequence

SCHEDULES = [
    CosineSchedule(),
    CosineSchedule(4),
    CosineSchedule(1 + 4, 8.0, -3.0),
    DRLSchedule(),
    DRLSchedule(8),
    DRLSchedule(8, 100, "logsnr"),
    DRLSchedule(3),
]


def transitions(schedule):
    return torch.arange(1, schedule.levels + 1)


def test_the_cosine_schedule_is_the_paper_s():
    s = CosineSchedule()
    assert s.levels == 6
    logsnr = [9.8, 2.6888, 1.1969, 0.1411, -0.8761, -2.1724, -5.1]
    torch.testing.assert_close(s.logsnr, torch.tensor(logsnr), rtol=0, atol=1e-4)
    alpha_bar = [0.999972, 0.967659, 0.876339, 0.731580, 0.542210, 0.319777, 0.077845]
    torch.testing.assert_close(s.alpha_bar, torch.tensor(alpha_bar), rtol=0, atol=1e-6)
    for end, logsnr_end in ((0, 9.8), (6, -5.1)):
        assert float(s.alpha_bar[end]) ** 2 == pytest.approx(1 / (1 + math.exp(-logsnr_end)), rel=1e-6)
    spread = [0.007203, 0.201127, 0.324725, 0.403713, 0.422368, 0.921787]
    torch.testing.assert_close(s.proposal_std(transitions(s)), torch.tensor(spread), rtol=0, atol=1e-6)
    weights = [1, 0.5946, 0.4580, 0.3756, 0.3122, 0.2600]
    torch.testing.assert_close(s.loss_weight(transitions(s)), torch.tensor(weights), rtol=0, atol=1e-4)


def test_the_logsnr_is_the_paper_s_formula():
    b = math.atan(math.exp(-9.8 / 2))
    a = math.atan(math.exp(5.1 / 2)) - b
    formula = [-2 * math.log(math.tan(a * i / 6 + b)) for i in range(7)]
    torch.testing.assert_close(CosineSchedule().logsnr, torch.tensor(formula), rtol=0, atol=1e-4)
    time = [2000 / math.pi * math.atan(math.exp(-value / 2)) for value in formula]
    torch.testing.assert_close(CosineSchedule().time, torch.tensor(time), rtol=1e-6, atol=0)


def test_the_schedule_of_drl():
    s = DRLSchedule()
    logsnr = [9.210, 2.144, 0.647, -0.431, -1.427, -2.473, -10.118]
    torch.testing.assert_close(s.logsnr, torch.tensor(logsnr), rtol=0, atol=1e-3)
    assert s.time.tolist() == [0, 1, 2, 3, 4, 5, 6]
    eight = DRLSchedule(8, spacing=100)
    assert torch.equal(eight.alpha_bar[:6], s.alpha_bar[:6])
    assert eight.alpha_bar[-1] == s.alpha_bar[-1]
    time = DRLSchedule(8, spacing=100, time="logsnr").time
    torch.testing.assert_close(time, 2000 / math.pi * torch.atan((-eight.logsnr / 2).exp()))
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    torch.testing.assert_close(DRLSchedule(8).alpha_bar[:3].double(), kept[[0, 71, 142]].sqrt())


@pytest.mark.parametrize("s", SCHEDULES)
def test_what_every_schedule_obeys(s):
    i = transitions(s)
    ones = torch.ones(s.levels)
    torch.testing.assert_close(s.alpha[i].square() + s.sigma[i].square(), ones)
    torch.testing.assert_close(s.alpha_bar.square() + s.sigma_bar.square(), torch.ones(s.levels + 1))
    torch.testing.assert_close(s.alpha[i].cumprod(0) * s.alpha_bar[0], s.alpha_bar[1:])
    assert float(s.loss_weight(i)[0]) == 1
    assert torch.equal(s.scale(i)[:-1], s.alpha[i][:-1])
    assert float(s.scale(i)[-1]) == 1
    assert s.is_top(i).tolist() == [False] * (s.levels - 1) + [True]


def test_the_chain_s_step_variance_is_equation_16():
    s, i = CosineSchedule(), transitions(CosineSchedule())
    published = [2.543e-5, 2.437e-3, 7.843e-3, 1.651e-2, 2.944e-2, 4.788e-2]
    torch.testing.assert_close(RecoveryChain().unit(s, i), torch.tensor(published), rtol=1e-3, atol=0)
    assert 4e-4 / math.sqrt(1 / (1 + math.exp(9.8))) == pytest.approx(0.053717, abs=1e-6)
    coefficient = RecoveryChain().unit(s, i) / (s.sigma_bar[i - 1] * s.sigma[i].square())
    torch.testing.assert_close(coefficient, torch.full((6,), 0.053717), rtol=1e-4, atol=0)
    flat = RecoveryChain(variance=2e-3, grow=False).unit(s, i)
    torch.testing.assert_close(flat, 2e-3 / s.sigma_bar[0] * s.sigma[i].square())


@pytest.mark.parametrize("s", SCHEDULES[:2])
def test_a_pair_with_shared_noise_has_one_epsilon_and_lies_on_a_line(s):
    x, i = torch.randn(s.levels, 1, 3, 3), transitions(s)
    lower, upper = s.pair(x, i)

    def epsilon(noisy, level):
        return (noisy - s.alpha_bar[level].view(-1, 1, 1, 1) * x) / s.sigma_bar[level].view(-1, 1, 1, 1)

    torch.testing.assert_close(epsilon(lower, i - 1), epsilon(upper, i), rtol=1e-3, atol=1e-4)


def test_a_pair_of_the_diffusion_has_two_and_the_same_marginals():
    s, i = CosineSchedule(), transitions(CosineSchedule())
    x = torch.full((6, 1, 100, 100), 0.3)
    torch.manual_seed(0)
    lower, upper = s.pair(x, i, shared=False)
    shape = (-1, 1, 1, 1)
    second = (upper - s.alpha[i].view(shape) * lower) / s.sigma[i].view(shape)
    torch.manual_seed(0)
    first = torch.randn_like(x)
    torch.testing.assert_close(second, torch.randn_like(x), rtol=1e-3, atol=2e-3)  # a separate draw
    torch.testing.assert_close(lower, s.noised(x, i - 1, first))
    # the variance is linear in those of the two draws: α² σ̄²_{i−1} + σ_i² = σ̄_i²
    total = s.alpha[i].square() * s.sigma_bar[i - 1].square() + s.sigma[i].square()
    torch.testing.assert_close(total, s.sigma_bar[i].square())


def test_shared_noise_changes_the_covariance_only():
    """Law 7: of N(0, c²) data the marginals are those of the diffusion and Cov = ᾱ_{i−1} ᾱ_i c² + σ̄_{i−1} σ̄_i."""
    s, i, c = CosineSchedule(), transitions(CosineSchedule()), 0.5
    a, b = s.alpha_bar.double(), s.sigma_bar.double()
    torch.manual_seed(0)
    x, noise = torch.randn(2, 6, 20_000)
    x = c * (x - x.mean(1, keepdim=True)) / x.std(1, unbiased=False, keepdim=True)
    # draws without any chance covariance, so that the law holds exactly
    noise = noise - noise.mean(1, keepdim=True) - (noise * x).mean(1, keepdim=True) / c**2 * x
    noise = noise / noise.std(1, unbiased=False, keepdim=True)
    lower, upper = s.noised(x, i - 1, noise), s.noised(x, i, noise)
    torch.testing.assert_close(
        (lower * upper).mean(1).double(), a[i - 1] * a[i] * c**2 + b[i - 1] * b[i], rtol=1e-4, atol=0
    )
    for level, points in ((i - 1, lower), (i, upper)):
        torch.testing.assert_close(
            points.square().mean(1).double(), a[level] ** 2 * c**2 + b[level] ** 2, rtol=1e-4, atol=0
        )


def test_the_posterior_mean_is_bayes_rule():
    """N(x_{i−1}; ᾱ x, σ̄²) N(x_i; α x_{i−1}, σ²) has its peak there, with the proposal's precision."""
    s, i = CosineSchedule(), transitions(CosineSchedule())[:-1]
    x, x_i = torch.full((5, 1), 0.7), torch.full((5, 1), -0.4)
    lower, sigma = s.sigma_bar[i - 1].square()[:, None], s.sigma[i].square()[:, None]
    alpha, alpha_bar = s.alpha[i][:, None], s.alpha_bar[i - 1][:, None]
    precision = 1 / lower + alpha.square() / sigma
    mean = (alpha_bar * x / lower + alpha * x_i / sigma) / precision
    torch.testing.assert_close(s.posterior_mean(x, x_i, i), mean, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close((s.proposal_std(i) / s.alpha[i]).square(), 1 / precision[:, 0], rtol=1e-3, atol=0)


def test_tables_follow_the_module_and_stay_out_of_checkpoints():
    assert CosineSchedule().state_dict() == {}
    assert CosineSchedule().to("meta").alpha_bar.device.type == "meta"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CosineSchedule(1), "schedule.levels is 1"),
        (lambda: CosineSchedule(6, -5.0, 9.0), "schedule.logsnr_max is -5"),
        (lambda: DRLSchedule(1), "schedule.levels is 1"),
        (lambda: DRLSchedule(8, 150), "schedule.spacing is 150; 8 levels need from 1 to 142"),
        (lambda: RecoveryChain(steps=0), "chain.steps is 0"),
        (lambda: RecoveryChain(variance=0.0), "chain.variance is 0"),
        (lambda: RecoveryChain(noise=-1.0), "chain.noise is -1"),
    ],
)
def test_what_is_out_of_range_is_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_geometric_sequence_ends_at_its_last_number_whatever_its_length():
    assert geometric_sequence(0.5, 0.05, 3) == pytest.approx([0.5, 0.5 / math.sqrt(10), 0.05])
    assert geometric_sequence(0.5, 0.05, 1) == [0.05]
    assert geometric_sequence(0.5, 0.05, 0) == []


@pytest.mark.parametrize("levels", [2, 3, 10, 128, 1000])
@pytest.mark.parametrize(("first", "last"), [(1.0, 0.01), (0.5, 0.05), (50.0, 0.01), (3.0, 0.1), (100.0, 1.0)])
def test_geometric_noise_is_to_the_last_bit_that_of_the_exponents_in_double_precision(first, last, levels):
    """Checkpoints do not contain the levels, so that their float32 numbers must stay those of training."""
    exponents = torch.linspace(0, 1, levels, dtype=torch.float64)
    expected = (first * (last / first) ** exponents).float()
    assert torch.equal(GeometricNoise(levels, first, last).sigma, expected)
    assert torch.equal(torch.tensor(geometric_sequence(first, last, levels), dtype=torch.float64).float(), expected)
