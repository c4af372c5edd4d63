"""JEM against its equations: the loss, the buffer with its classes, where chains start, and conditional samples."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ebmzoo.energy import gradient
from ebmzoo.errors import UserError
from ebmzoo.metrics import ClassifierFeatures
from ebmzoo.networks import ClassEnergyNet
from ebmzoo.sampling import GivenClasses
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.tasks import Generation
from ebmzoo.tasks.budget import BUDGETS
from ebmzoo.tasks.suite import suite
from ebmzoo.training.watchdog import DivergedError, Watchdog
from support.tiny import SIZE, TinyData, jem, trainer

STILL = Langevin(steps=1, step_size=0.0, noise=0.0)
WEIGHTS = {"class_weight": 0.9, "density_weight": 0.7, "joint_weight": 0.4, "alpha": 0.2}


class Mixture(ClassEnergyNet):
    """Logits log π_y − |x − μ_y|²/2v, whose E is a mixture of Gaussians; `shift(x)` is added to every logit."""

    classes, feature_dim = 2, 1

    def __init__(self, shift=0.0):
        super().__init__()
        self.prior = nn.Parameter(torch.tensor([0.3, 0.7], dtype=torch.float64))
        self.shift = shift

    def features(self, x):
        return x.flatten(1)

    def logits(self, x):
        means = torch.tensor([-1.5, 1.5], dtype=torch.float64)
        logits = self.prior.log() - (x.flatten(1) - means).square() / 0.5
        return logits + self.shift * x.flatten(1).sin()


def doubles(*shape, seed=4):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def images(n=6):
    return torch.rand(n, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1


def minimized(method, monkeypatch):
    """Have `minimize` keep its losses instead of stepping."""
    kept = []
    monkeypatch.setattr(type(method), "minimize", lambda self, loss, *names: kept.append((loss, names)) or loss * 0)
    return kept


# ── the energies (law 9, 10) ────────────────────────────────────────────────────────────────────────────────────────


def test_the_cross_entropy_is_a_difference_of_energies():
    net, x, y = Mixture(), doubles(5, 1), torch.tensor([0, 1, 1, 0, 1])
    joint = GivenClasses(net, y[:, None])(x)
    torch.testing.assert_close(F.cross_entropy(net.logits(x), y), (joint - net(x)).mean(), rtol=0, atol=1e-15)


def test_the_gradient_is_the_mean_over_classes_of_theirs():
    net, x = Mixture(), doubles(5, 1)
    p = net.logits(x).softmax(1)
    each = [gradient(GivenClasses(net, torch.full((5, 1), y)), x) for y in (0, 1)]
    torch.testing.assert_close(gradient(net, x), p[:, :1] * each[0] + p[:, 1:] * each[1])


def test_what_is_added_to_all_logits_moves_the_energy_and_not_the_classifier():
    plain, shifted, x = Mixture(), Mixture(shift=2.0), doubles(5, 1)
    torch.testing.assert_close(shifted(x), plain(x) - 2 * x.flatten().sin())
    torch.testing.assert_close(shifted.logits(x).softmax(1), plain.logits(x).softmax(1))


def test_a_chain_on_gaussian_classes_keeps_the_mixture():
    net, v = Mixture(), 0.25
    generator = torch.Generator().manual_seed(0)
    which = (torch.rand(20_000, generator=generator) < 0.7).double()
    start = 3 * which - 1.5 + math.sqrt(v) * torch.randn(20_000, dtype=torch.float64, generator=generator)
    end = Langevin(steps=60, step_size=0.01)(net, start[:, None], generator=generator)
    assert end.mean().item() == pytest.approx(0.6, abs=0.03)
    assert end.var().item() == pytest.approx(2.14, abs=0.05)
    assert float((end - start[:, None]).square().mean()) > 0.2, "the chain has moved"


# ── an iteration ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("split", [True, False])
def test_the_loss_is_its_equation(split, monkeypatch):
    method = jem(sampler=STILL, class_chains=True, data_noise=0.0, split_batch=split, reinit_prob=0.0, **WEIGHTS)
    kept, x, y = minimized(method, monkeypatch), images(6), torch.tensor([0, 1, 2, 3, 0, 1])
    torch.manual_seed(3)
    values = method.iterate(x, y)
    torch.manual_seed(3)
    slots = torch.randperm(16)[: 3 if split else 6]
    ends, net = method.replay.states[slots], method.energy_net
    labelled, classes, data = (x[:3], y[:3], x[3:]) if split else (x, y, x)

    def joint(x, y):
        return -net.logits(x)[torch.arange(len(x)), y]

    want = 0.9 * F.cross_entropy(net.logits(labelled), classes) + 0.7 * (net(data).mean() - net(ends).mean())
    want = want + 0.4 * (joint(labelled, classes).mean() - joint(ends, slots % 4).mean())
    want = want + 0.2 * (net(data).square().mean() + net(ends).square().mean())
    ((loss, names),) = kept
    torch.testing.assert_close(loss, want)
    assert names == ("energy_net",)
    torch.testing.assert_close(values["energy_gap"], (net(ends).mean() - net(data).mean()).detach())
    assert float(values["accuracy"]) == float((net.logits(labelled).argmax(1) == classes).float().mean())


def test_on_one_batch_the_two_terms_are_one_contrast_of_the_joint_energy(monkeypatch):
    """Law 9: with weights of 1 and every image in both terms, L = mean E(x, y) − mean E(x⁻)."""
    method = jem(sampler=STILL, data_noise=0.0, split_batch=False, reinit_prob=0.0)
    kept, x, y = minimized(method, monkeypatch), images(6), torch.tensor([0, 1, 2, 3, 0, 1])
    torch.manual_seed(3)
    method.iterate(x, y)
    torch.manual_seed(3)
    ends, net = method.replay.states[torch.randperm(16)[:6]], method.energy_net
    torch.testing.assert_close(kept[0][0], -net.logits(x)[torch.arange(6), y].mean() - net(ends).mean())


def test_data_are_noised_and_what_the_chains_are_compared_with_is_too(monkeypatch):
    seen = []
    method = jem(sampler=STILL, data_noise=0.5)
    minimized(method, monkeypatch)
    logits = method.energy_net.logits
    monkeypatch.setattr(method.energy_net, "logits", lambda x: seen.append(x) or logits(x))
    x = torch.zeros(8, 1, SIZE, SIZE)
    method.iterate(x, torch.zeros(8, dtype=torch.int64))
    assert float(seen[-1][:8].std()) == pytest.approx(0.5, abs=0.05)


def test_chains_descend_the_energy_of_their_slot_s_class(monkeypatch):
    step = Langevin(steps=1, step_size=1.0, noise=0.0)
    for class_chains in (False, True):
        method = jem(sampler=step, class_chains=class_chains, reinit_prob=0.0, split_batch=False)
        minimized(method, monkeypatch)
        before = method.replay.states.clone()
        torch.manual_seed(3)
        method.iterate(images(16), torch.zeros(16, dtype=torch.int64))
        net, classes = method.energy_net, torch.arange(16) % 4
        energy = GivenClasses(net, classes[:, None]) if class_chains else net
        torch.testing.assert_close(method.replay.states, before - gradient(energy, before))


def test_jem_plus_starts_in_its_limits_and_moves_without_noise():
    """M steps of 1, clamped twice; without noise two chains from one state are one chain."""
    method = jem(sampler=Langevin(3, 1.0, 0.0, clip=1.0, bounds=(-1, 1)))
    for p in method.energy_net.parameters():
        p.data *= 4
    start = images(4)
    want = start
    for _ in range(3):
        want = (want - gradient(method.energy_net, want).clamp(-1, 1)).clamp(-1, 1)
    torch.testing.assert_close(method.walk(method.sampler, method.energy_net, start, None), want)
    assert (gradient(method.energy_net, start).abs() > 1).any()


# ── where chains start ──────────────────────────────────────────────────────────────────────────────────────────────


class Flat(TinyData):
    """Each class is one grey level, so that a Gaussian of it is that level but for 0.01."""

    def load(self):
        train, test = super().load()
        for part in (train, test):
            part.images.copy_((60 * part.labels + 30)[:, None, None, None].to(torch.uint8).expand(part.images.shape))
        return train, test


def level(x):
    """The class whose grey level an image has; −1 for noise."""
    flat = x.std((1, 2, 3)) < 0.05
    return torch.where(flat, (((x.mean((1, 2, 3)) + 1) * 127.5 - 30) / 60).round().long(), -1)


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.5, 0.4, 0.6), (1.0, 1, 1)])
def test_new_chains_start_at_their_class_but_for_a_share(share, low, high, tmp_path):
    method = jem(sampler=STILL, start="class_gaussians", uniform_share=share, replay_size=1000)
    trainer(tmp_path, max_steps=1).fit(method, Flat())
    found, of_slots = level(method.replay.states), torch.arange(1000) % 4
    noise = found < 0
    assert low <= float(noise.float().mean()) <= high
    assert torch.equal(found[~noise], of_slots[~noise])
    assert torch.equal(level(method.sample_from_classes(of_slots[:8], steps=0).images), of_slots[:8])
    assert set(level(method.sample(40, steps=0).images).tolist()) == {0, 1, 2, 3}
    assert method.sample(2, steps=0).start == method.chain_info(0).start == "Gaussians of the classes"


def test_reinit_renews_from_the_gaussians(tmp_path):
    method = jem(sampler=STILL, start="class_gaussians", uniform_share=0.0, replay_size=200, reinit_prob=0.3)
    trainer(tmp_path, max_steps=1).fit(method, Flat())
    kept = torch.full((200, 1, SIZE, SIZE), 0.99)
    renewed = method._renewed(kept, torch.arange(200) % 4)
    changed = (renewed != kept).flatten(1).any(1)
    assert 0.2 < float(changed.float().mean()) < 0.4
    assert torch.equal(level(renewed)[changed], (torch.arange(200) % 4)[changed])
    assert torch.equal(renewed[~changed], kept[~changed])


# ── evaluation ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_samples_of_classes_descend_the_guided_energy():
    method = jem(sampler=Langevin(2, 0.5, 0.0), rounds=3, sample_from_replay=True)
    labels = torch.tensor([3, 0, 1])
    made = method.sample_from_classes(labels, guidance=0.7, generator=torch.Generator().manual_seed(0))
    start = method.replay.fresh(3, torch.Generator().manual_seed(0))
    energy = GivenClasses(method.energy_net, labels[:, None], 0.7)
    torch.testing.assert_close(made.images, Langevin(6, 0.5, 0.0)(energy, start))
    assert (made.nfe, made.start, made.steps) == (6, "noise", 6), "the buffer's states are of no class"
    assert method.sample(2).start == "replay"
    with pytest.raises(UserError, match="use sample_from_classes"):
        method.sample(2, labels=labels[:2])


def test_what_it_says_of_images_is_of_the_weights_of_evaluation():
    method, x = jem(ema_decay=0.9), images(2)
    nn.init.zeros_(method.energy_net.last.weight)
    average = method.network("energy_net")
    assert not torch.allclose(method.class_logits(x), method.energy_net.logits(x))
    torch.testing.assert_close(method.class_logits(x), average.logits(x))
    torch.testing.assert_close(method.energy(x), -method.class_logits(x).logsumexp(1))
    torch.testing.assert_close(method.representations()["energy"](x), average.features(x))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"joint_weight": 1.0}, r"joint_weight is 1.0.*set model.class_chains"),
        ({"uniform_share": 1.5}, "uniform_share is 1.5"),
        ({"density_weight": -1.0}, "density_weight: -1.0"),
        ({"reinit_prob": 2.0}, "reinit_prob is 2.0"),
    ],
)
def test_numbers_out_of_range_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        jem(**changes)


@pytest.mark.parametrize(
    ("method", "data", "words"),
    [
        ({}, {"kinds": 2}, r"classes is 4 but data has 2: a, b; set --model.energy_net.classes 2"),
        ({"replay_size": 3}, {}, "replay_size is 3, but a batch needs 4 chains"),
        ({}, {"batch_size": 1}, "batch_size is 1; with model.split_batch it must be 2 or more"),
    ],
)
def test_data_that_does_not_fit_is_told(method, data, words, tmp_path):
    with pytest.raises(UserError, match=words):
        trainer(tmp_path, max_steps=1).fit(jem(**method), TinyData(**data))


@pytest.mark.parametrize("class_chains", [False, True])
def test_under_bf16_energies_states_and_moments_are_float32(class_chains, tmp_path):
    method = jem(class_chains=class_chains, start="class_gaussians")
    trainer(tmp_path, max_steps=2, precision="bf16-mixed").fit(method, TinyData())
    assert {value.dtype for value in method.state_dict().values() if value.is_floating_point()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        for samples in (method.sample(2), method.sample_from_classes(torch.tensor([0, 3]))):
            assert samples.images.dtype == method.energy(samples.images).dtype == torch.float32


def test_a_run_that_explodes_is_stopped(tmp_path):
    method = jem(energy_optimizer=lambda p: torch.optim.SGD(p, lr=1e4))
    with pytest.raises(DivergedError, match=r"iteration \d: train/energy_(data|chain) is|not finite"):
        trainer(tmp_path, max_steps=8, max_epochs=-1, callbacks=[Watchdog(every_n_steps=1)]).fit(method, TinyData())


def test_tasks_of_classes_ask_it():
    tasks = {
        task.name
        for task in suite([Generation([ClassifierFeatures("nowhere.ckpt")])], jem(), TinyData(), BUDGETS["quick"])
    }
    assert {"classification", "conditional", "guidance", "representation", "restoration", "stability"} <= tasks


def test_it_learns_to_classify_and_its_chains_find_the_data(tmp_path):
    """Blobs in four places: after 30 iterations the classes are known, and noise has more energy than the images."""
    method = jem(data_noise=0.03, replay_size=64, energy_optimizer=lambda p: torch.optim.Adam(p, lr=3e-3))
    torch.manual_seed(0)
    trainer(tmp_path, max_steps=30, max_epochs=-1).fit(method, TinyData(n=64, batch_size=16))
    test = TinyData().test_set
    with method.evaluating():
        assert float((method.class_logits(test.float()).argmax(1) == test.labels).float().mean()) > 0.9
        noise = torch.rand(32, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
        assert float(method.energy(noise).min()) > float(method.energy(test.float()).max())
