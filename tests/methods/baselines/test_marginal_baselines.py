"""IGEBM, the short-run EBM and Improved CD against their equations, their limits and each other."""

import math
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from ebmzoo.data.image_range import dequantized
from ebmzoo.data.images import to_float
from ebmzoo.energy import EnergyNet
from ebmzoo.errors import UserError
from ebmzoo.methods.baselines import ClippedAdam
from ebmzoo.methods.baselines.improved_cd import held_energy, last_step, nearest_neighbour_entropy
from ebmzoo.methods.families.noise_chain import before_last, noise_first
from ebmzoo.networks.igebm import IGEBMResNet, PostActivationBlock
from ebmzoo.networks.short_run import ShortRunNet
from ebmzoo.sampling.langevin import Langevin
from support.marginal import igebm, improved_cd, short_run
from support.tiny import TinyData, Watch, trainer

ALL = [short_run, igebm, improved_cd]


class Quadratic(EnergyNet):
    """E(x) = θ|x|²/2."""

    def __init__(self, theta=0.7):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta, dtype=torch.float64))

    def forward(self, x):
        return self.theta * x.square().flatten(1).sum(1) / 2


def images(n=6):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def doubles(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def recorded(method, monkeypatch):
    """Have `minimize` note its loss, networks and gradients instead of stepping."""
    calls = []

    def note(self, loss, *names):
        self.zero_grad()
        loss.backward()
        calls.append((loss.detach(), names, grads(self)))
        return torch.tensor(0.0)

    monkeypatch.setattr(type(method), "minimize", note)
    return calls


def grads(method):
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


def assert_is(call, loss, method):
    """The loss noted has the value of `loss`, its network and its gradients."""
    method.zero_grad()
    loss.backward()
    torch.testing.assert_close(call[0], loss.detach(), rtol=1e-5, atol=1e-6)
    assert call[1] == ("energy_net",)
    assert {name.split(".")[0] for name in call[2]} == {"energy_net"}
    for name, want in grads(method).items():
        torch.testing.assert_close(call[2][name], want, rtol=1e-4, atol=1e-6, msg=name)


# ── networks ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (IGEBMResNet, 18_592_385),
        (lambda: IGEBMResNet(depth="small"), 5_316_353),
        (ShortRunNet, 2_763_393),
        (lambda: ShortRunNet(width=32), 693_569),
    ],
)
def test_parameters(make, expected):
    with torch.device("meta"):
        assert sum(p.numel() for p in make().parameters()) == expected


@pytest.mark.parametrize("size", [8, 16, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(size, channels):
    x = torch.rand(2, channels, size, size)
    for net in (ShortRunNet(channels, size, 4), IGEBMResNet(channels, 4), IGEBMResNet(channels, 4, "small")):
        assert net(x).shape == (2,)
        assert net(x[:1]).shape == (1,)


def test_igebm_block_is_its_equation():
    torch.manual_seed(0)
    block = PostActivationBlock(3, 5, down=True, dropout=0.5).double().eval()
    block.gain.data.normal_()
    x = doubles(2, 3, 4, 4)

    def lrelu(x):
        return torch.where(x > 0, x, 0.2 * x)

    def conv(layer, x):
        return F.conv2d(x, layer.weight, layer.bias, padding=1)

    h = block.gain * conv(block.conv2, lrelu(conv(block.conv1, x)))
    pooled = (h + conv(block.shortcut, x)).unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    torch.testing.assert_close(block(x), lrelu(pooled))
    same = PostActivationBlock(3, 3, down=False, dropout=0.0)
    assert isinstance(same.shortcut, nn.Identity)


def test_igebm_net_sums_over_pixels_and_normalises_its_convolutions_alone():
    net = IGEBMResNet(1, 4, "small").eval()
    normal = {n for n, m in net.named_modules() if parametrize.is_parametrized(m)}
    assert normal == {n for n, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    seen = []
    net.blocks.register_forward_hook(lambda _m, _x, h: seen.append(h))
    energy = net(torch.rand(3, 1, 16, 16))
    want = seen[0].clamp_min(0).sum((2, 3)) @ net.last.weight[0] + net.last.bias
    assert seen[0].shape[2:] == (2, 2)
    torch.testing.assert_close(energy, want)


def test_igebm_net_is_random_only_in_training():
    torch.manual_seed(0)
    net, x = IGEBMResNet(1, 4, "small"), torch.rand(2, 1, 8, 8)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


def test_short_run_net_is_minus_f():
    torch.manual_seed(0)
    net = ShortRunNet(3, 16, 4, leak=0.05).double()
    assert [tuple(m.weight.shape) for m in net.modules() if isinstance(m, nn.Conv2d)] == [
        *[(4, 3, 3, 3), (8, 4, 4, 4), (16, 8, 4, 4)],
        (1, 16, 4, 4),
    ]
    x = h = doubles(2, 3, 16, 16)
    for layer, stride in zip(net.convs, (1, 2, 2), strict=True):
        h = F.conv2d(h, layer.weight, layer.bias, stride, 1)
        h = torch.where(h > 0, h, 0.05 * h)
    f = (h * net.last.weight).sum((1, 2, 3)) + net.last.bias
    torch.testing.assert_close(net(x), -f)
    with pytest.raises(UserError, match="size: 24 must be 4 times a power of two"):
        ShortRunNet(size=24)


# ── the chain and the data ──────────────────────────────────────────────────────────────────────────────────────────


def test_dequantised_stays_in_its_level():
    levels = torch.arange(256, dtype=torch.uint8)
    x = dequantized(to_float(levels).double().expand(50, -1))
    assert torch.equal((128 * (x + 1)).floor(), levels.double().expand(50, -1))
    inside = 128 * (x + 1) - levels
    assert inside.mean().item() == pytest.approx(0.5, abs=0.02)
    assert inside.var().item() == pytest.approx(1 / 12, abs=0.005)


def test_noise_comes_before_the_gradient():
    x0, sampler = doubles(4, 3), Langevin(5, 0.3, 0.2)
    torch.manual_seed(2)
    made = noise_first(sampler, Quadratic(), x0)
    torch.manual_seed(2)
    want = x0
    for _ in range(5):
        y = want + 0.2 * torch.randn(4, 3, dtype=torch.float64)
        want = y - 0.3 * 0.7 * y
    torch.testing.assert_close(made, want.detach())
    torch.manual_seed(2)
    torch.testing.assert_close(before_last(sampler, Quadratic(), x0), y)
    assert noise_first(Langevin(0, 0.3, 0.2), Quadratic(), x0) is x0


def test_noise_first_keeps_its_bounds_and_without_noise_is_langevin():
    x0 = 5 * doubles(4, 3)
    bounded = Langevin(3, 0.1, 2.0, bounds=(-1, 1))
    seen = []
    made = noise_first(bounded, lambda x: seen.append(x.detach()) or Quadratic()(x), x0)
    assert max(x.abs().max() for x in [*seen, made]) <= 1
    assert len(seen) == 3
    still = Langevin(3, 0.1, 0.0)
    torch.testing.assert_close(noise_first(still, Quadratic(), x0), still(Quadratic(), x0))


# ── Adam that clamps gradients ──────────────────────────────────────────────────────────────────────────────────────


def test_clipped_adam_clamps_to_three_deviations_and_a_tenth():
    given = [0.05, 5.0, -0.2, -7.0, 0.3, 40.0]
    ours, theirs = (nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2))
    clipped, plain = ClippedAdam([ours], lr=0.1, betas=(0.0, 0.9)), torch.optim.Adam([theirs], 0.1, betas=(0.0, 0.9))
    v, limited = 0.0, 0
    for t, g in enumerate(given, start=1):
        bound = 3 * math.sqrt(v / (1 - 0.9**t)) + 0.1
        allowed = max(-bound, min(bound, g))
        limited += allowed != g
        v = 0.9 * v + 0.1 * allowed**2
        ours.grad, theirs.grad = torch.full_like(ours, g), torch.full_like(theirs, allowed)
        clipped.step()
        plain.step()
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=0)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    assert limited == 3


def test_clipped_adam_goes_on_from_its_state():
    def stepped(optimizer, p, gradients):
        for g in gradients:
            p.grad = torch.full_like(p, g)
            optimizer.step()
        return p.detach().clone()

    whole, first, second = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    want = stepped(ClippedAdam([whole]), whole, [0.05, 3.0, 3.0])
    before = ClippedAdam([first])
    second.data.copy_(stepped(before, first, [0.05, 3.0]))
    after = ClippedAdam([second])
    after.load_state_dict(before.state_dict())
    assert torch.equal(stepped(after, second, [3.0]), want)


# ── the short-run EBM ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("steps", [3, 0])
def test_short_run_loss(steps, monkeypatch):
    """Without steps the data are compared with the noise itself."""
    method = short_run(sampler=Langevin(steps, 0.1, 0.01), data_noise=0.3)
    calls, x = recorded(method, monkeypatch), images()
    torch.manual_seed(3)
    method.iterate(x, torch.zeros(6))
    torch.manual_seed(3)
    chain, E = torch.rand(6, 1, 8, 8) * 2 - 1, method.energy_net
    for _ in range(steps):
        at = chain.detach().requires_grad_()
        chain = chain - 0.1 * torch.autograd.grad(E(at).sum(), at)[0] + 0.01 * torch.randn(6, 1, 8, 8)
    noisy = x + 0.3 * torch.randn(6, 1, 8, 8)
    assert_is(calls[0], E(noisy).mean() - E(chain).mean(), method)


def test_short_run_gradient_is_a_difference_of_second_moments(monkeypatch):
    """dL/dθ = (E₊|x|² − E₋|x|²)/2 of E = θ|x|²/2, and x̃ = (1 − ηθ)ᴷ x₀ without noise (laws 1 and 8)."""
    method = short_run(energy_net=Quadratic(), sampler=Langevin(4, 0.3, 0.0), data_noise=0.0)
    x, x0 = doubles(6, 1, 8, 8), images().double().flip(0)
    monkeypatch.setattr(method, "start", lambda *_: x0)
    calls = recorded(method, monkeypatch)
    method.iterate(x, torch.zeros(6))
    chain = (1 - 0.3 * 0.7) ** 4 * x0
    want = (x.square().sum() - chain.square().sum()) / 6 / 2
    torch.testing.assert_close(calls[0][2]["energy_net.theta"], want)


def test_short_run_starts_anew_each_time():
    method = short_run(sampler=Langevin(0, 0.1, 0.01))
    torch.manual_seed(0)
    x = method.sample(500).images
    assert x.shape == (500, 1, 8, 8)
    assert x.mean().item() == pytest.approx(0, abs=0.02)
    assert x.var().item() == pytest.approx(1 / 3, abs=0.01)
    assert not list(method.buffers(recurse=False))


# ── IGEBM ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_igebm_loss_and_buffer(monkeypatch):
    method = igebm(alpha=0.7, reinit_prob=0.3, replay_storage="float32", replay_size=9)
    method.replay.store(images(9), torch.arange(9))
    calls, x, replay = recorded(method, monkeypatch), images(), deepcopy(method.replay)
    torch.manual_seed(3)
    method.iterate(x, torch.zeros(6))
    torch.manual_seed(3)
    real = ((x + 1) / 2 * 255 + torch.rand(6, 1, 8, 8)) / 256
    E, chain = method.energy_net, (replay.draw(6)[0] + 1) / 2
    for _ in range(2):
        at = (chain + 0.01 * torch.randn(6, 1, 8, 8)).clamp(0, 1).requires_grad_()
        chain = (at - 0.1 * torch.autograd.grad(E(at).sum(), at)[0]).detach()
    chain = chain.clamp(0, 1)
    data, ends = E(real), E(chain)
    assert_is(calls[0], data.mean() - ends.mean() + 0.7 * ((data**2).mean() + (ends**2).mean()), method)
    torch.testing.assert_close(method.replay.states[:6], chain * 2 - 1)  # the oldest of nine
    assert torch.equal(method.replay.states[6:], replay.states[6:])


def test_igebm_chains_go_on_where_they_ended(monkeypatch):
    """Two iterations from a buffer that holds one state twice are one chain of twice the steps."""
    still = Langevin(3, 0.1, 0.0)
    method = igebm(sampler=still, image_range=(-1, 1), reinit_prob=0.0, replay_size=6, replay_storage="float32")
    recorded(method, monkeypatch)
    x = images(1).expand(6, -1, -1, -1)
    method.replay.store(x, torch.arange(6))
    for _ in range(2):
        method.iterate(images(), torch.zeros(6))
    want = Langevin(6, 0.1, 0.0)(method.energy_net, x)
    torch.testing.assert_close(method.replay.states, want.contiguous())


def test_igebm_without_memory_and_penalty_is_short_run(monkeypatch):
    x0, still = images().flip(0), Langevin(3, 0.1, 0.0)
    ours = igebm(sampler=still, alpha=0.0, reinit_prob=1.0, image_range=(-1, 1), dequantize=False)
    theirs = short_run(sampler=still, data_noise=0.0)
    ours.replay.store(images(), torch.arange(6))
    monkeypatch.setattr(ours.replay, "fresh", lambda *_: x0)
    monkeypatch.setattr(theirs, "start", lambda *_: x0)
    one, two = recorded(ours, monkeypatch), recorded(theirs, monkeypatch)
    ours.iterate(images(), torch.zeros(6))
    theirs.iterate(images(), torch.zeros(6))
    torch.testing.assert_close(one[0][0], two[0][0])
    torch.testing.assert_close(one[0][2], two[0][2])


# ── Improved CD ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_kl_gradient_is_through_the_last_step_alone():
    """E = θ|x|²/2, x̃ = (1 − ηθ)y: the energy held, dL/dθ = θx̃ · dx̃/dθ = −ηθ(1 − ηθ)y²."""
    net, y = Quadratic(0.7), doubles(5, 3)
    moving = last_step(net, y, Langevin(1, 0.3, 0.0))
    torch.testing.assert_close(moving.detach(), (1 - 0.3 * 0.7) * y)
    held_energy(net, moving).backward()
    squares = y.square().sum(1).mean()
    torch.testing.assert_close(net.theta.grad, -0.3 * 0.7 * (1 - 0.3 * 0.7) * squares)
    assert not held_energy(net, moving.detach()).requires_grad
    assert net.theta.requires_grad


def test_clamped_pixels_teach_nothing():
    net, y = Quadratic(0.7), torch.tensor([[9.0, -9.0, 0.5]], dtype=torch.float64)
    moving = last_step(net, y, Langevin(1, 0.3, 0.0, bounds=(-1, 1)))
    torch.testing.assert_close(moving.detach(), torch.tensor([[1, -1, 0.79 * 0.5]], dtype=torch.float64))
    held_energy(net, moving).backward()
    torch.testing.assert_close(net.theta.grad, torch.tensor(-0.3 * 0.7 * 0.79 * 0.25, dtype=torch.float64))


def test_entropy_is_of_the_nearest_and_drives_apart():
    x = torch.tensor([[0.0, 0.0], [4.0, 1.0]], dtype=torch.float64, requires_grad=True)
    others = torch.tensor([[3.0, 4.0], [0.0, -7.0], [4.0, 3.0]], dtype=torch.float64)
    entropy = nearest_neighbour_entropy(x, others)  # distances 5, to the first, and 2, to the third
    torch.testing.assert_close(entropy.detach().item(), (math.log(5) + math.log(2)) / 2)
    entropy.backward()
    away = torch.stack([x[0] - others[0], x[1] - others[2]]).detach()
    torch.testing.assert_close(x.grad, away / away.square().sum(1, keepdim=True) / 2)
    same = torch.zeros(1, 2, requires_grad=True)
    nearest_neighbour_entropy(same, torch.zeros(3, 2)).backward()
    assert torch.equal(same.grad, torch.zeros(1, 2))


def test_improved_cd_loss_and_buffer(monkeypatch):
    method = improved_cd(alpha=0.5, kl_weight=0.8, entropy_weight=0.4, replay_storage="float32", neighbours=3)
    method.replay.store(images(30), torch.arange(30))
    calls, x, replay = recorded(method, monkeypatch), images(), deepcopy(method.replay)
    torch.manual_seed(3)
    method.iterate(x, torch.zeros(6))
    torch.manual_seed(3)
    real = ((x + 1) / 2 * 255 + torch.rand(6, 1, 8, 8)) / 256
    start = (replay.draw(6, change=method.augment)[0] + 1) / 2
    E = method.energy_net
    fixed = {name: p.detach().clone() for name, p in E.named_parameters()}

    y = (start + 0.01 * torch.randn(6, 1, 8, 8)).clamp(0, 1).requires_grad_()
    y = y - 0.1 * torch.autograd.grad(E(y).sum(), y)[0] + 0.01 * torch.randn(6, 1, 8, 8)
    y = y.clamp(0, 1).detach().requires_grad_()
    moving = (y - 0.1 * torch.autograd.grad(E(y).sum(), y, create_graph=True)[0]).clamp(0, 1)
    chain = moving.detach()
    others = (method.augment(replay.draw(3, renew=False)[0]) + 1) / 2
    nearest = (moving[:, None] - others).square().sum((2, 3, 4)).sqrt().amin(1)
    data, ends = E(real), E(chain)
    cd = data.mean() - ends.mean() + 0.5 * ((data**2).mean() + (ends**2).mean())
    kl = functional_call(E, fixed, moving).mean()
    assert_is(calls[0], cd + 0.8 * kl - 0.4 * nearest.log().mean(), method)
    torch.testing.assert_close(method.replay.states[30:36], chain * 2 - 1)
    assert torch.equal(method.replay.states[:30], replay.states[:30])


def test_improved_cd_without_its_terms_is_igebm_with_augmentation(monkeypatch):
    ours = improved_cd(kl_weight=0.0, entropy_weight=0.0)
    theirs = igebm()
    monkeypatch.setattr(ours, "augment", nn.Identity())
    one, two = recorded(ours, monkeypatch), recorded(theirs, monkeypatch)
    for method in (ours, theirs):
        torch.manual_seed(3)
        method.iterate(images(), torch.zeros(6))  # both buffers are empty
    torch.testing.assert_close(one[0][0], two[0][0])
    torch.testing.assert_close(one[0][2], two[0][2], rtol=1e-4, atol=1e-6)


def test_improved_cd_augments_states_of_the_buffer_and_not_noise(monkeypatch):
    method = improved_cd(reinit_prob=0.5, replay_storage="float32", sampler=Langevin(1, 0.0, 0.0), entropy_weight=0.0)
    method.replay.store(torch.full((30, 1, 8, 8), 0.25), torch.arange(30))
    monkeypatch.setattr(method.augment, "forward", lambda x, generator=None: torch.full_like(x, -0.5))
    recorded(method, monkeypatch)
    torch.manual_seed(3)
    method.iterate(images(), torch.zeros(6))
    ends = method.replay.states[30:36]
    replayed = (ends == -0.5).flatten(1).all(1)
    assert 0 < int(replayed.sum()) < 6
    assert float(ends[~replayed].std()) > 0.4  # uniform on [-1, 1]: 0.58

    noise = method.replay.fresh(3, torch.Generator().manual_seed(0))
    assert torch.allclose(
        method.sample(3, steps=1, generator=torch.Generator().manual_seed(0)).images, noise, atol=1e-6
    )
    again = method.sample(3, steps=2, generator=torch.Generator().manual_seed(0)).images
    assert torch.allclose(again, torch.tensor(-0.5)), "the second round starts from v(x)"
    method.sample_from_replay = True
    assert torch.allclose(method.sample(3, steps=1).images, torch.tensor(-0.5))


def test_entropy_waits_for_the_buffer(monkeypatch):
    method = improved_cd(neighbours=1)
    recorded(method, monkeypatch)
    told = [method.iterate(images(), torch.zeros(6))["entropy"] for _ in range(3)]
    assert [bool(entropy == 0) for entropy in told] == [True, True, False]  # 0, 6 and 12 states


def test_augment_is_the_authors():
    v = improved_cd().augment
    assert (v.crop_scale, v.jitter, v.jitter_prob) == ((0.08, 1.0), (0.8, 0.8, 0.8, 0.4), 0.8)
    assert (v.grayscale_prob, v.flip_prob) == (0.2, 0.5)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [(Langevin(0, 0.1), "steps is 0"), (Langevin(2, 0.1, clip=0.1), "clip and max_step_norm must be null")],
)
def test_improved_cd_needs_a_last_step_that_it_can_differentiate(sampler, message):
    with pytest.raises(UserError, match=message):
        improved_cd(sampler=sampler)


# ── all of them ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("make", ALL)
def test_each_trains_samples_and_scores(make, tmp_path):
    torch.manual_seed(0)
    method, steps = make(), []
    before = {n: p.detach().clone() for n, p in method.named_parameters() if not n.startswith("averages")}
    trainer(tmp_path, callbacks=[Watch(lambda t, m: steps.append(t.global_step))]).fit(method, TinyData())
    assert steps == [1, 2, 3, 4]
    assert any(not torch.equal(p, before[n]) for n, p in method.named_parameters() if n in before)
    logged = set(method.trainer.callback_metrics)
    told = {"energy_data", "energy_chain", "energy_gap", "displacement", "displacement_ratio"}
    assert {f"train/{name}" for name in told | {"grad_norm", "loss_energy"}} <= logged
    made, again = (method.sample(3, generator=torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(made.images, again.images)
    assert (made.nfe, made.steps, made.start) == (2, 2, "noise")
    assert made.temperature == method.sampler.temperature
    alone = method.sample(3, steps=0)
    assert (alone.nfe, alone.start) == (0, "noise")
    assert math.isnan(alone.temperature)
    assert alone.images.abs().max() <= 1
    with method.evaluating():
        inward = images() if make is short_run else (images() + 1) / 2
        torch.testing.assert_close(method.ood_score(images()), method.network("energy_net")(inward))
    with pytest.raises(UserError, match="is unconditional: sample takes no labels"):
        method.sample(2, labels=torch.zeros(2))


@pytest.mark.parametrize("make", [igebm, improved_cd])
def test_rounds_are_chains_after_each_other(make):
    method = make(rounds=2)
    monitored = []
    walk = method.walk
    object.__setattr__(method, "walk", lambda s, *rest: monitored.append(s.steps) or walk(s, *rest))
    made = method.sample(2, generator=torch.Generator().manual_seed(0))
    assert (made.nfe, monitored) == (4, [2, 2])
    g = torch.Generator().manual_seed(0)
    with method.evaluating():
        x = method.range.inward(method.replay.fresh(2, g))
        x = walk(method.sampler, method.network("energy_net"), x, g)
        x = walk(method.sampler, method.network("energy_net"), method.revisited(x, g), g)
    assert torch.equal(made.images, method.range.outward(x))
    monitored.clear()
    assert method.sample(2, steps=5).nfe == 5
    assert monitored == [2, 2, 1]


@pytest.mark.parametrize("make", [igebm, improved_cd])
def test_samples_from_the_buffer_say_so(make):
    method = make(sample_from_replay=True, reinit_prob=0.0, replay_storage="float32")
    method.replay.store(torch.full((5, 1, 8, 8), 0.25), torch.arange(5))
    made = method.sample(3, steps=0)
    assert made.start == "replay"
    assert torch.equal(made.images, torch.full((3, 1, 8, 8), 0.25))
