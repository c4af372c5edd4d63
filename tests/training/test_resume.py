"""An interrupted and resumed run equals an uninterrupted one bit for bit, for every method in every setting."""

import os

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LinearLR

from ebmzoo.errors import UserError
from ebmzoo.methods import DenoisingEBMLearning
from ebmzoo.training.checkpoint import LastCheckpoint, newest, read
from ebmzoo.training.watchdog import Watchdog
from support.clel import clel
from support.family import FAMILY
from support.marginal import igebm, improved_cd
from support.resuming import PARTS, Rows, same
from support.tiny import TinyData, cdrl, denoising_ebm, dual_mcmc, liebm, trainer, vae


def falling(optimizer):
    return ExponentialLR(optimizer, 0.9)


SETTINGS = FAMILY | {  # `test_iteration_cost.py` asserts that the family has every method
    "LIEBM, schedule": lambda: liebm(lr_schedule=falling),
    "CLEL, schedules": lambda: clel(
        energy_schedule=lambda o: LinearLR(o, 0.1, total_iters=5),
        encoder_schedule=lambda o: CosineAnnealingLR(o, T_max=12),
        ema_start=2,
    ),
    "IGEBM, full ring": lambda: igebm(replay_size=20),
    "Improved CD, full reservoir": lambda: improved_cd(replay_size=20),
    "Dual-MCMC, schedule": lambda: dual_mcmc(lr_schedule=falling),
    "CDRL, schedule": lambda: cdrl(classes=4, energy_schedule=falling),
    "Denoising-EBM, warm-up and schedule": lambda: denoising_ebm(
        learning=DenoisingEBMLearning(1, warmup=5), lr_schedule=falling
    ),
}


def train(folder, make, ckpt_path=None, *, callbacks=(), every_n_steps=3, **limits):
    """Three epochs of four batches, validation after each: the last checkpoint, and the logged rows."""
    torch.manual_seed(1)
    method = make()
    torch.manual_seed(7 if ckpt_path is None else 99)  # random numbers drawn in between must not matter
    folder.mkdir(exist_ok=True)
    rows = Rows()
    kept = [Watchdog(every_n_steps=1), *callbacks, LastCheckpoint(folder, "model: null", every_n_steps)]
    settings = {"max_epochs": 3, "limit_val_batches": 1, "logger": rows, "log_every_n_steps": 1} | limits
    fit = trainer(folder, callbacks=kept, enable_checkpointing=True, **settings)
    fit.fit(method, TinyData(flip=True), ckpt_path=ckpt_path, weights_only=True)
    return read(folder / "last.ckpt"), rows.rows


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_run_resumed_three_times_equals_an_uninterrupted_one(setting, tmp_path):
    """Weights, averages, optimizers, schedules, buffers, random states, the watchdog's counts and all that is logged.

    Cut in the middle of the first epoch, at its end, and in the middle of the second; LIEBM's encoder has its own in
    the first, so one cut is in its stage 1, one between the stages and one in stage 2.
    """
    make = SETTINGS[setting]
    whole, rows = train(tmp_path / "whole", make)
    cut, last, logged = tmp_path / "cut", None, []
    for steps in (3, 4, 7, -1):
        resumed, more = train(cut, make, last, max_steps=steps)
        logged, last = logged + more, cut / "last.ckpt"
    assert whole["global_step"] == 12
    same({part: whole[part] for part in PARTS}, {part: resumed[part] for part in PARTS})
    assert repr(logged) == repr(rows), "repr: NaN is as itself"
    assert sum("val/energy_gap" in row for _, row in rows) <= 3


class Die(Callback):
    """Ends the run in the hook `where`, at the given iteration, as a crash does."""

    def __init__(self, where, at=8):
        self.at = at
        setattr(self, where, self.die)

    def die(self, trainer, *_, **__):
        if trainer.global_step == self.at:
            raise RuntimeError("died")


class SaveAndDie(Die):
    def die(self, trainer, *_, **__):
        if trainer.global_step == self.at:
            next(c for c in trainer.callbacks if isinstance(c, LastCheckpoint)).save(trainer)
        super().die(trainer)


@pytest.mark.parametrize("kind", [Die, SaveAndDie])
@pytest.mark.parametrize("where", ["on_validation_start", "on_validation_batch_end"])
def test_dying_at_the_end_of_an_epoch_loses_only_its_validation_values(where, kind, tmp_path):
    make = FAMILY["Short-run EBM"]
    (whole, rows), more = train(tmp_path / "whole", make), []
    with pytest.raises(RuntimeError, match="died"):
        train(tmp_path / "cut", make, callbacks=[kind(where)], every_n_steps=4)
    for steps in (10, -1):
        resumed, rest = train(tmp_path / "cut", make, tmp_path / "cut" / "last.ckpt", max_steps=steps)
        more = more + rest
    same({part: whole[part] for part in PARTS}, {part: resumed[part] for part in PARTS})
    training = [row for row in rows if "val/energy_gap" not in row[1]]
    assert [row for row in more if "val/energy_gap" not in row[1]] == [row for row in training if row[0] >= 8]


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def run(tmp_path):
    """A run of 6 iterations that keeps a checkpoint of iterations 3 and 6."""
    train(tmp_path / "run", FAMILY["VAE"], max_steps=6)
    return tmp_path / "run"


def test_the_last_checkpoint_and_the_one_before_are_kept(run):
    assert sorted(path.name for path in run.glob("*.*")) == ["last.ckpt", "previous.ckpt"]
    assert [read(run / name)["global_step"] for name in ("previous.ckpt", "last.ckpt")] == [3, 6]
    assert newest(run) == run / "last.ckpt"
    assert newest(run / "none") is None


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_skipped(run, part, capsys):
    content = (run / "last.ckpt").read_bytes()
    (run / "last.ckpt").write_bytes(content[: int(part * len(content))])
    assert newest(run) == run / "previous.ckpt"
    assert f"{run / 'last.ckpt'} is damaged" in capsys.readouterr().err
    (run / "previous.ckpt").unlink()
    assert newest(run) is None


def test_a_file_with_one_wrong_byte_is_skipped(run):
    content = bytearray((run / "last.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (run / "last.ckpt").write_bytes(content)
    assert newest(run) == run / "previous.ckpt"


class Failing:
    """A file on a disk that is full after `room` bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(28, os.strerror(28))
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.fixture
def full_disk(monkeypatch):
    """`full_disk(room)`: from now on a checkpoint with more bytes cannot be written; None removes the limit."""
    save = torch.save

    def full(room):
        failing = save if room is None else lambda checkpoint, file: save(checkpoint, Failing(file, room))
        monkeypatch.setattr(torch, "save", failing)

    return full


class FullDisk(Callback):
    def __init__(self, full_disk, room_at):
        self.full_disk, self.room_at = full_disk, room_at

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step in self.room_at:
            self.full_disk(self.room_at[trainer.global_step])


@pytest.mark.parametrize("room", [0, 1, 700, 50_000])
def test_a_full_disk_costs_a_checkpoint_and_not_the_run(room, tmp_path, full_disk, capsys):
    """The disk is full at iterations 6 and 9, and no longer at 12."""
    whole, _ = train(tmp_path / "whole", vae)
    callbacks = [FullDisk(full_disk, {4: room, 10: None})]
    seen = []

    class See(Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 7:
                seen.append((read(tmp_path / "run" / "last.ckpt")["global_step"], sorted(os.listdir(tmp_path / "run"))))

    resumed, _ = train(tmp_path / "run", vae, callbacks=[*callbacks, See()])
    assert seen == [(3, ["last.ckpt"])], "what was there is whole, and nothing half is left beside it"
    same(whole["state_dict"], resumed["state_dict"])
    output = capsys.readouterr().err
    where = tmp_path / "run" / "last.ckpt"
    assert output.count(f"iteration 6: {where} cannot be written (No space left on device); training continues") == 1
    assert "iteration 9" not in output
    assert f"iteration 12: {where} can be written again" in output


def test_a_disk_full_at_the_end_is_an_error_that_names_the_last_checkpoint(tmp_path, full_disk):
    with pytest.raises(UserError, match=r"No space left on device.*the last checkpoint is from iteration 3"):
        train(tmp_path / "run", vae, callbacks=[FullDisk(full_disk, {4: 1000})])
    assert read(tmp_path / "run" / "last.ckpt")["global_step"] == 3
