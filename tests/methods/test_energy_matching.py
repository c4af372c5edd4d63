"""Energy Matching against the laws of its transport, its chain and its contrastive term."""

import math
from itertools import pairwise

import pytest
import torch

from ebmzoo.energy import EnergyNet, gradient
from ebmzoo.errors import UserError
from ebmzoo.methods import EnergyMatching, EnergyMatchingContrast, EnergyMatchingInteraction, Method
from ebmzoo.methods.energy_matching import transported
from ebmzoo.sampling import Langevin, Observed, Repelling
from ebmzoo.sampling.transport import optimal_pairing
from support.tiny import TinyData, energy_matching, trainer


class Quadratic(EnergyNet):
    """V(x) = θ|x|²/2."""

    def __init__(self, theta):
        super().__init__()
        self.theta = torch.nn.Parameter(torch.tensor(float(theta)))

    def forward(self, x):
        return self.theta * x.square().flatten(1).sum(1) / 2


class Function(EnergyNet):
    """Any V, with a parameter that does nothing, for the optimizer."""

    def __init__(self, function):
        super().__init__()
        self.function, self.unused = function, torch.nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return self.function(x) * (1 + 0 * self.unused)


def one_pixel(net, dt=0.05, epsilon=0.01, steps=200, **changes):
    """Energy Matching on images of one element, in units in which Δt and ε_max are the arguments."""
    parts = {"horizon": 1.0, "regression_steps": 10**6, "in_channels": 1, "size": 1} | changes
    return EnergyMatching(net, Langevin(steps, dt * epsilon), epsilon, **parts)


def step(method, images, monkeypatch, at=0):
    """The loss of one iteration at the step `at`, and the gradient of each parameter."""
    found = {}

    def minimize(self, loss, *names):
        parameters = list(self.energy_net.parameters())
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        found.update(loss=float(loss.detach()), grads=grads)
        return loss.detach()

    with monkeypatch.context() as patched:
        patched.setattr(Method, "minimize", minimize)
        patched.setattr(EnergyMatching, "global_step", at)
        values = method.iterate(images, torch.zeros(len(images)))
    return found | values


# ── the transport ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_pairing_in_one_dimension_sorts():
    x, y = torch.randn(50, 1), 3 * torch.randn(50, 1)
    paired = y[optimal_pairing(x, y)]
    assert torch.equal(paired[x[:, 0].argsort()], y.sort(0).values)
    assert sorted(optimal_pairing(torch.randn(20, 3, 2), torch.randn(20, 3, 2)).tolist()) == list(range(20))


@pytest.mark.parametrize(
    ("batch", "d", "slope"),
    [(300, 1, 1.5 * (0.25 - 1) / (1 + 0.5 + 0.25)), (128, 64, -0.806)],  # exact OT; batch OT of images
)
def test_the_best_linear_field_has_the_slope_of_the_law(batch, d, slope):
    """−∇V = a x, a = 1.5 (c² − 1)/(1 + c + c²) for data N(0, c² I), c = 1/2; −0.9 were the pairs independent."""
    torch.manual_seed(0)
    cross = square = 0.0
    for _ in range(30):
        x_t, displacement = transported(0.5 * torch.randn(batch, d, 1, 1))
        cross, square = cross + (x_t * displacement).sum(), square + x_t.square().sum()
    assert float(cross / square) == pytest.approx(slope, abs=0.02)


def test_the_loss_is_a_mean_over_elements_and_zero_for_the_transport_of_a_shift(monkeypatch):
    """x₁ = x₀ + μ: the assignment finds each image's own noise, and V = −μ·x has no loss."""
    noise = 0.1 * torch.randn(16, 1, 8, 8)
    mu = torch.randn(1, 1, 8, 8)
    images = (noise + mu)[torch.randperm(16)]
    net = Function(lambda x: -(x * mu).flatten(1).sum(1))
    method = energy_matching(energy_net=net)
    monkeypatch.setattr(torch, "randn_like", lambda x: noise.clone())
    assert step(method, images, monkeypatch)["loss"] == pytest.approx(0, abs=1e-10)
    monkeypatch.undo()
    method = energy_matching(energy_net=Function(lambda x: 0 * x.flatten(1).sum(1)))
    monkeypatch.setattr(torch, "randn_like", lambda x: noise.clone())
    assert step(method, images, monkeypatch)["loss"] == pytest.approx(float(mu.square().mean()), rel=1e-4)


def test_a_transport_walks_on_after_it_has_arrived():
    mu = torch.randn(1, 1, 8, 8)
    net = Function(lambda x: -(x * mu).flatten(1).sum(1))
    method = energy_matching(energy_net=net, sampler=Langevin(4, 1e-9), epsilon=4e-9, onset=1.0).eval()  # Δt = 1/4
    _, path = method.long_chain(3, 8)
    start, *_, arrived, _, _, _, twice = path
    torch.testing.assert_close(arrived, start + mu, atol=1e-3, rtol=0)
    torch.testing.assert_close(twice, start + 2 * mu, atol=1e-3, rtol=0)
    torch.testing.assert_close(
        method.energy(start) - method.energy(arrived), mu.square().sum().expand(3) / 4e-9, rtol=1e-3, atol=0
    )


def test_at_one_time_the_displacement_is_a_gradient(monkeypatch):
    """N(0, 1) to N(m, s²): −V' = m + (s − 1)(x − tm)/(1 − t + ts)."""
    t, m, s = 0.3, 0.7, 0.4
    base = torch.randn(32, 1, 1, 1)
    images = (m + s * base)[torch.randperm(32)]
    net = Function(lambda x: -(m * x + (s - 1) * (x - t * m).square() / 2 / (1 - t + t * s)).flatten(1).sum(1))
    method = one_pixel(net)
    monkeypatch.setattr(torch, "randn_like", lambda x: base.clone())
    monkeypatch.setattr(torch, "rand", lambda n, device=None: torch.full((n,), t))
    assert step(method, images, monkeypatch)["loss"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("weight", "epsilon"), [(1.0, 0.04), (1.0, 0.161)])
def test_both_losses_balance_where_the_law_says(weight, epsilon, monkeypatch):
    """V = θx²/2, data N(0, c²): 2Aθ² + (2B + λc²/2)θ − λε/2 = 0, A = (1 + c + c²)/3, B = (c² − 1)/2.

    Where ε is −ac² both losses have the same minimum, the slope of the transport itself, whatever λ.
    """
    torch.manual_seed(0)
    c, chains = 0.5, 400
    a, b = (1 + c + c**2) / 3, (c**2 - 1) / 2
    linear = 2 * b + weight * c**2 / 2
    root = (-linear + math.sqrt(linear**2 + 4 * a * weight * epsilon)) / (4 * a)
    if epsilon == 0.161:
        assert root == pytest.approx(0.643, abs=0.001)

    def slope(theta):
        contrast = EnergyMatchingContrast(weight, trim=0.0, floor=math.inf)
        method = one_pixel(Quadratic(theta), epsilon=epsilon, steps=120, regression_steps=0, contrast=contrast)
        monkeypatch.setattr(torch.Tensor, "clamp", lambda x, low, high: x)  # the law is of all of the line
        found = [step(method, c * torch.randn(chains, 1, 1, 1), monkeypatch)["grads"][0] for _ in range(8)]
        monkeypatch.undo()
        return float(torch.stack(found).mean())

    assert slope(root) == pytest.approx(0, abs=0.06)
    assert slope(root + 0.2) > 0.15


# ── the chain ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("scheme", "factor"), [("euler", 1 - 0.01 * 0.6429), ("heun", None)])
def test_the_noiseless_chain_of_a_linear_field_is_exact(scheme, factor):
    """Euler multiplies by 1 + aΔt in each step, .5247 after a hundred, and Heun by 1 + aΔt + (aΔt)²/2."""
    slope = 0.01 * 0.6429
    factor = factor or 1 - slope + slope**2 / 2
    method = one_pixel(Quadratic(0.6429), dt=0.01, scheme=scheme).eval()
    start = method.sample(64, steps=0, generator=torch.Generator().manual_seed(3)).images
    made = method.sample(64, generator=torch.Generator().manual_seed(3))
    expected = (factor**100 * start).clamp(-1, 1)
    torch.testing.assert_close(made.images, expected, rtol=1e-5, atol=1e-6)
    assert (made.steps, made.nfe, made.temperature) == (100, 100 if scheme == "euler" else 200, 0.0)
    if scheme == "euler":
        assert factor**100 == pytest.approx(0.5247, abs=2e-4)


@pytest.mark.parametrize("scheme", ["euler", "heun"])
def test_nfe_is_the_number_of_passes(scheme):
    passes = []
    net = Function(lambda x: passes.append(1) or x.flatten(1).sum(1))
    made = one_pixel(net, scheme=scheme, horizon=1.5).eval().sample(5)
    assert made.nfe == len(passes) == (30 if scheme == "euler" else 60)
    assert made.temperature == 1.0


def test_the_chain_has_the_variance_of_its_temperature():
    """ε/(k(1 − kΔt/2)) on V = k x²/2, at which exp(−E) = exp(−V/ε) has the variance ε/k, but for the step."""
    torch.manual_seed(0)
    k, dt, epsilon = 6.0, 0.1, 0.01
    method = one_pixel(Quadratic(k), dt=dt, epsilon=epsilon, in_channels=40, size=10).eval()
    *_, x = method.long_chain(100, 40)[1]
    assert float(x.var()) == pytest.approx(epsilon / (k * (1 - k * dt / 2)), rel=0.02)
    assert method.sampler.temperature == 1.0


@pytest.mark.parametrize(
    ("onset", "heats"),
    [(1.0, [0, 0, 0, 0, 1, 1, 1]), (0.5, [0, 0, 0, 0.5, 1, 1, 1]), (0.0, [0, 0.25, 0.5, 0.75, 1, 1, 1])],
)
def test_noise_begins_at_the_onset_and_grows_linearly(onset, heats):
    torch.manual_seed(0)
    flat = Function(lambda x: 0 * x.flatten(1).sum(1))
    method = one_pixel(flat, dt=0.25, epsilon=0.1, onset=onset, in_channels=40, size=25).eval()
    states = list(method.long_chain(4, len(heats))[1])
    spread = torch.stack([(b - a).std() for a, b in pairwise(states)])
    torch.testing.assert_close(spread, (2 * 0.25 * 0.1 * torch.tensor(heats)).sqrt(), rtol=0.02, atol=1e-7)


def test_the_energy_is_v_over_the_temperature_and_samples_are_clamped_once():
    method = energy_matching(ema_decay=0.0, contrast_ema_decay=0.0).eval()
    x = 3 * torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(method.energy(x), method.averages["energy_net"].module(x) / 0.1)
    made, (_, path) = (
        method.sample(4, generator=torch.Generator().manual_seed(0)),
        method.long_chain(4, 2, generator=torch.Generator().manual_seed(0)),
    )
    *_, last = path
    assert last.abs().max() > 1
    assert torch.equal(made.images, last.clamp(-1, 1))
    assert made.temperature == pytest.approx(1 / 3)


# ── phase 2 ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_contrastive_term_has_a_trim_and_a_floor():
    contrast = EnergyMatchingContrast(weight=0.5, trim=0.25, floor=0.6)
    data, chain = torch.tensor([1.0, 3.0], requires_grad=True), torch.tensor([2.0, 900.0, 1.0, 0.0], requires_grad=True)
    term = contrast(data, chain)
    assert float(term.detach()) == pytest.approx(0.5 * (2 - 1))
    term.backward()
    assert chain.grad.tolist() == pytest.approx([-0.5 / 3, 0, -0.5 / 3, -0.5 / 3])
    assert float(contrast(data - 10, chain).detach()) == pytest.approx(-0.6)
    data.grad = None
    contrast(data - 10, chain).backward()
    assert data.grad.tolist() == [0, 0]  # far above the gap of β/λ nothing is left to learn from it


def test_negatives_start_at_data_and_at_noise_and_log_their_drift(monkeypatch):
    images = torch.full((8, 1, 8, 8), 0.25)
    flat = energy_matching(energy_net=Function(lambda x: x.flatten(1).sum(1)), sampler=Langevin(2, 1e-9), epsilon=1e-6)
    seen = []
    call = Langevin.__call__
    monkeypatch.setattr(Langevin, "__call__", lambda self, e, x, **k: seen.append(x) or call(self, e, x, **k))
    values = step(flat, images, monkeypatch, at=1)
    assert torch.equal(seen[0][:4], images[:4])
    assert seen[0][4:].std() == pytest.approx(1, abs=0.2)
    # the chains drift downhill by next to nothing from data, and from noise of mean 0 lie 64 · 0.25 lower, over ε
    assert float(values["energy_gap"]) < 0
    assert float(values["energy_gap"]) == pytest.approx(float(values["energy_chain"] - values["energy_data"]), rel=1e-5)


def test_dropout_is_off_in_the_chain_and_its_energies_and_on_in_the_transport(monkeypatch):
    modes = []
    method = energy_matching(energy_net=Function(lambda x: modes.append(net.training) or x.square().flatten(1).sum(1)))
    net = method.energy_net
    step(method, torch.zeros(4, 1, 8, 8), monkeypatch, at=1)
    assert modes == [True, False, False, False]
    assert net.training


def test_phase_two_is_the_density_and_has_its_own_average(tmp_path):
    method, data = energy_matching(regression_steps=2, ema_decay=0.5, contrast_ema_decay=0.25), TinyData(n=16)
    trainer(tmp_path, max_steps=2, max_epochs=-1).fit(method, data)
    assert method.averages["energy_net"].decay == 0.5
    assert not method.has_density
    trainer(tmp_path, max_steps=3, max_epochs=-1).fit(method, data)
    assert method.averages["energy_net"].decay == 0.25
    assert method.phase == "contrastive training"
    fresh = energy_matching()
    fresh.load_state_dict(method.state_dict())
    assert fresh.has_density


def test_validation_tells_how_far_long_chains_go(tmp_path):
    method = energy_matching(energy_net=Function(lambda x: -20 * x.sum((1, 2, 3)).abs()), sampler=Langevin(2, 1e-4))
    fit = trainer(tmp_path, limit_val_batches=1)
    fit.fit(method, TinyData(n=8))
    assert float(fit.callback_metrics["val/rms_data"]) < 1
    assert float(fit.callback_metrics["val/rms_twice"]) > 1


# ── options ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_repulsion_is_the_gradient_of_the_joint_energy():
    x = torch.randn(5, 3, dtype=torch.float64)
    energy = Repelling(lambda y: y.square().sum(1), sigma=1.5, together=3)
    moving = x.clone().requires_grad_()
    pairs = [(0, 1), (0, 2), (1, 2), (3, 4)]
    joint = moving.square().sum() - sum((moving[i] - moving[j]).square().sum() for i, j in pairs) / 1.5**2
    joint.backward()
    torch.testing.assert_close(gradient(energy, x), moving.grad)
    projected = Repelling(lambda y: 0 * y.sum(1), 1.0, 2, operator=lambda y: y[:, :1])
    assert (gradient(projected, x)[:, 1:] == 0).all()


def test_samples_that_repel_each_other_spread():
    alone = one_pixel(Quadratic(1.0), in_channels=4).eval()
    apart = one_pixel(Quadratic(1.0), in_channels=4, interaction=EnergyMatchingInteraction(0.2, 2)).eval()
    spread = []
    for method in (alone, apart):
        images = method.sample(200, generator=torch.Generator().manual_seed(0)).images.view(100, 2, 4)
        assert images.abs().max() <= 1
        spread.append(float((images[:, 0] - images[:, 1]).norm(dim=1).mean()))
    assert spread[1] > 1.5 * spread[0]


def test_a_measurement_is_a_term_of_the_energy():
    """V + ε|y − Ax|²/ζ² is ε times E + |y − Ax|²/2σ², ζ² = 2σ²: the posterior of a Gaussian is known."""
    torch.manual_seed(0)
    epsilon, theta, sigma = 0.01, 1.0, 0.1  # the prior has the variance ε/θ, the measurement σ²: the mean is y/2
    method = one_pixel(Quadratic(theta), epsilon=epsilon).eval()
    y = torch.full((4000, 1, 1, 1), 0.6)
    x = Langevin(400, 4e-4)(Observed(method.chain_energy(), lambda x: x, y, sigma), torch.zeros_like(y))
    assert float(x.mean()) == pytest.approx(0.3, abs=0.01)
    assert float(x.var()) == pytest.approx(0.005, rel=0.15)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": 0.0}, "model.epsilon is 0.0"),
        ({"horizon": -1.0}, "model.horizon is -1.0"),
        ({"onset": 1.5}, "model.onset is 1.5"),
        ({"scheme": "rk4"}, "model.scheme is 'rk4'"),
        ({"sampler": Langevin(2, 0.1, 0.1)}, "noise: null"),
        ({"regression_steps": -1}, "regression_steps: -1"),
    ],
)
def test_numbers_out_of_range_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        energy_matching(**changes)


def test_numbers_of_the_contrast_and_the_interaction_out_of_range_are_refused():
    with pytest.raises(UserError, match="weight is -1"):
        EnergyMatchingContrast(weight=-1)
    with pytest.raises(UserError, match="trim is 1"):
        EnergyMatchingContrast(trim=1)
    with pytest.raises(UserError, match="together 1"):
        EnergyMatchingInteraction(1.0, 1)


def test_both_phases_run_in_double_precision(tmp_path):
    method = energy_matching()
    fit = trainer(tmp_path, max_steps=2, precision="64-true")
    fit.fit(method, TinyData(n=16))
    assert bool(method.contrasted)
    assert math.isfinite(fit.callback_metrics["train/loss_contrast"])
