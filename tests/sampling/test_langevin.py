"""The sampler against the exact laws of the Ornstein–Uhlenbeck chain on E(x) = x²/2v."""

import math
import weakref

import pytest
import torch
from torch import nn

from ebmzoo.energy import EnergyNet, frozen, gradient
from ebmzoo.errors import UserError
from ebmzoo.networks import spectral_norm_
from ebmzoo.sampling.langevin import ChainDivergedError, Langevin


def quadratic(variance=1.0):
    return lambda x: x.square().flatten(1).sum(1) / (2 * variance)


def variance_after(n, eta, tau, v=1.0):
    """Of n steps from a point: τ²(1 − a²ⁿ)/(1 − a²), a = 1 − η/v."""
    a = 1 - eta / v
    return tau**2 * (1 - a ** (2 * n)) / (1 - a**2)


class Net(EnergyNet):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.evaluations = 0

    def forward(self, x):
        self.evaluations += 1
        return self.conv(x).square().flatten(1).sum(1)


def test_zero_noise_contracts_exactly():
    x0 = torch.randn(5, 3, dtype=torch.float64)
    x = Langevin(steps=7, step_size=0.3, noise=0.0)(quadratic(2.0), x0)
    torch.testing.assert_close(x, (1 - 0.3 / 2.0) ** 7 * x0, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("eta", "tau", "v", "steps"), [(0.1, 0.05, 1.0, 3), (0.125, 0.5, 1.0, 200), (0.3, 0.2, 0.8, 10)]
)
def test_mean_and_variance(eta, tau, v, steps):
    x = Langevin(steps, eta, tau)(quadratic(v), torch.full((200_000, 1), 1.5, dtype=torch.float64))
    want = variance_after(steps, eta, tau, v)
    assert float(x.mean()) == pytest.approx((1 - eta / v) ** steps * 1.5, abs=5 * math.sqrt(want / 200_000))
    assert float(x.var()) == pytest.approx(want, rel=5 * math.sqrt(2 / 200_000))


def test_stationary_variance_of_the_one_number_form():
    # v / (1 − s²/4v) with η = s²/2 and τ = s
    s, v = 0.5, 1.0
    x = Langevin.from_delta(300, s)(quadratic(v), torch.randn(200_000, 1))
    assert float(x.var()) == pytest.approx(v / (1 - s**2 / (4 * v)), rel=0.016)


def test_temperature():
    assert Langevin(10, 0.2).temperature == pytest.approx(1.0)
    assert Langevin(10, 0.2).tau == pytest.approx(math.sqrt(0.4))
    assert Langevin.from_delta(10, 0.3, temperature=0.01).temperature == pytest.approx(0.01)
    assert Langevin(60, 100.0, 1e-3).temperature == pytest.approx(5e-9)  # CLEL's
    # the law exp(−E/T) on E = x²/2 has variance T up to the step's bias 1/(1 − η/2)
    cold = Langevin.from_delta(400, 0.1, temperature=0.25)
    x = cold(quadratic(), torch.zeros(100_000, 1))
    assert float(x.var()) == pytest.approx(0.25 / (1 - cold.step_size / 2), rel=0.025)


def test_limits():
    x0 = torch.randn(4, 2, 3, 3)
    assert torch.equal(Langevin(0, 1.0)(quadratic(), x0), x0)
    assert torch.equal(Langevin(5, 0.0, 0.0)(quadratic(), x0), x0)
    still = Langevin(9, 0.0, 0.1)
    moved = still(lambda x: 0 * x.sum((1, 2)), torch.zeros(50_000, 1, 1))
    assert float(moved.square().mean().sqrt()) == pytest.approx(still.noise_floor, rel=0.02)


def test_step_size_and_noise_of_each_image():
    x0 = torch.ones(3, 1, 2, 2, dtype=torch.float64)
    etas = torch.tensor([0.0, 0.1, 0.5], dtype=torch.float64)
    x = Langevin(4, 9.0, 0.0)(quadratic(), x0, step_size=etas)
    torch.testing.assert_close(x, ((1 - etas) ** 4).view(3, 1, 1, 1) * x0)
    # noise=None is derived from the step size in effect, for each image
    x = Langevin(1, 9.0)(lambda x: 0 * x.sum(1), torch.zeros(3, 100_000), step_size=torch.tensor([0.0, 0.5, 2.0]))
    torch.testing.assert_close(x.std(1), torch.tensor([0.0, 1.0, 2.0]), rtol=0.02, atol=1e-6)
    x = Langevin(1, 0.0)(lambda x: 0 * x.sum(1), torch.zeros(2, 100_000), noise=torch.tensor([0.0, 3.0]))
    torch.testing.assert_close(x.std(1), torch.tensor([0.0, 3.0]), rtol=0.02, atol=1e-6)


def test_clip_is_per_element_and_norm_limit_per_image():
    x0 = torch.tensor([[3.0, -0.2], [30.0, 40.0]], dtype=torch.float64)
    clipped = Langevin(1, 1.0, 0.0, clip=1.0)(quadratic(), x0)
    torch.testing.assert_close(clipped, torch.tensor([[2.0, 0.0], [29.0, 39.0]], dtype=torch.float64))
    limited = Langevin(1, 1.0, 0.0, max_step_norm=5.0)(quadratic(), x0)
    torch.testing.assert_close(limited, torch.tensor([[0.0, 0.0], [27.0, 36.0]], dtype=torch.float64))


def test_bounds_hold_at_every_step():
    sampler = Langevin(20, 0.0, 1.0, bounds=(0.0, 1.0))
    states = list(sampler.path(quadratic(), torch.rand(10, 1, 4, 4)))
    assert all(float(s.min()) >= 0 and float(s.max()) <= 1 for s in states[1:])
    assert float(states[-1].max()) == 1.0


def test_path_is_the_chain():
    sampler, x0 = Langevin(6, 0.1, 0.3), torch.randn(4, 1, 3, 3)
    states = list(sampler.path(quadratic(), x0, generator=torch.Generator().manual_seed(3)))
    last = sampler(quadratic(), x0, generator=torch.Generator().manual_seed(3))
    assert len(states) == 7
    assert torch.equal(states[0], x0)
    assert torch.equal(states[-1], last)
    assert not torch.equal(sampler(quadratic(), x0, generator=torch.Generator().manual_seed(4)), last)


def test_start_is_left_as_it_was_and_result_has_no_graph():
    x0 = torch.randn(2, 3, 4, 4, requires_grad=True)
    before = x0.detach().clone()
    x = Langevin(3, 0.1)(Net(), x0)
    assert not x.requires_grad
    assert torch.equal(x0, before)
    assert x0.grad is None


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off(context):
    net, x0 = Net(), torch.randn(2, 3, 8, 8)
    want = Langevin(3, 0.01, 0.0)(net, x0)
    with context():
        got = Langevin(3, 0.01, 0.0)(net, x0.clone())
    torch.testing.assert_close(got, want)


def test_parameters_are_frozen_in_the_chain_and_restored():
    net, seen = Net(), []
    net.conv.bias.requires_grad_(False)

    def watch(x):
        seen.append([p.requires_grad for p in net.parameters()])
        return net(x)

    Langevin(2, 0.01)(net, torch.randn(1, 3, 4, 4))
    assert all(p.grad is None for p in net.parameters())
    assert net.conv.weight.requires_grad
    assert not net.conv.bias.requires_grad
    with frozen(net):
        assert not net.conv.weight.requires_grad
    assert net.conv.weight.requires_grad


def test_spectral_norm_once_a_chain(monkeypatch):
    net = Net()
    spectral_norm_(net, "conv")
    net.train()
    iterations = []
    original = torch.nn.utils.parametrizations._SpectralNorm._power_method
    monkeypatch.setattr(
        torch.nn.utils.parametrizations._SpectralNorm,
        "_power_method",
        lambda *args: (iterations.append(1), original(*args))[1],
    )
    Langevin(5, 0.01)(net, torch.randn(1, 3, 4, 4))
    assert net.evaluations == 5
    assert len(iterations) == 1


@pytest.mark.parametrize(("when", "iterations"), [("chain", 1), ("step", 5)])
def test_power_iterations_are_made_once_a_chain_or_at_every_step(when, iterations):
    """u after the chain is that of as many power iterations on the stored weight; in eval mode it stays."""
    torch.manual_seed(0)
    net = Net()
    spectral_norm_(net, "conv")
    (normed,) = net.conv.parametrizations.weight
    u, matrix = normed._u.clone(), net.conv.parametrizations.weight.original.detach().flatten(1)
    sampler, x = Langevin(5, 0.01, power_iterations=when), torch.randn(1, 3, 4, 4)
    sampler(net.eval(), x)
    assert torch.equal(normed._u, u)
    sampler(net.train(), x)
    for _ in range(iterations):
        v = torch.nn.functional.normalize(matrix.T @ u, dim=0)
        u = torch.nn.functional.normalize(matrix @ v, dim=0)
    torch.testing.assert_close(normed._u, u, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"power_iterations": "once"}, "'once'"),
        ({"power_iterations": "step", "compile": True}, "must be 'chain'"),
    ],
)
def test_power_iterations_that_cannot_be_are_told(changes, message):
    with pytest.raises(UserError, match=message):
        Langevin(2, 0.1, **changes)


def test_memory_layout_does_not_change_the_chain():
    net, x0 = Net(), torch.randn(2, 3, 8, 8)
    states = {}
    for channels_last in (False, True):
        sampler = Langevin(3, 0.01, 0.1, channels_last=channels_last)
        states[channels_last] = sampler(net, x0, generator=torch.Generator().manual_seed(0))
    assert states[True].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(states[True], states[False], rtol=1e-5, atol=1e-6)


def test_bf16_keeps_state_and_noise_fp32():
    # τ = 1e-3 is below bf16's spacing near 1: a bf16 state would not move at all
    dtypes = []

    def energy(x):
        dtypes.append((x.dtype, torch.nn.functional.linear(x, torch.ones(1, 1)).dtype))
        return x.sum(1)

    sampler = Langevin(1, 0.0, 1e-3, precision="bf16")
    x = sampler(energy, torch.ones(10_000, 1))
    assert dtypes == [(torch.float32, torch.bfloat16)]
    assert x.dtype == torch.float32
    assert float(x.std()) == pytest.approx(1e-3, rel=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        Langevin(1, 0.0, precision="fp32")(energy, torch.ones(1, 1))
    assert dtypes[-1] == (torch.float32, torch.float32)


@pytest.mark.parametrize(("precision", "around"), [("fp32", False), ("bf16", False), ("ambient", True)])
def test_memory_does_not_grow_with_steps(precision, around):
    seen, alive, linear = [], [], nn.Linear(11, 1)

    def energy(x):
        seen.append(weakref.ref(x))
        alive.append(sum(state() is not None for state in seen))
        return linear(x).square().sum(1)

    with torch.autocast("cpu", torch.bfloat16, enabled=around):
        Langevin(30, 0.01, precision=precision)(energy, torch.randn(7, 11))
        assert torch.is_autocast_cache_enabled()
    assert max(alive) <= 2


@pytest.mark.parametrize(("start", "step"), [(1.0, 4), (1e30, 1)])
def test_divergence_names_the_step(start, step):
    # from 1, gradient 1e12 x: |x| is 1, 1e12, 1e24, 1e36, then infinite at step 4; from 1e30 at once
    with pytest.raises(ChainDivergedError, match=f"at step {step}:"):
        Langevin(10, 1.0, 0.0)(quadratic(1e-12), torch.full((2, 1), start))
    with pytest.raises(ChainDivergedError, match=f"at step {step}:"):
        list(Langevin(10, 1.0, 0.0).path(quadratic(1e-12), torch.full((2, 1), start)))


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"steps": -1}, "steps"),
        ({"step_size": -1.0}, "step_size"),
        ({"noise": math.nan}, "noise"),
        ({"bounds": (1.0, 0.0)}, "bounds"),
    ],
)
def test_wrong_numbers_are_named(wrong, name):
    with pytest.raises(UserError, match=name):
        Langevin(**({"steps": 1, "step_size": 0.1} | wrong))


def test_gradient_of_each_image_alone():
    x = torch.randn(4, 1, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(gradient(quadratic(3.0), x), x / 3.0)
