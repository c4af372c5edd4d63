"""Annealed importance sampling on energies whose Z is known, and the laws of its transitions."""

import math

import pytest
import torch
from torch import nn

from ebmzoo.data import GaussianMixture
from ebmzoo.energy import gradient, with_gradient
from ebmzoo.errors import UserError
from ebmzoo.sampling.ais import AnnealedImportanceSampling, Ladder, Weights
from ebmzoo.sampling.base_densities import Box, Normal
from ebmzoo.sampling.energies import Tempered
from ebmzoo.sampling.hamiltonian import States, hamiltonian_step
from ebmzoo.sampling.langevin import ChainDivergedError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Gaussian:
    """E(x) = |x − μ|²/2s² in d dimensions: log Z = d log(s √(2π))."""

    def __init__(self, d, mean=0.5, std=0.4):
        self.d, self.mean, self.std = d, mean, std
        self.log_z = d * math.log(std * math.sqrt(2 * math.pi))
        self.like = torch.zeros(1, d, dtype=torch.float64)

    def __call__(self, x):
        return (x - self.mean).square().flatten(1).sum(1) / (2 * self.std**2)

    def draw(self, n, generator):
        return self.mean + self.std * torch.randn(n, self.d, dtype=torch.float64, generator=generator)


def bracket(temperatures, energy, base, like, draw, chains=100, seed=0):
    g = seeded(seed)
    return AnnealedImportanceSampling(temperatures, chains)(energy, base, like, draw(chains, g), g)


# ── the estimate ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_log_z_of_a_gaussian_lies_within_its_errors():
    target = Gaussian(10)
    found = bracket(60, target, Normal(), target.like, target.draw)
    assert found.forward.error < 0.4
    assert abs(found.lower - target.log_z) < 3 * found.forward.error
    assert abs(found.upper - target.log_z) < 3 * found.reverse.error


def test_the_mean_weight_is_z_without_bias():
    """E[w] = Z with few temperatures too: 20,000 chains have Z to a percent, where the mean of log w is far below."""
    target = Gaussian(2)
    found = bracket(3, target, Normal(), target.like, target.draw, chains=20_000)
    assert found.forward.error < 0.02
    assert abs(found.lower - target.log_z) < 4 * found.forward.error
    assert abs(found.upper - target.log_z) < 4 * found.reverse.error
    assert float(found.forward.log.mean()) < target.log_z - 0.1
    assert -float(found.reverse.log.mean()) > target.log_z + 0.1


@pytest.mark.parametrize("base", [Normal(0.0, 0.8), Box(-1.5, 1.5)])
def test_a_mixture_of_known_z_lies_in_its_bracket(base):
    data = GaussianMixture(components=5, radius=0.7, std=0.1)
    points = data.draw(100, seeded(1)).points.double()
    found = bracket(50, lambda x: data.energy(x), base, points, lambda n, g: points[:n])
    assert found.lower - 3 * found.forward.error < data.log_z() < found.upper + 3 * found.reverse.error
    assert abs(found.upper - found.lower) < 0.5


def test_bounds_hold_on_the_average_and_more_temperatures_narrow_the_bracket():
    target, seeds = Gaussian(8, std=0.3), range(3)
    gaps = []
    for temperatures in (0, 8, 64):
        found = [bracket(temperatures, target, Normal(), target.like, target.draw, 50, seed) for seed in seeds]
        lower, upper = (sum(getattr(z, side) for z in found) / len(found) for side in ("lower", "upper"))
        error = sum(z.forward.error + z.reverse.error for z in found) / len(found)
        assert lower < target.log_z + error, temperatures
        assert upper > target.log_z - error, temperatures
        gaps.append(upper - lower)
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2]


def test_without_temperatures_it_is_importance_sampling():
    target, base, ais = Gaussian(2), Normal(), AnnealedImportanceSampling(0, 50)
    ladder = ais.pilot(target, base, target.like, seeded())
    assert (ladder.betas, len(ladder.step_sizes)) == ([0.0, 1.0], 1)
    x = base.draw(50, target.like, seeded(3))
    assert torch.equal(ais.forward(target, base, target.like, ladder, seeded(3)).log, base.energy(x) - target(x))
    assert torch.equal(ais.reverse(target, base, x, ladder).log, target(x) - base.energy(x))


def test_weights_sum_the_energies_that_were_crossed():
    """Where no transition is accepted the chains stand still: log w = −(E − E₀)(x₀), however many temperatures."""
    target, base, ais = Gaussian(3), Normal(), AnnealedImportanceSampling(4, 20)
    ladder = Ladder([0.0, 0.1, 0.3, 0.4, 0.9, 1.0], [1e6] * 5)
    forward = ais.forward(target, base, target.like, ladder, seeded())
    x = base.draw(20, target.like, seeded())
    assert forward.acceptance == [0.0] * 4
    torch.testing.assert_close(forward.log, base.energy(x) - target(x), rtol=1e-12, atol=1e-12)


def test_step_sizes_stay_with_their_temperatures_on_the_way_back():
    """Transitions at β = ½ alone are accepted: the second of three in either direction."""
    target, ais = Gaussian(3), AnnealedImportanceSampling(3, 40)
    ladder = Ladder([0.0, 0.2, 0.5, 0.7, 1.0], [1e6, 1e-3, 1e6, 1e6])
    skew = Ladder([0.0, 0.2, 0.5, 0.7, 1.0], [1e-3, 1e6, 1e6, 1e6])
    assert ais.forward(target, Normal(), target.like, ladder, seeded()).acceptance == [0, 1, 0]
    ends = target.draw(40, seeded())
    assert ais.reverse(target, Normal(), ends, ladder, seeded()).acceptance == [0, 1, 0]
    assert ais.forward(target, Normal(), target.like, skew, seeded()).acceptance == [1, 0, 0]
    assert ais.reverse(target, Normal(), ends, skew, seeded()).acceptance == [0, 0, 1]


def test_the_ladder_rises_and_goes_where_the_energy_varies():
    target = Gaussian(4, std=0.05)
    ladder = AnnealedImportanceSampling(30, 50).pilot(target, Normal(), target.like, seeded())
    assert len(ladder.betas) == 32
    assert len(ladder.step_sizes) == 31
    assert (ladder.betas[0], ladder.betas[-1]) == (0.0, 1.0)
    assert all(a < b for a, b in zip(ladder.betas, ladder.betas[1:], strict=False))
    assert ladder.betas[15] < 0.1, "a cold energy needs its temperatures near 0"
    assert ladder.step_sizes[-1] < ladder.step_sizes[0], "and shorter steps near 1"


def test_a_flat_energy_has_the_volume_of_the_box():
    ais = AnnealedImportanceSampling(3, 10)
    found = ais(lambda x: 0.0 * x.flatten(1).sum(1) + 2.0, Box(-1, 1), torch.zeros(1, 1, 4, 4), None, seeded())
    assert found.lower == pytest.approx(16 * math.log(2) - 2, abs=1e-6)
    assert found.forward.ess == pytest.approx(10)
    assert found.forward.error == pytest.approx(0, abs=1e-6)
    assert math.isnan(found.upper)


def test_the_figures_of_weights():
    weights = Weights(torch.tensor([0.0, math.log(3)], dtype=torch.float64), [])
    assert weights.log_mean == pytest.approx(math.log(2))
    assert weights.ess == pytest.approx(16 / 10)
    assert weights.error == pytest.approx(math.sqrt(1 / 1.6 - 1 / 2))  # of 1 and 3: standard error ½ of mean 2, ÷ 2
    assert weights.error == pytest.approx(math.sqrt(1 / 2) / 2)


# ── the transitions ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("leapfrog", [1, 3])
def test_long_steps_leave_a_gaussian_invariant(leapfrog):
    """Without the Metropolis test the variance would be 1/(1 − ε²/4) = 1.78 at ε = 1.32."""
    target, x = Gaussian(1, mean=0.0, std=1.0), 5 * torch.ones(20_000, 1, dtype=torch.float64)
    g = seeded()
    at = States.at(target, x)
    for _ in range(60):
        at, accepted = hamiltonian_step(target, Normal(0.0, 3.0), 1.0, at, 1.32, leapfrog, g)
    assert 0.3 < float(accepted.double().mean()) < 0.99
    assert float(at.x.mean()) == pytest.approx(0, abs=0.03)
    assert float(at.x.var()) == pytest.approx(1, abs=0.05)
    assert float((at.x**4).mean()) == pytest.approx(3, abs=0.3)
    torch.testing.assert_close(at.energy, target(at.x))
    torch.testing.assert_close(at.gradient, gradient(target, at.x))


def test_the_law_between_base_and_target_is_the_geometric_one():
    """N(0, 1)^{1−β} N(μ, s²)^β is Gaussian of precision (1 − β) + β/s²."""
    target, beta, g = Gaussian(1, mean=1.0, std=0.5), 0.3, seeded()
    at = States.at(target, torch.zeros(20_000, 1, dtype=torch.float64))
    for _ in range(40):
        at, _ = hamiltonian_step(target, Normal(), beta, at, 0.8, 2, g)
    precision = (1 - beta) + beta / 0.25
    assert float(at.x.mean()) == pytest.approx(beta / 0.25 / precision, abs=0.03)
    assert float(at.x.var()) == pytest.approx(1 / precision, abs=0.03)


def test_walls_that_reflect_leave_a_truncated_law_invariant():
    """e^{−λx} on [−1, 1] has the mean 1/λ − coth λ; steps often pass a wall, and some pass both."""
    slope, g = 1.5, seeded()
    at = States.at(lambda x: slope * x[:, 0], torch.zeros(20_000, 1, dtype=torch.float64))
    for _ in range(30):
        at, accepted = hamiltonian_step(lambda x: slope * x[:, 0], Box(-1, 1), 1.0, at, 0.9, 3, g)
    assert float(at.x.abs().max()) <= 1
    assert float(at.x.mean()) == pytest.approx(1 / slope - 1 / math.tanh(slope), abs=0.015)
    edges = torch.linspace(-1, 1, 11, dtype=torch.float64)
    law = -(-slope * edges).exp().diff() / (math.exp(slope) - math.exp(-slope))
    found = torch.histc(at.x, 10, -1, 1) / len(at.x)
    assert float((found - law).abs().max()) < 0.01
    assert float(accepted.double().mean()) < 1


def test_reflection_goes_back_the_way_it_came():
    box = Box(-1.0, 2.0)
    x = 3 * torch.rand(500, 2, dtype=torch.float64, generator=seeded()) - 1
    v = 10 * torch.randn(500, 2, dtype=torch.float64, generator=seeded(1))
    end, after = box.reflect(x + v, v)
    back, before = box.reflect(end - after, -after)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(before, -v)
    assert torch.equal(after.abs(), v.abs())


def test_what_is_not_finite_is_not_accepted():
    def wall(x):
        return torch.where(x[:, 0] > 0, math.nan, 1.0) * (1 + x[:, 0].square())

    at = States.at(wall, torch.full((100, 1), -0.1, dtype=torch.float64))
    for _ in range(20):
        at, _ = hamiltonian_step(wall, Box(-1, 1), 1.0, at, 0.5, 2, seeded())
    assert bool((at.x <= 0).all())
    with pytest.raises(ChainDivergedError, match="not finite"):
        AnnealedImportanceSampling(2, 10)(lambda x: math.nan * x[:, 0], Box(), torch.zeros(1, 1))


def test_settling_comes_to_the_law():
    target, ais = Gaussian(2), AnnealedImportanceSampling(10, 50)
    ladder = ais.pilot(target, Normal(), target.like, seeded())
    x = ais.settled(target, Normal(), torch.full((5000, 2), -2.0, dtype=torch.float64), ladder, 60, seeded())
    assert float(x.mean()) == pytest.approx(target.mean, abs=0.02)
    assert float(x.std()) == pytest.approx(target.std, abs=0.02)


# ── the rest ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_networks_are_left_as_they_were_and_inference_mode_is_no_hindrance():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    energy = Tempered(lambda x: net(x)[:, 0], 0.5)
    with torch.inference_mode():
        found = AnnealedImportanceSampling(5, 8)(energy, Box(), torch.zeros(1, 1, 2, 2), torch.zeros(8, 1, 2, 2))
    assert math.isfinite(found.lower)
    assert math.isfinite(found.upper)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_energy_and_gradient_come_together():
    x = torch.tensor([[1.0, 2.0]])
    value, grad = with_gradient(lambda x: x.square().sum(1), x)
    assert (value.item(), grad.tolist(), value.requires_grad) == (5.0, [[2.0, 4.0]], False)


def test_equal_seeds_give_equal_bounds():
    target = Gaussian(3)
    twice = [bracket(5, target, Normal(), target.like, target.draw, 10, seed=4) for _ in range(2)]
    assert twice[0].lower == twice[1].lower
    assert twice[0].upper == twice[1].upper


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperatures": -1}, "temperatures is -1; it must be 0"),
        ({"chains": 1}, "chains is 1; it must be 2"),
        ({"leapfrog": 0}, "leapfrog is 0"),
        ({"tries": 0}, "tries is 0"),
        ({"acceptance": 1.0}, "acceptance is 1.0; it must be between"),
    ],
)
def test_what_cannot_be_is_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        AnnealedImportanceSampling(**wrong)
