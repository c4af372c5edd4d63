"""What holds for every method: counting, descent, averages; and the law of maximum likelihood (laws 8, 14)."""

import copy

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.optim import LBFGS, SGD, Adam, SparseAdam
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau

from ebmzoo.errors import UserError
from ebmzoo.methods import LIEBMElbo
from ebmzoo.methods.base.averaging import averaged
from ebmzoo.methods.base.optimization import NetworkOptimizer
from support.counting import Counting
from support.tiny import TinyData, Watch, liebm, trainer, without_latent


@pytest.mark.parametrize("optimizers", [1, 2, 3])
def test_one_batch_is_one_global_step(optimizers, tmp_path):
    steps = []
    fit = trainer(tmp_path, max_steps=7, max_epochs=-1, callbacks=[Watch(lambda t, m: steps.append(t.global_step))])
    fit.fit(Counting(optimizers), TinyData())
    assert steps == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("make", [without_latent, liebm, lambda: liebm(inference=True, elbo=LIEBMElbo())])
def test_one_batch_is_one_global_step_for_liebm(make, tmp_path):
    steps = []
    fit = trainer(tmp_path, max_epochs=2, callbacks=[Watch(lambda t, m: steps.append(t.global_step))])
    fit.fit(make(), TinyData())
    assert steps == list(range(1, 9))


@pytest.mark.parametrize("optimizers", [1, 3])
def test_checkpoints_every_n_steps_count_batches(optimizers, tmp_path):
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_top_k=-1)
    fit = trainer(tmp_path, max_steps=7, max_epochs=-1, callbacks=[keep], enable_checkpointing=True)
    fit.fit(Counting(optimizers), TinyData())
    assert sorted(p.name for p in tmp_path.glob("*.ckpt")) == ["step=3.ckpt", "step=6.ckpt"]


def test_descend_changes_only_the_networks_named(tmp_path):
    class Leaky(Counting):
        def iterate(self, images, labels):
            loss = sum(net.weight.square().sum() for net in self.nets)  # reaches all three
            norm = self.minimize(loss, "net1")
            self.norms = (float(norm), [float(net.weight.detach().item()) for net in self.nets])
            return {}

    method = Leaky(3)
    before = [float(net.weight.item()) for net in method.nets]
    trainer(tmp_path, max_steps=1).fit(method, TinyData())
    after = [float(net.weight.item()) for net in method.nets]
    assert after[0] == before[0]
    assert after[2] == before[2]
    assert after[1] == pytest.approx(before[1] * (1 - 2 * 0.1))
    assert method.norms[0] == pytest.approx(abs(2 * before[1]), rel=1e-5)


def test_clip_norm_limits_the_step(tmp_path):
    class Clipped(Counting):
        def trained_networks(self):
            return {"net0": NetworkOptimizer(self.nets[0], lambda p: SGD(p, lr=1.0), clip_norm=0.25)}

        def iterate(self, images, labels):
            return {"norm": self.minimize(8 * self.nets[0].weight.sum(), "net0")}

    method = Clipped(1)
    before = float(method.nets[0].weight.item())
    fit = trainer(tmp_path, max_steps=1)
    fit.fit(method, TinyData())
    assert float(method.nets[0].weight.item()) == pytest.approx(before - 0.25, abs=1e-5)
    assert float(fit.callback_metrics["train/norm"]) == pytest.approx(8.0)


def test_schedules_step_once_an_iteration(tmp_path):
    rates = []
    watch = Watch(lambda t, m: rates.append([o.param_groups[0]["lr"] for o in t.optimizers]))
    method = Counting(2, schedule=lambda o: ExponentialLR(o, 0.5))
    trainer(tmp_path, max_steps=3, callbacks=[watch]).fit(method, TinyData())
    assert rates == [[0.05, 0.05], [0.025, 0.025], [0.0125, 0.0125]]


def test_averages_follow_the_recursion(tmp_path):
    method, trace = Counting(1), []
    average = start = float(method.nets[0].weight.item())
    watch = Watch(lambda t, m: trace.append((float(m.nets[0].weight.item()), float(m.network("net0").weight.item()))))
    trainer(tmp_path, max_steps=4, callbacks=[watch]).fit(method, TinyData())
    weight = start
    for live, kept in trace:
        weight *= 0.8
        average = 0.5 * average + 0.5 * weight
        assert live == pytest.approx(weight, rel=1e-5)
        assert kept == pytest.approx(average, rel=1e-5)
    method.use_averages = False
    method.net0 = method.nets[0]
    assert method.network("net0") is method.nets[0]


def test_average_of_constant_weights_is_the_weights_and_buffers_are_copied():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    averages = averaged(0.9977843871, net=net)
    for _ in range(20):
        net(torch.randn(8, 3))  # moves the running statistics only
        averages["net"].update_parameters(net)
    kept = averages["net"].module
    for a, b in zip(kept.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(kept.buffers(), net.buffers(), strict=True):
        assert torch.equal(a, b)
    assert not any(p.requires_grad for p in averages.parameters())
    with pytest.raises(UserError, match="ema_decay"):
        averaged(1.5, net=net)


def test_maximum_likelihood_gradient_and_fixed_point():
    """E = θx²/2: dL/dθ = (E₊[x²] − E₋[x²])/2, and with exact negatives θ goes to 1/variance (law 8)."""
    torch.manual_seed(0)
    variance = 0.4
    theta = torch.tensor(1.0, requires_grad=True)
    data, negatives = variance**0.5 * torch.randn(4000), torch.randn(4000)
    loss = (theta * data.square() / 2).mean() - (theta * negatives.square() / 2).mean()
    loss.backward()
    assert float(theta.grad) == pytest.approx(float(data.square().mean() - negatives.square().mean()) / 2, rel=1e-5)
    optimizer = Adam([theta], lr=0.02)
    for _ in range(600):
        x = variance**0.5 * torch.randn(4000)
        model = torch.randn(4000) / theta.detach().sqrt()
        optimizer.zero_grad()
        ((theta * x.square() / 2).mean() - (theta * model.square() / 2).mean()).backward()
        optimizer.step()
    assert float(theta.detach()) == pytest.approx(1 / variance, rel=0.06)


def test_evaluating_restores_modes_and_draws_no_graph():
    method = without_latent()
    method.train()
    method.energy_net.trunk.eval()
    modes = {name: m.training for name, m in method.named_modules()}
    with method.evaluating():
        assert not any(m.training for m in method.modules())
        assert not method.energy(torch.zeros(2, 1, 8, 8)).requires_grad
    assert {name: m.training for name, m in method.named_modules()} == modes


def test_weights_after_a_step_are_used_under_autocast(tmp_path):
    """Autocast caches bf16 weights for a whole batch: after a step the new ones must be used."""
    seen = []

    class Twice(Counting):
        def iterate(self, images, labels):
            one = torch.ones(1, 1)
            first = self.nets[0](one)
            self.minimize(first.square().sum(), "net0")
            seen.append((first.item(), self.nets[0](one).item(), float(self.nets[0].weight.item())))
            return {}

    method = Twice(1)
    nn.init.constant_(method.nets[0].weight, 1.0)
    trainer(tmp_path, max_steps=1, precision="bf16-mixed").fit(method, TinyData())
    first, second, weight = seen[0]
    assert first == pytest.approx(1.0)
    assert second == pytest.approx(weight, rel=1e-2)
    assert second < 0.9


def test_data_that_does_not_fit_is_told_before_training(tmp_path):
    with pytest.raises(UserError, match=r"\(3, 8, 8\)"):
        trainer(tmp_path).fit(without_latent(), TinyData(channels=3))


def test_every_method_is_deterministic_given_the_seed(tmp_path):
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        method = liebm()
        torch.manual_seed(6)
        trainer(tmp_path, max_epochs=2).fit(method, TinyData())
        states.append(copy.deepcopy(method.state_dict()))
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_an_optimizer_s_impossible_number_is_told_in_a_sentence(tmp_path):
    method = liebm(energy_optimizer=lambda parameters: Adam(parameters, lr=-1.0))
    with pytest.raises(UserError, match=r"optimizer of energy_net.*learning rate: -1"):
        trainer(tmp_path, max_steps=1).fit(method, TinyData(n=8, batch_size=4))


@pytest.mark.parametrize("kind", [LBFGS, SparseAdam])
def test_an_optimizer_that_needs_more_than_a_step_is_refused(kind, tmp_path):
    method = liebm(energy_optimizer=lambda parameters: kind(parameters))
    with pytest.raises(UserError, match=f"the optimizer of energy_net is {kind.__name__}"):
        trainer(tmp_path, max_steps=1).fit(method, TinyData(n=8, batch_size=4))


def test_a_schedule_that_follows_a_metric_is_refused(tmp_path):
    method = Counting(1, schedule=lambda optimizer: ReduceLROnPlateau(optimizer))
    with pytest.raises(UserError, match="the schedule of net0 is ReduceLROnPlateau, which follows a metric"):
        trainer(tmp_path, max_steps=1).fit(method, TinyData(n=8, batch_size=4))
