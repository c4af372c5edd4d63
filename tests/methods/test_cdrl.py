"""CDRL and DRL against their equations, and end to end on Gaussian data, where the exact energies are known."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from ebmzoo.errors import UserError
from ebmzoo.methods import CDRL, RecoveryChain
from ebmzoo.methods.baselines import DRL
from ebmzoo.methods.families.level_sampler import ClassCondition, LevelSampler, recovery_energy
from ebmzoo.networks import Initializer, LevelEnergyNet, RecoveryResNet
from ebmzoo.networks.autoencoder import ImageCoder, KLAutoEncoder
from ebmzoo.sampling.level_energies import AtLevel, Recovery, guided
from ebmzoo.sampling.noise_schedule import CosineSchedule
from ebmzoo.training.checkpoint import LastCheckpoint
from ebmzoo.training.config_files import config_path, config_paths, read_config
from support.tiny import TinyData, cdrl, drl, trainer
from support.watched import watched

MEAN, STD = 0.4, 0.5


def images(n=6):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


class Exact(LevelEnergyNet):
    """Ê of data N(μ, c²): s² (y − m ᾱ μ)²/(2 m² v), v = ᾱ² c² + σ̄²; class k has the mean μ + k."""

    def __init__(self, schedule, chain, classes=0):
        super().__init__()
        self.schedule, self.chain, self.classes = schedule, chain, classes
        self.theta = torch.nn.Parameter(torch.ones(()))

    def law(self, i, mean=MEAN):
        """Mean and variance of y at transition i."""
        s, m = self.schedule, self.schedule.scale(i)
        v = s.alpha_bar[i - 1].square() * STD**2 + s.sigma_bar[i - 1].square()
        return m * s.alpha_bar[i - 1] * mean, m.square() * v

    def forward(self, x, time, labels=None):
        i = (time[:, None] - self.schedule.time[None]).abs().argmin(1) + 1
        mean = MEAN if labels is None else MEAN + labels.clamp_min(0).to(x)
        center, v = self.law(i, mean)
        distance = (x.flatten(1) - center[:, None]).square().sum(1)
        return self.theta * self.chain.unit(self.schedule, i) * distance / (2 * v)


class Still(Initializer):
    """U = 0: the proposal's mean is x_i."""

    classes = 0

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, time, labels=None):
        return x * self.weight


def exact(initializer=None, classes=0, **numbers):
    schedule, chain = CosineSchedule(), RecoveryChain(**numbers)
    net = Exact(schedule, chain, classes)
    return CDRL(net, initializer, schedule=schedule, chain=chain, in_channels=1, size=1, denoise=1.0).double(), net


def recursion(net, chain, x, steps):
    """x_0 by the chains without noise, from x, as affine maps written out."""
    s = net.schedule
    for level in range(s.levels, 0, -1):
        i = torch.tensor([level])
        center, v = net.law(i)
        pull = 0.0 if level == s.levels else 1 / s.sigma[i].square()
        eta = chain.unit(s, i) * chain.steps / steps / 2
        y = x.clone()
        for _ in range(steps):
            y = y - eta * ((y - center) / v + (y - x) * pull)
        x = y / s.scale(i)
    return x


@pytest.mark.parametrize("steps", [None, 5, 3])
def test_sampling_without_noise_is_the_affine_recursion(steps):
    """Also with fewer steps, whose step size is √(K/K') times that of training."""
    method, net = exact(steps=15, noise=0.0, variance=4e-3)
    torch.manual_seed(0)
    start = torch.randn(4, 1, 1, 1)
    torch.manual_seed(0)
    made = method.sample(4, steps=steps)
    x = recursion(net, method.chain, start.double(), steps or 15)
    # Tweedie with coefficient 1: E[x|x_0] = (x_0 + σ̄² ∇log p)/ᾱ
    a, v = net.schedule.alpha_bar[0], net.schedule.alpha_bar[0].square() * STD**2 + net.schedule.sigma_bar[0].square()
    want = (x - net.schedule.sigma_bar[0].square() * (x - a * MEAN) / v) / a
    torch.testing.assert_close(made.images, want, rtol=1e-5, atol=1e-6)
    assert made.nfe == 6 * (steps or 15) + 1


def test_exact_energies_give_the_data_s_mean_and_variance():
    """End to end (law 2): chains long enough keep every level's law, up to the step's known bias."""
    method, _ = exact(steps=200, variance=5e-4, grow=False)
    torch.manual_seed(0)
    made = method.sample(10_000).images.flatten()
    assert float(made.mean()) == pytest.approx(MEAN, abs=5 * STD / math.sqrt(10_000) + 2e-3)
    assert float(made.std()) == pytest.approx(STD, rel=0.04)


def test_one_chain_has_the_posterior_s_mean_and_variance():
    """Law 2: mean (y₀/v + x/σ²)/P and variance (1/P)/(1 − s²P/4), P = 1/v + 1/σ²."""
    method, net = exact(steps=400, variance=5e-4, grow=False)
    i = torch.full((20_000,), 3)
    x = torch.full((20_000, 1, 1, 1), 1.3).double()
    unit = method.chain.unit(method.schedule, i)
    torch.manual_seed(0)
    y = method.chain(recovery_energy(net, method.schedule, x, i, unit, ClassCondition()), x, unit).flatten()
    center, v = (float(value[0]) for value in net.law(i))
    sigma2, s2 = float(method.schedule.sigma[3]) ** 2, float(unit[0])
    precision = 1 / v + 1 / sigma2
    assert float(y.mean()) == pytest.approx(
        (center / v + 1.3 / sigma2) / precision, abs=5 / math.sqrt(20_000 * precision)
    )
    assert float(y.var()) == pytest.approx(1 / precision / (1 - s2 * precision / 4), rel=0.05)


def test_the_top_level_has_a_marginal_energy():
    method, net = exact()
    i = torch.tensor([5, 6])
    x, y = torch.full((2, 1, 1, 1), 3.0).double(), torch.full((2, 1, 1, 1), 0.1).double()
    unit = method.chain.unit(method.schedule, i)
    alone = AtLevel(net, method.schedule.time[i - 1], unit)(y)
    given = recovery_energy(net, method.schedule, x, i, unit, ClassCondition())(y)
    assert given[1] == alone[1]
    assert float((given[0] - alone[0]).detach()) == pytest.approx(2.9**2 / 2 / float(method.schedule.sigma[5]) ** 2)


def test_energy_at_a_level_is_that_of_its_noisy_data():
    method, net = exact()
    x = torch.linspace(-2, 2, 9).double().view(9, 1, 1, 1)
    for level in range(6):
        a, s = (float(t[level]) for t in (net.schedule.alpha_bar, net.schedule.sigma_bar))
        minus_log = -torch.distributions.Normal(a * MEAN, math.sqrt(a**2 * STD**2 + s**2)).log_prob(x.flatten())
        difference = method.energy_at(x, level) - minus_log
        torch.testing.assert_close(difference, difference[0].expand(9), rtol=1e-4, atol=1e-5)
    assert torch.equal(method.energy(x), method.energy_at(x, 0))


def test_trajectory_ends_where_sampling_ends():
    method, _ = exact()
    method.denoise = 0.0
    torch.manual_seed(0)
    levels = method.trajectory(5)
    torch.manual_seed(0)
    made = method.sample(5).images
    assert len(levels) == 7
    assert torch.equal(levels[-1], made)


def unsettled(method):
    """The same method with networks that heed all that they are told, also the class, which at first they hardly do."""
    torch.manual_seed(5)
    for parameter in getattr(method, "initializer", torch.nn.Module()).parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    for name, parameter in method.energy_net.named_parameters():
        if "embed" in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return method


def refined(before, x, start, i, labels, c, steps):
    """Equation 5 written out, with the draws of the chain."""
    net, s = before.energy_net, before.schedule
    shape = (-1, 1, 1, 1)
    s2 = (c * s.sigma_bar[i - 1] / s.sigma_bar[0] * s.sigma[i].square()).view(shape)
    pull = torch.where(i == s.levels, 0.0, 1 / s.sigma[i].square()).view(shape)
    y = start.detach()
    net.eval()
    for _ in range(steps):
        at = y.clone().requires_grad_()
        (slope,) = torch.autograd.grad(-net(at, s.time[i - 1], labels).sum(), at)
        y = y + 0.5 * (slope - s2 * pull * (y - x)) + s2.sqrt() * torch.randn(x.shape)
    net.train()
    return y


def contrasted(before, x, y, i, labels):
    """Equation 7 with the weights of the code."""
    net, s = before.energy_net, before.schedule
    both = None if labels is None else torch.cat([labels, labels])
    energies = net(torch.cat([x, y]), torch.cat([s.time[i - 1]] * 2), both)
    return (s.sigma[1] / s.sigma[i] * (energies[: len(x)] - energies[len(x) :])).mean().detach()


@pytest.mark.parametrize("teacher", ["chain", "data"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("classes", [0, 4])
def test_losses_are_equations_7_and_8(teacher, shared, classes, monkeypatch):
    method = unsettled(cdrl(teacher=teacher, shared_noise=shared, classes=classes, drop_classes=0.5))
    calls, x0, before = watched(method, monkeypatch), images(), copy.deepcopy(method)
    given = torch.tensor([0, 1, 2, 3, 0, 1])
    torch.manual_seed(1)
    readings = method.iterate(x0, given)
    assert [names for _, names, _ in calls] == [("energy_net",), ("initializer",)]

    torch.manual_seed(1)
    labels = torch.where(torch.rand(6) < 0.5, -1, given) if classes else None  # three of each
    U, s = before.initializer, before.schedule  # a copy, for spectral norms move with every pass
    i = torch.randint(1, 7, (6,))
    shape = (-1, 1, 1, 1)
    noise = torch.randn(6, 1, 8, 8)
    lower = s.alpha_bar[i - 1].view(shape) * x0 + s.sigma_bar[i - 1].view(shape) * noise
    if shared:
        x = s.alpha_bar[i].view(shape) * x0 + s.sigma_bar[i].view(shape) * noise
    else:
        x = s.alpha[i].view(shape) * lower + s.sigma[i].view(shape) * torch.randn(6, 1, 8, 8)
    m = torch.where(i == 6, 1.0, s.alpha[i]).view(shape)
    spread = m * (s.sigma_bar[i - 1] / s.sigma_bar[i] * s.sigma[i]).view(shape)
    start = x + U(x, s.time[i], labels) + spread * torch.randn(6, 1, 8, 8)
    y = refined(before, x, start, i, labels, 4e-4, 2)
    torch.testing.assert_close(calls[0][0], contrasted(before, m * lower, y, i, labels), rtol=1e-3, atol=1e-6)
    target = m * lower if teacher == "data" else y
    want = ((target - start) ** 2).flatten(1).sum(1).mean()
    torch.testing.assert_close(calls[1][0], want.detach(), rtol=1e-4, atol=1e-5)
    moved = (y - start).detach().flatten(1).square().mean(1).sqrt()
    torch.testing.assert_close(readings["displacement"], moved.mean(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("classes", [0, 4])
def test_drl_is_the_same_without_initializer_and_with_the_diffusion_s_pairs(classes, monkeypatch):
    method = unsettled(drl(classes=classes, drop_classes=0.5))
    calls, x0, before = watched(method, monkeypatch), images(), copy.deepcopy(method)
    given = torch.tensor([0, 1, 2, 3, 0, 1])
    torch.manual_seed(1)
    method.iterate(x0, given)
    assert [names for _, names, _ in calls] == [("energy_net",)]
    torch.manual_seed(1)
    labels = torch.where(torch.rand(6) < 0.5, -1, given) if classes else None  # three of each
    s, shape = before.schedule, (-1, 1, 1, 1)
    i = torch.randint(1, 7, (6,))
    lower = s.alpha_bar[i - 1].view(shape) * x0 + s.sigma_bar[i - 1].view(shape) * torch.randn(6, 1, 8, 8)
    x = s.alpha[i].view(shape) * lower + s.sigma[i].view(shape) * torch.randn(6, 1, 8, 8)
    m = torch.where(i == 6, 1.0, s.alpha[i]).view(shape)
    y = refined(before, x, x, i, labels, 2e-4, 2)
    torch.testing.assert_close(calls[0][0], contrasted(before, m * lower, y, i, labels), rtol=1e-3, atol=1e-6)


def test_drl_s_own_numbers():
    method = DRL(cdrl().energy_net)
    assert method.chain == RecoveryChain(steps=30, variance=2e-4, grow=True, noise=0.99)
    assert method.schedule.levels == 6
    assert not method.denoise


def test_each_loss_reaches_its_own_network_only(monkeypatch):
    method = cdrl()
    calls = watched(method, monkeypatch)
    method.iterate(images(), torch.zeros(6, dtype=torch.int64))
    assert {name.split(".")[0] for name in calls[0][2]} == {"energy_net"}
    assert {name.split(".")[0] for name in calls[1][2]} == {"initializer"}


def test_without_initializer_cdrl_starts_there_too_and_counts_no_proposals():
    method = cdrl(initializer=None)
    assert not method.can_propose
    assert method.sample(2).nfe == 6 * 2 + 1
    assert cdrl().sample(2).nfe == 6 * (1 + 2) + 1
    assert cdrl().sample(2, steps=0).nfe == 6
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(method.propose(x, torch.tensor([1, 2, 6]), ClassCondition(), None), x)


@pytest.mark.parametrize("predicts", ["x0", "epsilon"])
def test_what_is_predicted_gives_the_same_proposal(predicts):
    """Told the true x₀, or the true ε, the proposal's mean is m E[x_{i−1}|x₀, x_i]."""
    method = cdrl(predicts=predicts)
    s, i = method.schedule, torch.arange(1, 7)
    clean, noise = torch.randn(6, 1, 8, 8), torch.randn(6, 1, 8, 8)
    x = s.noised(clean, i, noise)
    want = s.scale(i).view(-1, 1, 1, 1) * s.posterior_mean(clean, x, i)
    told = clean if predicts == "x0" else noise
    torch.testing.assert_close(method._mean(told, x, i), want, rtol=1e-3, atol=2e-4)


# ── classes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_guidance_zero_is_plainly_conditional_and_one_concept_its_own_composition():
    method = cdrl(classes=4)
    labels = torch.tensor([0, 3, 2])
    made = []
    for given in (labels, labels[:, None]):
        torch.manual_seed(0)
        made.append(method.sample_from_classes(given, guidance=0.0).images)
    torch.manual_seed(0)
    made.append(method.sample(3, labels=labels).images)
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])
    torch.manual_seed(0)
    assert not torch.equal(made[0], method.sample_from_classes(labels, guidance=1.0).images)


def test_without_labels_classes_are_drawn(monkeypatch):
    """Class k of the exact energies has the mean μ + k: samples of all of them have the mean of these."""
    method, _ = exact(classes=3, steps=200, variance=5e-4, grow=False)
    torch.manual_seed(0)
    made = method.sample(600)
    assert made.start == "noise of uniformly drawn classes"
    labels = torch.randint(3, (600,), generator=torch.Generator().manual_seed(7))
    drawn = method.sample(600, generator=torch.Generator().manual_seed(7)).images.flatten()
    for k in range(3):
        encode_class = drawn[labels == k]
        assert float(encode_class.mean()) == pytest.approx(MEAN + k, abs=5 * STD / math.sqrt(len(encode_class)) + 0.02)


def test_guided_evaluations_are_counted():
    method = cdrl(classes=4)
    labels = torch.tensor([[0, 1], [2, 3]])
    assert method.sample_from_classes(labels[:, 0]).nfe == 6 * (1 + 2) + 1
    assert method.sample_from_classes(labels[:, 0], guidance=0.7).nfe == 2 * (6 * (1 + 2) + 1)
    assert method.sample_from_classes(labels, guidance=0.0).nfe == 3 * (6 * (1 + 2) + 1)
    assert cdrl(classes=4, initializer=cdrl().initializer).sample_from_classes(labels).nfe == 6 * (1 + 3 * 2) + 3


def test_the_last_step_follows_the_classes_too(monkeypatch):
    """Class k of the exact energies has the mean μ + k, none that of 0: guided to class a it is μ + (1 + w) a."""
    method, net = exact(classes=3, noise=0.0)
    labels, weights = guided(torch.tensor([[2]]), 0.5)
    energy = method._level(0, ClassCondition(labels, weights))
    x = torch.full((1, 1, 1, 1), 0.3).double()
    a, s2 = net.schedule.alpha_bar[0], net.schedule.sigma_bar[0].square()
    v = a.square() * STD**2 + s2
    slope = (x - a * (MEAN + 1.5 * 2)) / v
    at = x.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(energy(at).sum(), at)[0], slope, rtol=1e-5, atol=1e-6)
    ends = []
    path = LevelSampler.path
    monkeypatch.setattr(LevelSampler, "path", lambda sampler, x: ends.extend(path(sampler, x)) or iter(ends))
    made = method.sample_from_classes(torch.tensor([2]), guidance=0.5).images
    want = (ends[-1] - s2 * (ends[-1] - a * (MEAN + 3)) / v) / a
    torch.testing.assert_close(made, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("m", "w"), [(1, 0.7), (2, 0.0), (3, 0.5)])
def test_guided_energies_are_equations_11_13_and_14(m, w):
    method = cdrl(classes=4)
    net, y = method.energy_net.eval(), images(2)
    time, unit = torch.full((2,), 300.0), torch.full((2,), 0.5)
    labels = torch.tensor([[0, 1, 2], [3, 0, 1]])[:, :m]
    energy = AtLevel(net, time, unit, *guided(labels, w))(y)

    def one(label):
        return net(y, time, label) / unit

    none = one(torch.full((2,), -1))
    want = (1 + w) * sum(one(labels[:, k]) for k in range(m)) - (m * w + m - 1) * none
    torch.testing.assert_close(energy, want, rtol=1e-4, atol=1e-5)


def test_guidance_of_the_initializer_is_equation_12():
    method = cdrl(classes=4).eval()
    U, x, i = method.initializer, torch.randn(2, 1, 8, 8), torch.tensor([2, 5])
    torch.nn.init.normal_(U.get_parameter(next(n for n, p in U.named_parameters() if p.shape[0] == 1 and p.dim() == 4)))
    labels = torch.tensor([1, 3])
    time = method.schedule.time[i]
    mean = x + 1.7 * U(x, time, labels) - 0.7 * U(x, time, torch.tensor([-1, -1]))
    torch.manual_seed(0)
    made = method._proposed(U, x, i, ClassCondition(*guided(labels[:, None], 0.7)))
    torch.manual_seed(0)
    spread = method.schedule.proposal_std(i).view(-1, 1, 1, 1) * torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(made, mean + spread, rtol=1e-4, atol=1e-5)


def test_classes_are_dropped_and_of_several_attributes_one_is_told():
    method = cdrl(classes=4, drop_classes=1.0)
    assert method._training_classes(torch.tensor([0, 1, 2])).tolist() == [[-1], [-1], [-1]]
    method = cdrl(classes=5, drop_classes=0.0)
    assert method._training_classes(torch.tensor([0, 1, 2])).tolist() == [[0], [1], [2]]
    torch.manual_seed(0)
    told = torch.cat([method._training_classes(torch.tensor([[0, 3], [1, 4]])) for _ in range(50)], dim=1)
    assert set(told[0].tolist()) == {0, 3}
    assert set(told[1].tolist()) == {1, 4}
    assert cdrl()._training_classes(torch.tensor([0, 1])) is None


@pytest.mark.parametrize(
    "labels", [torch.tensor([0, 4]), torch.tensor([-1, 0]), torch.zeros(1, 1, 1, dtype=torch.int64)]
)
def test_a_class_out_of_range_gets_one_sentence(labels):
    with pytest.raises(UserError, match="labels"):
        cdrl(classes=4).sample_from_classes(labels)


def test_a_model_without_classes_says_so():
    with pytest.raises(UserError, match="without classes"):
        cdrl().sample(2, labels=torch.tensor([0, 1]))


def test_the_data_must_have_as_many_classes(tmp_path):
    with pytest.raises(UserError, match=r"classes is 3 but data has 4: a, b, c, d"):
        trainer(tmp_path).fit(cdrl(classes=3), TinyData())


# ── inpainting ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_inpainting_leaves_what_is_known_to_the_last_bit():
    method, x = cdrl(), images(3)
    hidden = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    hidden[..., 2:5, 3:] = True
    made = method.inpaint(x, hidden).images
    assert torch.equal(made[~hidden.expand_as(x)], x[~hidden.expand_as(x)])
    assert not torch.equal(made, x)
    assert torch.equal(method.inpaint(x, torch.zeros_like(hidden)).images, x)


def test_a_mask_may_differ_between_channels():
    method = CDRL(RecoveryResNet(3, width=8, multiples=(1, 2), depth=1, embedding=16), None, size=8)
    x = torch.rand(2, 3, 8, 8)
    hidden = torch.rand(2, 3, 8, 8) < 0.5
    made = method.inpaint(x, hidden, steps=1).images
    assert torch.equal(made[~hidden], x[~hidden])
    assert (made[hidden] != x[hidden]).all()


def test_inpainting_does_not_look_at_what_is_hidden():
    method, x = cdrl(), images(2)
    hidden = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    hidden[..., 4:] = True
    other = torch.where(hidden, -x, x)
    made = []
    for given in (x, other):
        torch.manual_seed(0)
        made.append(method.inpaint(given, hidden).images)
    assert torch.equal(*made)


def test_every_state_of_inpainting_holds_the_noisy_known(monkeypatch):
    """At each level the known pixels are m (ᾱ x + σ̄ ε) of one ε."""
    method, x = cdrl(), images(2)
    hidden = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    hidden[..., :3] = True
    starts = []
    path = RecoveryChain.path

    def spy(self, energy, y, *rest):
        starts.append(y.clone())
        for state in path(self, energy, y, *rest):
            yield state
            starts.append(state.clone())

    monkeypatch.setattr(RecoveryChain, "path", spy)
    torch.manual_seed(0)
    noise = torch.randn(2, 1, 8, 8)
    torch.manual_seed(0)
    method.inpaint(x, hidden)
    s, each = method.schedule, len(starts) // 6
    for at, state in enumerate(starts):
        i = torch.full((2,), 6 - at // each)
        want = s.scale(i).view(-1, 1, 1, 1) * s.noised(x, i - 1, noise)
        torch.testing.assert_close(state[..., 3:], want[..., 3:], rtol=0, atol=1e-6)


# ── in a latent space ───────────────────────────────────────────────────────────────────────────────────────────────


class Half(ImageCoder):
    """Latents are means of 2×2 pixels, times 3."""

    def encode(self, x):
        return 3 * torch.nn.functional.avg_pool2d(x, 2)

    def decode(self, latents):
        return torch.nn.functional.interpolate(latents, scale_factor=2.0) / 3

    def shape(self, channels, size):
        return channels, size // 2, size // 2


def test_with_a_coder_energies_and_chains_are_of_latents(monkeypatch):
    method, x = cdrl(coder=Half()), images(3)
    plain = cdrl(size=4)
    plain.load_state_dict(method.state_dict())
    assert torch.equal(method.energy(x), plain.energy(Half().encode(x)))
    made = []
    for model in (method, plain):
        torch.manual_seed(0)
        made.append(model.sample(2).images)
    assert torch.equal(made[0], Half().decode(made[1]))
    calls = []
    for model, given in ((method, x), (plain, Half().encode(x))):
        calls.append(watched(model, monkeypatch))
        torch.manual_seed(2)
        model.iterate(given, torch.zeros(3, dtype=torch.int64))
    for (loss, _, _), (other, _, _) in zip(*calls, strict=True):
        assert torch.equal(loss, other)


def test_with_a_coder_inpainting_still_leaves_what_is_known():
    method, x = cdrl(coder=Half()), images(2)
    hidden = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    hidden[..., 3:6, 3:6] = True
    made = method.inpaint(x, hidden).images
    assert torch.equal(made[~hidden.expand_as(x)], x[~hidden.expand_as(x)])


# ── the rest ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_samples_are_of_the_averages_and_of_no_dropout():
    method = cdrl()
    before = method.state_dict()
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        made.append(method.sample(2).images)
    assert torch.equal(*made)
    with torch.no_grad():
        for parameter in [*method.energy_net.parameters(), *method.initializer.parameters()]:
            parameter.add_(torch.randn_like(parameter))
    torch.manual_seed(0)
    assert torch.equal(method.sample(2).images, made[0])
    assert all(method.training for method in (method.energy_net, method.initializer))
    assert before.keys() == method.state_dict().keys()


@pytest.mark.parametrize("make", [cdrl, drl, lambda: cdrl(classes=4)])
def test_sampling_works_under_inference_mode(make):
    method = make()
    x, hidden = images(2), torch.rand(1, 1, 8, 8) < 0.5
    with torch.inference_mode():
        method.sample(2)
        method.trajectory(2)
        method.inpaint(x, hidden)
        if method.classes:
            method.sample_from_classes(torch.tensor([[0, 1]]), guidance=1.0)


def test_resuming_needs_no_coder_file(tmp_path):
    coder = KLAutoEncoder(1, width=8, multiples=(1, 1), depth=1, latent=1)
    path = tmp_path / "coder.ckpt"
    torch.save({"state_dict": {f"coder.{k}": v for k, v in coder.state_dict().items()}}, path)

    def fit(**given):
        parts = {"coder": copy.deepcopy(coder), "coder_checkpoint": str(path)}
        keep = LastCheckpoint(tmp_path, "model: null", every_n_steps=1)
        run = trainer(
            tmp_path, callbacks=[keep], enable_checkpointing=True, max_epochs=-1, max_steps=given.pop("steps")
        )
        run.fit(cdrl(**parts), TinyData(), weights_only=True, **given)

    fit(steps=1)
    path.unlink()
    fit(steps=2, ckpt_path=tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"coder\.ckpt"):
        fit(steps=1)


def test_chains_leave_the_power_iterations_of_spectral_norm_alone():
    method = cdrl()
    vectors = {n: b.clone() for n, b in method.energy_net.named_buffers()}
    assert vectors
    i, x = torch.tensor([3, 6]), torch.randn(2, 1, 8, 8)
    method._refine(x, x, i, None)
    assert all(torch.equal(b, vectors[n]) for n, b in method.energy_net.named_buffers())
    assert method.energy_net.training


def test_a_recovery_energy_without_precision_is_the_marginal_one():
    x, y = torch.randn(2, 3), torch.randn(2, 3)
    energy = Recovery(lambda v: v.square().sum(1), x, torch.tensor([0.0, 4.0]))
    marginal = y.square().sum(1)
    want = marginal + torch.tensor([0.0, 2.0]) * (y - x).square().sum(1)
    torch.testing.assert_close(energy(y), want)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"drop_classes": 1.5}, "drop_classes is 1.5"),
        ({"coder_checkpoint": "x.ckpt"}, "without a model.coder"),
    ],
)
def test_arguments_that_contradict_are_named(changes, told):
    with pytest.raises(UserError, match=told):
        cdrl(**changes)


def test_an_initializer_has_the_energy_s_classes_or_none():
    initializer = copy.deepcopy(cdrl(classes=3).initializer)
    with pytest.raises(UserError, match=r"initializer\.classes is 3"):
        cdrl(classes=4, initializer=initializer)
    assert cdrl(classes=4, initializer=cdrl().initializer).proposals == "unconditional"


def test_noise_of_sampling_does_not_change_training():
    """DRL's factor 0.99 is for samples alone."""
    chain, unit = RecoveryChain(steps=3, noise=0.0), torch.ones(2)
    flat = torch.zeros(2, 1)
    torch.manual_seed(0)
    trained = chain(lambda y: y.sum(1) * 0, flat, unit)
    torch.manual_seed(0)
    assert torch.equal(trained, replace(chain, noise=1.0)(lambda y: y.sum(1) * 0, flat, unit))
    assert torch.equal(chain(lambda y: y.sum(1) * 0, flat, unit, 3), flat)


def test_averages_warm_up_as_in_the_code():
    assert all(average.warmup for average in cdrl().averages.values())
    assert not any(average.warmup for average in cdrl(ema_warmup=False).averages.values())
    assert not any(average.warmup for average in drl().averages.values())
    assert cdrl(ema_decay=0.9999).averages["energy_net"].settled == 89_990


@pytest.mark.parametrize(
    "name", sorted(name for name in config_paths() if name.startswith("cdrl_") and "no_cooperative" not in name)
)
def test_the_initializer_learns_at_a_tenth_of_the_energy_s_rate(name):
    """Paper and code have 1e-5 beside 1e-4: a fast U copies poor chain ends before the energy can lead.

    On MNIST and shapes a U that learns from the data, and so copies no chains, learns at the energy's rate.
    """
    model = read_config(config_path(name))["model"]["init_args"]
    rates = [model[f"{network}_optimizer"]["init_args"]["lr"] for network in ("energy", "initializer")]
    tenth = name not in ("cdrl_from_data_mnist", "cdrl_small_shapes")
    assert tenth or model["teacher"] == "data"
    assert rates[1] == pytest.approx(rates[0] / 10 if tenth else rates[0])


@pytest.mark.parametrize("name", ["cdrl_no_cooperative_mnist", "drl_mnist"])
def test_without_an_initializer_no_step_on_mnist_goes_far_towards_the_noise_of_the_level_below(name):
    """r = ½ s² (1/(α σ̄)² + 1/σ²) of the way where all spread is noise; with r₁ = 0.3 and 0.5 these ran off."""
    model = read_config(config_path(name))["model"]["init_args"]
    assert model["schedule"]["class_path"].endswith(".CosineSchedule")
    schedule, chain = CosineSchedule(**model["schedule"]["init_args"]), RecoveryChain(**model["chain"])
    i = torch.arange(1, schedule.levels)
    lower = schedule.alpha[i] * schedule.sigma_bar[i - 1]
    way = chain.unit(schedule, i) / 2 * (lower**-2 + schedule.sigma[i] ** -2)
    assert 0.05 < way[0] < 0.15
    assert way.max() < 0.2


@pytest.mark.parametrize("make", [cdrl, drl])
def test_fewer_steps_can_be_the_evaluation_s(make):
    """`chain.sample_steps` K' is `sample(steps=K')`, and training keeps its K."""
    few = make()
    few.chain = replace(few.chain, sample_steps=1)
    one = few.sample(2, generator=torch.Generator().manual_seed(0))
    same = make().sample(2, steps=1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(one.images, same.images)
    assert (one.nfe, one.steps) == (same.nfe, same.steps)
    assert few.chain_info().steps == few.schedule.levels
    assert few.sample(2, steps=2).steps == 2 * few.schedule.levels
    assert len(few.trajectory(1)) == few.schedule.levels + 1
    with pytest.raises(UserError, match=r"sample_steps is -1; it must be 0 or more"):
        RecoveryChain(2, sample_steps=-1)
