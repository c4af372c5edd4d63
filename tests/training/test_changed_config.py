"""A run resumed with another config: what the config changes takes effect, and one line says what has changed."""

import copy
import dataclasses

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    SequentialLR,
)

from ebmzoo.errors import UserError
from ebmzoo.methods import KLAutoEncoderTraining
from ebmzoo.networks.autoencoder import KLAutoEncoder
from ebmzoo.training.checkpoint import LastCheckpoint, read
from ebmzoo.training.differences import changed_keys, changes_line
from ebmzoo.training.optimizer_states import ResumedOptimizers
from support.clel import clel
from support.family import FAMILY
from support.resuming import same
from support.tiny import TinyData, coopnets, liebm, trainer, vae

CUT, END = 5, 7


def fitted(folder, method, steps, found=None, callbacks=(), data=None, config="model: null", **settings):
    """Train to iteration `steps`, in epochs of four batches; the last checkpoint."""
    torch.manual_seed(7)
    keep = LastCheckpoint(folder, config, 100, **settings)
    fit = trainer(folder, max_epochs=-1, max_steps=steps, callbacks=[*callbacks, keep], enable_checkpointing=True)
    fit.fit(method, data or TinyData(flip=True), ckpt_path=found, weights_only=True)
    return read(folder / "last.ckpt")


def with_optimizers(method, **changes):
    """The method with other hyper-parameters in all of its optimizers."""
    networks = method.trained_networks

    def changed(optimizer):
        def made(parameters):
            found = optimizer(parameters)
            for group in found.param_groups:
                group.update({k: f(group[k]) if callable(f) else f for k, f in changes.items() if k in group})
            return found

        return made

    def trained():
        return {name: dataclasses.replace(each, optimizer=changed(each.optimizer)) for name, each in networks().items()}

    method.optimization._networks = method.trained_networks = trained
    return method


class SetByHand(Callback):
    """The oracle: sets hyper-parameters, and the base rates of schedules, once the checkpoint is loaded."""

    def __init__(self, **changes):
        self.changes = changes

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step > CUT:
            return
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group.update({k: f(group[k]) if callable(f) else f for k, f in self.changes.items() if k in group})
        for config in trainer.lr_scheduler_configs:
            config.scheduler.base_lrs = [self.changes["lr"](rate) for rate in config.scheduler.base_lrs]


@pytest.mark.parametrize("name", FAMILY)
def test_changed_hyper_parameters_take_effect_in_every_optimizer(name, tmp_path):
    """Rate, betas and weight decay: weights, averages and moments are those of a run whose groups are set by hand."""
    changes = {"lr": lambda rate: rate * 0.1, "betas": (0.4, 0.9), "weight_decay": 0.2, "momentum": 0.3}
    before = fitted(tmp_path / "cut", FAMILY[name](), CUT)
    cut, old = tmp_path / "cut" / "last.ckpt", enumerate(before["optimizer_states"])
    changed = fitted(tmp_path / "changed", with_optimizers(FAMILY[name](), **changes), END, cut)
    by_hand = fitted(tmp_path / "by_hand", FAMILY[name](), END, cut, [SetByHand(**changes)])
    same(changed["state_dict"], by_hand["state_dict"])
    assert all(changed["optimizer_states"][i]["param_groups"] != state["param_groups"] for i, state in old)
    for one, two in zip(changed["optimizer_states"], by_hand["optimizer_states"], strict=True):
        same(one["state"], two["state"])
        rates = [[group["lr"] for group in state["param_groups"]] for state in (one, two)]
        assert rates[0] == pytest.approx(rates[1], rel=1e-12)


def test_a_rate_of_zero_stops_one_network_and_no_other(tmp_path):
    cut = fitted(tmp_path, coopnets(), CUT)["state_dict"]
    resumed = fitted(tmp_path, coopnets(energy_optimizer=lambda p: Adam(p, 0.0)), END, tmp_path / "last.ckpt")
    moved = {k.partition(".")[0] for k, v in resumed["state_dict"].items() if not torch.equal(v, cut[k])}
    assert moved - {"averages"} == {"generator"}


def test_a_module_with_automatic_optimization_follows_its_config_too(tmp_path):
    def module(rate):
        torch.manual_seed(0)
        coder = KLAutoEncoder(in_channels=1, latent=2, width=8, multiples=(1, 1), depth=1)
        return KLAutoEncoderTraining(coder, optimizer=lambda p: Adam(p, rate))

    cut = fitted(tmp_path, module(1e-3), CUT)["state_dict"]
    resumed = fitted(tmp_path, module(0.0), END, tmp_path / "last.ckpt")
    weights = dict(module(0.0).named_parameters())
    assert weights
    assert all(torch.equal(resumed["state_dict"][name], cut[name]) for name in weights)


# ── schedules ────────────────────────────────────────────────────────────────────────────────────────────────────────


def chained(optimizer, factor):
    return ChainedScheduler([ExponentialLR(optimizer, 0.9 * factor), LinearLR(optimizer, 0.5, total_iters=9)])


def in_sequence(optimizer, factor):
    return SequentialLR(optimizer, [LinearLR(optimizer, 0.1, total_iters=4), ExponentialLR(optimizer, factor)], [4])


SCHEDULES = {
    "exponential": lambda o, factor: ExponentialLR(o, 0.9 * factor),
    "cosine": lambda o, factor: CosineAnnealingLR(o, T_max=round(20 * factor), eta_min=1e-5),
    "linear": lambda o, factor: LinearLR(o, 0.1 * factor, total_iters=10),
    "function": lambda o, factor: LambdaLR(o, lambda step: 1 / (1 + factor * step)),
    "chained": chained,
    "sequence": in_sequence,
    "one cycle": lambda o, factor: OneCycleLR(o, 0.01 * factor, total_steps=20),
}


class Rates(Callback):
    """Collects the rate, and the betas, with which every iteration steps."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, *_):
        self.seen.append([(group["lr"], group["betas"]) for o in trainer.optimizers for group in o.param_groups])


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_changed_schedule_is_where_a_run_with_it_would_be(kind, tmp_path):
    """Both the base rate and the schedule change, bit for bit."""

    def make(rate, factor):
        return vae(optimizer=lambda p: Adam(p, rate), lr_schedule=lambda o: SCHEDULES[kind](o, factor))

    fitted(tmp_path, make(1e-3, 1.0), CUT)
    whole, resumed = Rates(), Rates()
    fitted(tmp_path / "whole", make(2e-3, 0.5), END, callbacks=[whole])
    fitted(tmp_path / "resumed", make(2e-3, 0.5), END, tmp_path / "last.ckpt", [resumed])
    assert len(resumed.seen) == END - CUT
    assert resumed.seen == whole.seen[CUT:]


def test_a_schedule_that_would_have_ended_is_refused(tmp_path):
    fitted(tmp_path, vae(lr_schedule=lambda o: ExponentialLR(o, 0.9)), CUT)
    ended = vae(lr_schedule=lambda o: OneCycleLR(o, 0.01, total_steps=CUT - 2))
    with pytest.raises(UserError, match=rf"^model: the schedule of generator cannot continue after .* {CUT} steps: "):
        fitted(tmp_path, ended, END, tmp_path / "last.ckpt")


def test_schedules_are_added_and_removed_by_the_name_of_their_network(tmp_path, capsys):
    """The energy's schedule goes and the encoder's comes, whose place among the schedules is the same."""

    def rates(checkpoint):
        names = checkpoint["ebmzoo"]["optimizers"]
        return dict(zip(names, (o["param_groups"][0]["lr"] for o in checkpoint["optimizer_states"]), strict=True))

    first = fitted(tmp_path, clel(energy_schedule=lambda o: ExponentialLR(o, 0.5)), 4)
    energy, encoder = first["ebmzoo"]["optimizers"]
    begun = rates(first)
    assert begun[energy] < 1e-3
    resumed = fitted(tmp_path, clel(encoder_schedule=lambda o: ExponentialLR(o, 0.5)), 6, tmp_path / "last.ckpt")
    assert rates(resumed) == {energy: 1e-3, encoder: 0.03 * 0.5**2}
    told = capsys.readouterr().err
    assert f"{energy} has no schedule any more" in told
    assert f"the schedule of {encoder} begins at its first step" in told


# ── other optimizers ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def cut(tmp_path):
    """A checkpoint of a VAE with Adam."""
    return fitted(tmp_path, vae(), CUT)


def resumed_states(cut, tmp_path, make):
    """The states that a resumed run begins with, and its notes."""
    optimizers = []

    class See(Callback):
        def on_train_start(self, trainer, *_):
            optimizers.extend(copy.deepcopy(optimizer.state_dict()) for optimizer in trainer.optimizers)

    method = vae(optimizer=make)
    fitted(tmp_path, method, CUT + 1, tmp_path / "last.ckpt", [See()])
    return optimizers


@pytest.mark.parametrize(
    ("make", "kept"),
    [
        (lambda p: AdamW(p, 1e-3, weight_decay=0.1), True),
        (lambda p: Adam(p, 1e-3, betas=(0.0, 0.9)), True),
        (lambda p: Adam(p, 1e-3, amsgrad=True), False),
        (lambda p: SGD(p, 1e-3, momentum=0.9), False),
        (lambda p: torch.optim.RMSprop(p, 1e-3), False),
    ],
    ids=["AdamW", "betas", "amsgrad", "SGD", "RMSprop"],
)
def test_moments_are_kept_where_they_are_of_the_kind_needed(make, kept, cut, tmp_path, capsys):
    states = resumed_states(cut, tmp_path, make)
    fresh = make([torch.nn.Parameter(torch.zeros(1))]).state_dict()["param_groups"][0]
    for now, before in zip(states, cut["optimizer_states"], strict=True):
        same(now["state"], before["state"] if kept else {})
        (group,) = now["param_groups"]
        assert {k: v for k, v in group.items() if k != "params"} == {k: v for k, v in fresh.items() if k != "params"}
    told = capsys.readouterr().err
    assert ("the optimizer of generator starts without moments" in told) is not kept
    assert ("the optimizer of inference starts without moments" in told) is not kept


def test_amsgrad_is_left_without_its_maximum(tmp_path):
    fitted(tmp_path, vae(optimizer=lambda p: Adam(p, 1e-3, amsgrad=True)), CUT)
    for state in resumed_states(None, tmp_path, lambda p: Adam(p, 1e-3)):
        assert state["state"]
        assert all(set(moments) == {"step", "exp_avg", "exp_avg_sq"} for moments in state["state"].values())


def test_a_file_that_does_not_name_its_optimizers_is_read_by_their_order(cut, tmp_path):
    states = ResumedOptimizers({"optimizer_states": cut["optimizer_states"], "lr_schedulers": []})
    method = vae()
    fit = trainer(tmp_path, max_steps=0)
    fit.fit(method, TinyData())
    fit.strategy.setup_optimizers(fit)
    states.before_loading(fit)
    same(states._checkpoint["optimizer_states"], cut["optimizer_states"])
    assert states.notes == []


# ── the line ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_changed_keys_are_found_at_any_depth_and_classes_are_not_compared():
    one = {"model": {"class_path": "a.A", "init_args": {"n": [1, {"k": 2}], "o": {"class_path": "b.Adam"}, "x": 1}}}
    two = {"model": {"class_path": "a.A", "init_args": {"n": [1, {"k": 3}], "o": {"class_path": "b.SGD"}, "y": 1}}}
    assert list(changed_keys(one, two)) == [("model.n.1.k", 2, 3), ("model.o", "Adam", "SGD")]
    assert list(changed_keys(one, {"model": {"class_path": "a.B"}})) == [("model", "A", "B")]
    assert (
        list(changed_keys({"run_dir": 1, "tasks": [1], "data": None}, {"run_dir": 2, "tasks": [], "data": None})) == []
    )


def test_the_line_says_what_applies_and_what_does_not():
    before = {"seed_everything": 0, "model": {"lr": 0.1, "encoder": {"mean": [0.5]}}}
    now = {"seed_everything": 0, "model": {"lr": 0.2, "encoder": {"mean": [0.4]}}}
    assert changes_line(before, before, {"threads": 2}, {"threads": 2, "precision": "32-true"}, 6) is None
    line = changes_line(before, now, {"threads": 2}, {"threads": 1}, 6, ["the moon is full"])
    assert line == (
        "changed since the checkpoint: model.lr 0.1 → 0.2, threads 2 → 1 apply from iteration 6 on; "
        "model.encoder.mean.0 0.5 → 0.4 has no effect, since the checkpoint holds what came of it; the moon is full"
    )
    many = changes_line({str(i): 0 for i in range(20)}, {str(i): 1 for i in range(20)}, {}, {}, 1)
    assert "and 8 more apply" in many


def test_a_resumed_run_says_what_has_changed(tmp_path, capsys):
    """Keys of the config, the size of batches, seed, threads and precision; nothing where nothing has changed."""
    before = "seed_everything: 0\nmodel: null\ndata: {batch_size: 8}\ntrainer: {precision: null}"
    fitted(tmp_path, vae(), 4, config=before)
    fitted(tmp_path, vae(), 5, tmp_path / "last.ckpt", config=before)
    assert "changed" not in capsys.readouterr().err
    threads = torch.get_num_threads()
    now = "seed_everything: 1\nmodel: null\ndata: {batch_size: 4}\ntrainer: {precision: bf16-mixed}"
    try:
        torch.set_num_threads(threads + 1)
        keep = LastCheckpoint(tmp_path, now, 100)
        fit = trainer(
            tmp_path, max_epochs=-1, max_steps=6, callbacks=[keep], precision="bf16-mixed", enable_checkpointing=True
        )
        fit.fit(vae(), TinyData(batch_size=4), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    finally:
        torch.set_num_threads(threads)
    assert capsys.readouterr().err.strip() == (
        "changed since the checkpoint: seed_everything 0 → 1, data.batch_size 8 → 4, precision 32-true → bf16-mixed, "
        f"threads {threads} → {threads + 1} apply from iteration 5 on"
    )


def test_arguments_that_the_line_calls_without_effect_have_none(tmp_path):
    """An encoder's mean is a buffer, which comes from the checkpoint."""
    made = {}
    for mean in (0.1, 0.4):
        method = liebm()
        method.encoder.mean = torch.full((1, 1, 1), mean)
        method.encoder.std = torch.ones(1, 1, 1)
        found = tmp_path / "last.ckpt" if made else None
        made[mean] = fitted(tmp_path, method, CUT + len(made), found)["state_dict"]["encoder.mean"]
    assert made[0.4] == made[0.1]


# ── other data ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_other_training_images_are_refused_unless_they_are_meant(tmp_path, capsys):
    fitted(tmp_path, vae(), 4)
    other = TinyData(n=40, flip=True)
    with pytest.raises(
        UserError, match=r"^data: .*32 of tiny \(digest \w+\).*40 of tiny \(digest \w+\).*--changed_data$"
    ):
        fitted(tmp_path, vae(), 6, tmp_path / "last.ckpt", data=other)
    assert read(tmp_path / "last.ckpt")["global_step"] == 4
    fitted(tmp_path, vae(), 6, tmp_path / "last.ckpt", data=other, changed_data=True)
    assert "! data: the run was trained on 32 of tiny" in capsys.readouterr().err
    assert read(tmp_path / "last.ckpt")["global_step"] == 6
