"""Runs killed with SIGKILL at random moments, or stopped by signals: nothing is lost, and no partial file is loaded."""

import itertools
import json
import os
import signal
import subprocess
import sys

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback

from ebmzoo.commands.cli import main
from ebmzoo.training.checkpoint import LastCheckpoint, read
from ebmzoo.training.stop import StopOnSignal
from ebmzoo.training.watchdog import DivergedError, Watchdog
from support.command_line import small
from support.marginal import short_run
from support.paths import SUPPORT, TESTS
from support.poison import Poison
from support.resuming import PARTS, Rows, same
from support.tiny import TinyData, trainer, vae

SCRIPT = SUPPORT / "kill_script.py"


def test_twenty_kills_lose_nothing(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}
    command = [sys.executable, str(SCRIPT), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "is damaged" not in done.stderr
    reported = json.loads((tmp_path / "reported.json").read_text())
    assert len(reported["iterations"]) == 20
    for before, after in itertools.pairwise([run for run in reported["iterations"] if run]):
        assert after[0] >= before[-1], "a run resumes from the last checkpoint that was reported"
    whole, cut = (read(tmp_path / name / "last.ckpt") for name in ("whole", "cut"))
    assert whole["global_step"] == reported["last"] > 20
    same({part: whole[part] for part in PARTS}, {part: cut[part] for part in PARTS})


class Send(Callback):
    """Sends this process a signal in the hook `where` of iteration `at`, `times` times."""

    def __init__(self, number, at, where="on_train_batch_start", times=1):
        self.number, self.at, self.times = number, at, times
        setattr(self, where, self.send)

    def send(self, trainer, *_, **__):
        if trainer.global_step == self.at:
            for _ in range(self.times):
                signal.raise_signal(self.number)


def run(folder, callbacks=(), found=None, make=short_run, **limits):
    """Three epochs of four batches, no checkpoint before the end; what was logged."""
    torch.manual_seed(1)
    method, rows = make(), Rows()
    torch.manual_seed(7 if found is None else 99)
    keep = LastCheckpoint(folder, "model: null", every_n_steps=100)
    settings = {"max_epochs": 3, "limit_val_batches": 2, "logger": rows, "log_every_n_steps": 1} | limits
    fit = trainer(folder, callbacks=[*callbacks, StopOnSignal(keep), keep], enable_checkpointing=True, **settings)
    before = signal.getsignal(signal.SIGTERM)
    try:
        fit.fit(method, TinyData(flip=True), ckpt_path=found, weights_only=True)
        code = 0
    except SystemExit as left:
        code = left.code
    assert signal.getsignal(signal.SIGTERM) is before
    return code, rows.rows


@pytest.mark.parametrize(
    ("where", "at"),
    [
        ("on_train_batch_start", 5),
        ("on_before_backward", 5),
        ("on_train_batch_start", 7),
        ("on_validation_start", 8),
        ("on_validation_batch_end", 8),
    ],
    ids=["within an epoch", "within an iteration", "last batch of an epoch", "before validation", "in validation"],
)
def test_sigterm_saves_the_iteration_and_ends_with_143(where, at, tmp_path, capsys):
    """The resumed run ends, logs included, like one that was never stopped."""
    stopped = at + 1 if "train" in where or "backward" in where else at
    _, rows = run(tmp_path / "whole")
    code, logged = run(tmp_path / "cut", [Send(signal.SIGTERM, at, where)])
    assert code == 143
    found = tmp_path / "cut" / "last.ckpt"
    message = f"ebmzoo: stopped by SIGTERM at iteration {stopped}; resume with: ebmzoo fit --ckpt_path {found}"
    assert capsys.readouterr().err.count(message) == 1
    assert read(found)["global_step"] == stopped
    code, more = run(tmp_path / "cut", found=found)
    assert code == 0
    assert repr(logged + more) == repr(rows)
    whole, cut = (read(tmp_path / name / "last.ckpt") for name in ("whole", "cut"))
    same({part: whole[part] for part in PARTS}, {part: cut[part] for part in PARTS})


def test_validation_within_an_epoch_may_be_stopped_too(tmp_path):
    _, rows = run(tmp_path / "whole", val_check_interval=2)
    _, logged = run(tmp_path / "cut", [Send(signal.SIGTERM, 6, "on_validation_start")], val_check_interval=2)
    _, more = run(tmp_path / "cut", found=tmp_path / "cut" / "last.ckpt", val_check_interval=2)
    assert repr(logged + more) == repr(rows)
    whole, cut = (read(tmp_path / name / "last.ckpt") for name in ("whole", "cut"))
    same({part: whole[part] for part in PARTS}, {part: cut[part] for part in PARTS})


def test_ctrl_c_saves_and_a_second_one_does_not_wait(tmp_path, capfd):
    assert run(tmp_path / "once", [Send(signal.SIGINT, 5)])[0] == 130
    assert read(tmp_path / "once" / "last.ckpt")["global_step"] == 6
    assert "a second Ctrl-C stops at once" in capfd.readouterr().err
    assert run(tmp_path / "twice", [Send(signal.SIGINT, 5, times=2)])[0] == 130
    assert not (tmp_path / "twice" / "last.ckpt").exists()


def test_a_signal_in_the_last_iteration_ends_the_run_normally(tmp_path):
    assert run(tmp_path, [Send(signal.SIGTERM, 11)])[0] == 0
    assert read(tmp_path / "last.ckpt")["global_step"] == 12


def test_a_state_that_has_diverged_is_not_saved_at_a_signal(tmp_path):
    callbacks = [Poison(at=5), Watchdog(every_n_steps=100), Send(signal.SIGTERM, 6)]
    with pytest.raises(DivergedError):
        run(tmp_path, callbacks, make=vae)
    assert not (tmp_path / "last.ckpt").exists()


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The environment of a SLURM job for Lightning, and a `scontrol` that records its arguments."""
    job = {"NTASKS": "1", "JOB_ID": "12345", "JOB_NAME": "fit", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    program = tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/requests\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tmp_path / "requests"


def test_slurm_requeues_the_job(slurm, tmp_path, capsys):
    assert run(tmp_path / "run", [Send(signal.SIGUSR1, 5)])[0] == 138
    assert slurm.read_text() == "requeue 12345\n"
    assert "job 12345 is in SLURM's queue again" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["last.ckpt"], "and no hpc_ckpt of Lightning's"
    assert read(tmp_path / "run" / "last.ckpt")["global_step"] == 6


def test_sigterm_within_slurm_saves_and_leaves_the_queue_to_slurm(slurm, tmp_path):
    assert run(tmp_path / "run", [Send(signal.SIGTERM, 5)])[0] == 143
    assert not slurm.exists()
    assert read(tmp_path / "run" / "last.ckpt")["global_step"] == 6


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def script(tmp_path, monkeypatch):
    """The command line of a job script for a small digits run that is stopped at its third start; `script()` runs it.

    The run has 12 iterations; it gets SIGTERM in the 5th and in the 9th.
    """
    monkeypatch.setenv("WANDB_MODE", "disabled")
    send = [{"class_path": "test_kill.Send", "init_args": {"number": 15, "at": at}} for at in (4, 8)]
    config = yaml.safe_load(small(tmp_path).read_text())
    config["trainer"]["callbacks"] = send
    config |= {"grid_every": 0, "checkpoint_every": 100}
    path = tmp_path / "script.yaml"
    path.write_text(yaml.safe_dump(config))

    def started(*flags):
        try:
            main(["fit", "--config", str(path), *flags])
        except SystemExit as left:
            return left.code
        return 0

    return started


@pytest.mark.parametrize("where", ["on_fit_start", "on_train_start"])
def test_a_signal_before_the_first_iteration_ends_the_run_with_its_code(where, tmp_path, monkeypatch, capsys):
    """Without a checkpoint, and before `StopOnSignal` or, in the second case, after Lightning has set its handler."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    config = yaml.safe_load(small(tmp_path).read_text())
    send = {"class_path": "test_kill.Send", "init_args": {"number": 15, "at": 0, "where": where}}
    config["trainer"]["callbacks"] = [send]
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit) as left:
        main(["fit", "--config", str(tmp_path / "small.yaml")])
    assert left.value.code == 143
    assert [line for line in capsys.readouterr().err.splitlines() if "SIG" in line] == ["ebmzoo: stopped by SIGTERM"]
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_one_script_starts_resumes_and_finds_the_run_finished(script, tmp_path, capsys):
    run_dir = tmp_path / "run"
    assert script("--resume", "auto") == 143
    assert f"{run_dir} holds no intact checkpoint: training starts from the beginning" in capsys.readouterr().out
    assert script("--resume", "auto") == 143
    assert f"resuming from {run_dir / 'last.ckpt'}, saved at iteration 5" in capsys.readouterr().out
    assert script("--resume", "auto") == 0
    record = (run_dir / "training.json").read_text()
    assert script("--resume", "auto") == 0
    assert "the run had already ended at iteration 12: nothing was left to train" in capsys.readouterr().out
    assert (run_dir / "training.json").read_text() == record
    assert json.loads(record)["iterations"] == 12
    assert [path.name for path in tmp_path.glob("run*")] == ["run"]
    assert script("--run_dir", str(tmp_path / "other"), "--trainer.callbacks", "[]") == 0
    one, two = (read(tmp_path / name / "last.ckpt") for name in ("run", "other"))
    same(one["state_dict"], two["state_dict"])
    same(one["optimizer_states"], two["optimizer_states"])


def test_a_damaged_checkpoint_is_skipped(script, tmp_path, capsys):
    script("--resume", "auto")
    script("--resume", "auto")
    (tmp_path / "run" / "last.ckpt").write_bytes(b"half a file")
    capsys.readouterr()
    assert script("--resume", "auto") == 143
    output = capsys.readouterr()
    assert "last.ckpt is damaged" in output.err
    assert "previous.ckpt, saved at iteration 5" in output.out
    for path in (tmp_path / "run").glob("*.ckpt"):
        path.write_bytes(b"")
    assert script("--resume", "auto") == 143
    assert read(tmp_path / "run" / "last.ckpt")["global_step"] == 5, "from the start, in the same folder"


def test_a_requeued_job_resumes_by_itself(script, tmp_path, monkeypatch):
    assert script() == 143
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert script() == 143
    assert read(tmp_path / "run" / "last.ckpt")["global_step"] == 9


def test_resume_and_a_checkpoint_contradict_each_other(script, tmp_path, capsys):
    script()
    capsys.readouterr()
    assert script("--resume", "auto", "--ckpt_path", str(tmp_path / "run" / "last.ckpt")) == 2
    assert "ebmzoo: --resume auto finds the checkpoint by itself" in capsys.readouterr().err
