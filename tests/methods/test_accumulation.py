"""Gradients of k batches, one step: what one batch of k times the size does, and resumable in between."""

from dataclasses import replace

import pytest
import torch
from torch.optim import Adam
from torch.optim.lr_scheduler import ExponentialLR

from ebmzoo.errors import UserError
from ebmzoo.ssrl import Augment, Pretraining, SimCLR
from ebmzoo.training.checkpoint import LastCheckpoint
from support.counting import Counting
from support.marginal import short_run
from support.shared_randomness import SharedRandomness
from support.tiny import TinyData, Watch, cdrl, denoising_ebm, encoder, mdsm, trainer

EXACT = {"Short-run EBM": short_run, "CDRL": lambda **c: cdrl(classes=4, initializer=None, **c), "MDSM": mdsm}


def fitted(make, tmp_path, batch_size, k=1, **changes):
    torch.manual_seed(0)
    method = make()
    with pytest.MonkeyPatch.context() as patch:
        SharedRandomness(patch, k, part=lambda i: i % k, step=lambda i: i // k)
        fit = trainer(tmp_path, max_epochs=2, precision="64-true", accumulate_grad_batches=k, **changes)
        fit.fit(method, TinyData(n=24, batch_size=batch_size))
    return method


@pytest.mark.parametrize("name", EXACT)
def test_two_batches_make_one_of_twice_the_size(name, tmp_path):
    """Weights, averages and schedules after three steps an epoch, with a limit on the norm that is always reached."""
    changes = {"clip_norm": 1e-3, "ema_decay": 0.9}
    optimizer = "denoiser_optimizer" if name == "MDSM" else "energy_optimizer"
    changes[optimizer] = lambda p: Adam(p, 1e-3, eps=1e-4)  # which is large beside rounding
    changes["energy_schedule" if name == "CDRL" else "lr_schedule"] = lambda o: ExponentialLR(o, 0.5)

    def make():
        method = EXACT[name](**changes)
        for module in method.modules():  # each forward pass is one step of its power iteration
            if hasattr(module, "n_power_iterations"):
                module.n_power_iterations = 0
        return method

    whole, halves = fitted(make, tmp_path, 8), fitted(make, tmp_path, 4, k=2)
    torch.manual_seed(0)
    start = make().double()
    moved = 0.0
    for (key, a), b, c in zip(
        whole.state_dict().items(), halves.state_dict().values(), start.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=1e-10, msg=lambda told, key=key: key + told)
        moved = max(moved, float((a.double() - c.double()).abs().max()))
    assert moved > 1e-4


class Towards(Counting):
    """One weight w on ½(w − mean of the batch)², so that gradients are known."""

    def __init__(self, clip_norm=None, schedule=None):
        super().__init__(1, schedule)
        self.clip_norm, self.means = clip_norm, []
        self.nets[0].weight.data.fill_(0.0)

    def trained_networks(self):
        (name, descent), *_ = super().trained_networks().items()
        return {name: replace(descent, clip_norm=self.clip_norm)}

    def iterate(self, images, labels):
        self.means.append(float(images.mean()))
        w = self.nets[0].weight.squeeze()
        return {"norm": self.minimize((w - images.mean()).square() / 2, "net0")}


def w(method):
    return float(method.nets[0].weight.detach().item())


def test_all_that_moves_with_the_optimizer_waits_for_it(tmp_path):
    seen = []
    watch = Watch(
        lambda t, m: seen.append(
            (t.global_step, w(m), t.optimizers[0].param_groups[0]["lr"], m.averages["net0"].updates)
        )
    )
    method = Towards(schedule=lambda o: ExponentialLR(o, 0.5))
    trainer(tmp_path, max_steps=7, max_epochs=-1, accumulate_grad_batches=3, callbacks=[watch]).fit(method, TinyData())
    first = 0.1 * sum(method.means[:3]) / 3
    second = first - 0.05 * (first - sum(method.means[3:6]) / 3)
    assert [s[0] for s in seen] == [1, 2, 3, 4, 5, 6, 7]
    assert [s[1] for s in seen] == pytest.approx([0, 0, first, first, first, second, second], rel=1e-5)
    assert [s[2] for s in seen] == [0.1, 0.1, 0.05, 0.05, 0.05, 0.025, 0.025]
    assert [s[3] for s in seen] == [1, 1, 2, 2, 2, 3, 3]


def test_the_limit_is_of_the_mean_gradient_and_the_norm_is_told(tmp_path):
    norms = []
    method = Towards(clip_norm=1e-3)
    watch = Watch(lambda t, m: norms.append(float(t.callback_metrics["train/norm"])))
    trainer(tmp_path, max_steps=2, max_epochs=-1, accumulate_grad_batches=2, callbacks=[watch]).fit(method, TinyData())
    one, two = method.means
    assert norms == pytest.approx([abs(one), abs(one + two) / 2], rel=1e-5)
    assert abs(w(method)) == pytest.approx(0.1 * 1e-3, rel=1e-4)


def test_gradients_of_the_others_are_left_as_they_were(tmp_path):
    """A loss of one network reaches another, which has gathered gradients of its own: they are not mixed."""

    class Both(Counting):
        def iterate(self, images, labels):
            one, two = (net.weight.squeeze() for net in self.nets)
            self.minimize(one + 0 * two, "net0")
            self.minimize(two + 5 * one, "net1")
            return {}

    method = Both(2)
    before = [float(net.weight.item()) for net in method.nets]
    trainer(tmp_path, max_steps=2, accumulate_grad_batches=2).fit(method, TinyData())
    assert [float(net.weight.item()) for net in method.nets] == pytest.approx([b - 0.1 for b in before])


@pytest.mark.parametrize("cut", [2, 3, 4])
def test_resumed_within_an_accumulation_is_never_cut(cut, tmp_path):
    def train(folder, seed, ckpt_path=None, **limits):
        torch.manual_seed(1)
        method = short_run(energy_optimizer=lambda p: Adam(p, 1e-2))
        torch.manual_seed(seed)
        keep = LastCheckpoint(folder, "model: null", every_n_steps=100)
        fit = trainer(folder, callbacks=[keep], enable_checkpointing=True, accumulate_grad_batches=3, **limits)
        fit.fit(method, TinyData(), ckpt_path=ckpt_path, weights_only=True)
        return method.state_dict()

    (tmp_path / "cut").mkdir()
    whole = train(tmp_path, 7, max_epochs=2)
    train(tmp_path / "cut", 7, max_epochs=2, max_steps=cut)
    resumed = train(tmp_path / "cut", 99, tmp_path / "cut" / "last.ckpt", max_epochs=2)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_what_cannot_be_accumulated_is_named(tmp_path):
    with pytest.raises(UserError, match=r"accumulate_grad_batches is 2; .* DenoisingEBM steps its d"):
        trainer(tmp_path, accumulate_grad_batches=2).fit(denoising_ebm(), TinyData())


def test_a_trainer_accumulates_for_each_module_in_its_way(tmp_path):
    fit = trainer(tmp_path, max_epochs=1, accumulate_grad_batches=2)
    pretraining = Pretraining(encoder(), SimCLR(Augment(flip_prob=0.0)))
    fit.fit(pretraining, TinyData(n=32))
    assert fit.global_step == 2  # Lightning's own counts optimizer steps
    method = short_run()
    again = trainer(tmp_path, max_epochs=1, accumulate_grad_batches=2)
    again.fit(method, TinyData(n=32))
    assert method.optimization.accumulate == 2
    assert again.global_step == 4
