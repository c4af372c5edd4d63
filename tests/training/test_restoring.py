"""A checkpoint that does not fit its run, or whose states are odd, is refused in a sentence, or taken up."""

import copy
import math

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch.optim import Adam
from torch.optim.lr_scheduler import ExponentialLR

from ebmzoo.errors import UserError
from ebmzoo.networks import SNGANGenerator
from ebmzoo.training.checkpoint import LastCheckpoint
from support.tiny import SIZE, TinyData, coopnets, trainer, vae

CONFIG = "seed_everything: 0\nmodel: {class_path: ebmzoo.methods.baselines.VAE}"


def fitted(folder, steps, method=None, ckpt_path=None):
    method = method or vae(lr_schedule=lambda optimizer: ExponentialLR(optimizer, 0.9))
    callbacks = [LastCheckpoint(folder, CONFIG, 100), EarlyStopping("train/loss", patience=100)]
    fit = trainer(folder, max_steps=steps, max_epochs=-1, callbacks=callbacks, enable_checkpointing=True)
    fit.fit(method, TinyData(n=16, batch_size=4), ckpt_path=ckpt_path, weights_only=True)
    return fit


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fitted(folder, 3)
    return torch.load(folder / "last.ckpt", weights_only=True)


def put(checkpoint, path, value):
    """A copy with another value at a path; without the entry if the value is `...`."""
    checkpoint = copy.deepcopy(checkpoint)
    parent = checkpoint
    for key in path[:-1]:
        parent = parent[key]
    if value is ...:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return checkpoint


STOPPING = "EarlyStopping{'monitor': 'train/loss', 'mode': 'min'}"
MOMENT = ("optimizer_states", 0, "state", 0, "exp_avg")
EPOCH = ("loops", "fit_loop", "epoch_progress", "current", "ready")
ODD = [
    (("pytorch-lightning_version",), ..., "pytorch-lightning_version"),
    (("pytorch-lightning_version",), "newest", "pytorch-lightning_version is 'newest'"),
    (("loops", "fit_loop"), 3, "loops have 3 at fit_loop"),
    (("loops", "fit_loop"), {}, "loops have no epoch_progress of the fit_loop"),
    (EPOCH, "many", "loops count 'many' at fit_loop.epoch_progress"),
    (EPOCH, -1, "loops count -1"),
    (("loops", "fit_loop", "state_dict", "combined_loader", 0), "here", "place in the data is 'here'"),
    (("loops", "fit_loop", "state_dict", "combined_loader", 0, "epoch"), 10**30, "place in the data"),
    (("optimizer_states", 0), {}, "optimizer_states are not those of optimizers"),
    (("optimizer_states", 0, "param_groups"), [3], "optimizer_states are not those of optimizers"),
    (("optimizer_states",), ..., "optimizer"),
    (("lr_schedulers", 0, "last_epoch"), "late", "schedule of the checkpoint has taken 'late' steps"),
    (("callbacks", STOPPING, "best_score"), "good", "EarlyStopping has 'good' at best_score, and must have a tensor"),
    (("callbacks", STOPPING, "wait_count"), {}, "EarlyStopping has {} at wait_count, and must have a number"),
    (("loops", "fit_loop", "epoch_loop.batch_progress"), ..., "loops have no epoch_loop.batch_progress"),
    (("ebmzoo", "random", 0, "cpu"), torch.zeros(3, dtype=torch.uint8), "holds random states or buffers that this run"),
]


@pytest.mark.parametrize(("path", "value", "words"), ODD, ids=lambda each: str(each)[:60])
def test_odd_states_are_refused_in_a_sentence(path, value, words, whole, tmp_path):
    torch.save(put(whole, path, value), tmp_path / "odd.ckpt")
    with pytest.raises(UserError) as refused:
        fitted(tmp_path, 5, ckpt_path=tmp_path / "odd.ckpt")
    assert words in str(refused.value)


@pytest.mark.parametrize("value", [..., 3, torch.zeros(3), torch.zeros(0)], ids=str)
def test_moments_that_do_not_fit_are_left_out_and_named(value, whole, tmp_path, capsys):
    torch.save(put(whole, MOMENT, value), tmp_path / "odd.ckpt")
    assert fitted(tmp_path, 5, ckpt_path=tmp_path / "odd.ckpt").global_step == 5
    assert "the optimizer of generator starts without moments" in capsys.readouterr().err


def test_a_whole_one_is_taken_up(whole, tmp_path, capsys):
    torch.save(whole, tmp_path / "whole.ckpt")
    assert fitted(tmp_path, 5, ckpt_path=tmp_path / "whole.ckpt").global_step == 5
    assert "moments" not in capsys.readouterr().err


def test_weights_of_other_networks_are_named(whole, tmp_path):
    torch.save(whole, tmp_path / "whole.ckpt")
    wider = vae(generator=SNGANGenerator(latent=4, out_channels=1, size=SIZE, width=16))
    words = r"whole\.ckpt does not hold the weights of this model: generator\.\S+ is \(.*8.*\) in the file and must be"
    with pytest.raises(UserError, match=words):
        fitted(tmp_path, 5, wider, tmp_path / "whole.ckpt")


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"class_path": "ebmzoo.methods.baselines.CoopNets"}, "holds a VAE, and the model of the config is a CoopNets"),
        (
            {"class_path": "ebmzoo.methods.baselines.VAE", "init_args": {"sigma": 2}},
            r"holds other networks .*; the config has changed model\.sigma from 1 to 2 since",
        ),
    ],
)
def test_the_configs_say_what_has_changed(section, words, whole, tmp_path):
    before = {"model": {"class_path": "ebmzoo.methods.baselines.VAE", "init_args": {"sigma": 1}}}
    torch.save(put(whole, ("ebmzoo", "config"), str(before)), tmp_path / "whole.ckpt")
    method = coopnets()
    fit = trainer(tmp_path, max_steps=5)
    fit.model_config = section
    with pytest.raises(UserError, match=words):
        fit.fit(method, TinyData(n=16, batch_size=4), ckpt_path=tmp_path / "whole.ckpt", weights_only=True)


def test_moments_of_the_same_optimizer_stay_bit_for_bit(whole, tmp_path):
    """Also those of NaN, which the watchdog sees; nothing is made up in their place."""
    odd = put(whole, MOMENT, torch.full_like(whole["optimizer_states"][0]["state"][0]["exp_avg"], math.nan))
    torch.save(odd, tmp_path / "odd.ckpt")
    fit = fitted(tmp_path, 4, ckpt_path=tmp_path / "odd.ckpt")
    assert isinstance(fit.optimizers[0], Adam)
    first = fit.optimizers[0].state[next(iter(fit.lightning_module.generator.parameters()))]
    assert torch.isnan(first["exp_avg"]).all()
