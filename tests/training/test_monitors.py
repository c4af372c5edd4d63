"""A callback that follows a value which is never logged is refused or named."""

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from ebmzoo.errors import UserError
from ebmzoo.training.monitors import CheckMonitors
from support.tiny import TinyData, liebm, trainer, vae


def fit(tmp_path, monitor, method=None, **changes):
    callbacks = [CheckMonitors(), ModelCheckpoint(tmp_path, monitor=monitor, every_n_train_steps=100)]
    settings = {"max_epochs": 2, "callbacks": callbacks, "enable_checkpointing": True} | changes
    trainer(tmp_path, **settings).fit(method or vae(), TinyData(n=8, batch_size=4))


@pytest.mark.parametrize("monitor", ["val/nonsense", "loss", ""])
def test_a_value_that_no_method_logs_is_refused(monitor, tmp_path):
    words = f"ModelCheckpoint monitors '{monitor}', which a VAE does not log: it logs val/energy_data, "
    with pytest.raises(UserError, match=words):
        fit(tmp_path, monitor)


def test_a_value_that_has_not_come_is_named_once(tmp_path, capsys):
    fit(tmp_path, "train/los")
    sentence = "! ModelCheckpoint monitors 'train/los', which has not been logged so far; did you mean 'train/loss'?\n"
    assert capsys.readouterr().err == sentence


@pytest.mark.parametrize("monitor", ["train/loss", "val/energy_gap", "step", None])
def test_values_that_come_are_not(monitor, tmp_path, capsys):
    fit(tmp_path, monitor, limit_val_batches=1)
    assert capsys.readouterr().err == ""


def test_values_of_a_later_phase_are_awaited(tmp_path, capsys):
    fit(tmp_path, "train/energy_gap", liebm(), max_epochs=1)  # the epoch of the encoder
    assert "monitors" not in capsys.readouterr().err
