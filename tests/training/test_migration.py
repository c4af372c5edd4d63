"""A checkpoint that the first version wrote is loaded, sampled, tested and gone on with."""

import numpy as np
import pytest
import torch

from ebmzoo import UserError, load
from ebmzoo.cli import main
from ebmzoo.methods.baselines import CoopNets
from ebmzoo.training.checkpoint import read
from ebmzoo.training.migration import FORMAT, KEY, STEPS, MigratingIO, migrated
from support.paths import DATA

# CoopNets of width 4 on 80 digits, 2 epochs of 4 batches, written by the code of commit 381821b:
# `ebmzoo fit --config configs/coopnets/digits.yaml --model.energy_net.width 4 --model.generator.width 4
#  --model.generator.latent 4 --model.sampler.steps 2 --data.max_train 80 --data.batch_size 20 --tasks '[]'
#  --data.ood '[]' --trainer.max_epochs 2 --trainer.limit_val_batches 0 --grid_every 0 --trainer.logger false`
OLD = DATA / "format1.ckpt"


@pytest.fixture(autouse=True)
def no_dashboard(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")


def test_the_file_is_of_the_first_format():
    assert torch.load(OLD, weights_only=True)[KEY]["format"] == 1


def test_there_is_a_step_from_every_format_to_the_newest():
    assert set(STEPS) == set(range(1, FORMAT))


def test_old_checkpoint_is_loaded_to_the_last_weight():
    written = torch.load(OLD, weights_only=True)["state_dict"]
    method = load(OLD)
    assert isinstance(method, CoopNets)
    found = method.state_dict()
    assert found.keys() == written.keys()
    assert all(torch.equal(found[name], value) for name, value in written.items())
    own = read(OLD)[KEY]
    assert (own["format"], own["buffers"], own["rollbacks"]) == (FORMAT, [], {})


def test_old_checkpoint_is_sampled(tmp_path):
    main(["sample", "--ckpt_path", str(OLD), "--n", "3", "--out", str(tmp_path / "x.npz"), "--device", "cpu"])
    assert np.load(tmp_path / "x.npz")["images"].shape == (3, 8, 8, 1)


def test_old_checkpoint_is_gone_on_with(tmp_path):
    """Its 8 iterations are kept: the averages count on, and so does the step."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.ckpt").write_bytes(OLD.read_bytes())
    main(["fit", "--ckpt_path", str(tmp_path / "run" / "last.ckpt"), "--trainer.max_epochs", "3"])
    made = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert made[KEY]["format"] == FORMAT
    assert made["global_step"] == 12
    assert made["state_dict"]["averages.generator.n_averaged"] == 13  # the first is of the start
    steps = [state["step"] for optimizer in made["optimizer_states"] for state in optimizer["state"].values()]
    assert steps
    assert all(step == 12 for step in steps)


def told(number):
    return {"state_dict": {}, KEY: {"format": number, "version": "0.0.9", "config": "model: null", "seen": []}}


def test_steps_are_applied_in_their_order():
    def step(name):
        def apply(checkpoint):
            checkpoint[KEY]["seen"].append(name)
            return checkpoint

        return apply

    found = migrated(told(2), "x.ckpt", steps={1: step("one"), 2: step("two"), 3: step("three")}, newest=4)
    assert found[KEY]["seen"] == ["two", "three"]
    assert found[KEY]["format"] == 4


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (told(FORMAT + 1), ["0.0.9", "newer"]),
        (told(0), ["format 0", "no more"]),
        (told("one"), ["does not tell its format"]),
        ({"state_dict": {}}, ["carries no config"]),
        ({KEY: {"format": FORMAT, "config": None}}, ["carries no config"]),
        ([1, 2], ["carries no config"]),
    ],
)
def test_what_cannot_be_migrated_is_told(content, words, tmp_path):
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError) as caught:
        read(tmp_path / "x.ckpt")
    assert all(word in str(caught.value) for word in ["x.ckpt", *words])


def test_lightning_reads_through_the_same_door(tmp_path):
    torch.save(told(FORMAT + 1), tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="newer"):
        MigratingIO().load_checkpoint(tmp_path / "x.ckpt")
