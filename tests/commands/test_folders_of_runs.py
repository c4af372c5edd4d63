"""Two fits at once, and a new run in a folder with records of an earlier one."""

import json
from pathlib import Path

import pytest
import yaml

from ebmzoo.commands.cli import main
from ebmzoo.commands.resume import OWN_RUN_DIR, RunFolder, Saved, Start, start, start_of_fit, start_with_lock
from ebmzoo.errors import UserError
from ebmzoo.report.comparison.curves import read_curve
from ebmzoo.training.checkpoint import Rollbacks, read
from ebmzoo.training.config_files import config_path, read_config
from ebmzoo.training.earlier_records import set_aside
from ebmzoo.training.run_lock import LOCK, Holder, RunLock, holder_of
from ebmzoo.training.watchdog import Event, read_events
from support.command_line import fails

ARGS = ["fit", "--config", "a.yaml"]
RUN, FREE = Path("runs/x"), Path("runs/x-2")
BUSY = RunFolder(RUN, free=FREE, holder=Holder(7, "here", "then"))


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """`fit(*flags)` runs a tiny VAE into `run`."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.chdir(tmp_path)
    config = read_config(config_path("vae_digits"))
    config["model"]["init_args"]["generator"]["init_args"]["width"] = 8
    config["data"]["init_args"] |= {"max_train": 40, "batch_size": 20}
    config["trainer"] = {"max_steps": 2, "accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1}
    config |= {"run_dir": "run", "tasks": [], "grid_every": 1}
    Path("tiny.yaml").write_text(yaml.safe_dump(config))
    return lambda *flags: main(["fit", "--config", "tiny.yaml", *flags])


# ── two at once ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_second_fit_says_who_is_at_work_and_goes_to_the_next_folder(fit, capsys):
    with RunLock.take(Path("run")) as lock, RunLock.take(Path("run-2")):
        fit()
        holder = holder_of(Path("run"))
        assert f"run is in use by another fit, {holder}; this one goes to run-3" in capsys.readouterr().out
        assert read("run-3/last.ckpt")["global_step"] == 2
        assert [*Path("run").iterdir()] == [lock.path]
        for flags in (["--resume", "auto"],):
            sentence = fails(capsys, "fit", "--config", "tiny.yaml", *flags)
            assert f"run_dir: run is in use by another fit, {holder}" in sentence
    fit()
    assert read("run/last.ckpt")["global_step"] == 2, "it is free again"


def test_a_fit_holds_its_folder_while_it_trains(fit, monkeypatch):
    seen = []
    monkeypatch.setattr("ebmzoo.commands.lightning.ZooCLI", lambda start: seen.append(start) or Done(start))

    class Done:
        def __init__(self, start):
            self.retry = None
            self.holder = holder_of(start.run_dir)
            held.append(self.holder)

    held = []
    fit()
    assert held[0] is not None
    assert holder_of(Path("run")) is None
    assert not Path("run").exists()


def test_what_a_fit_does_where_another_is_at_work():
    found = start_of_fit(ARGS, BUSY, None, resumes=False)
    assert found == Start(
        [*ARGS, "--run_dir", "runs/x-2"],
        message="runs/x is in use by another fit, process 7 on here since then; this one goes to runs/x-2",
    )
    other = start_of_fit(ARGS, BUSY, Saved(Path("runs/y/last.ckpt"), 9, Rollbacks()), resumes=False)
    assert (other.run_dir, other.step) == (FREE, 9)
    for checkpoint, resumes in ((None, True), (Saved(RUN / "last.ckpt", 9, Rollbacks()), False)):
        with pytest.raises(UserError, match="runs/x is in use by another fit, process 7 on here since then"):
            start_of_fit(ARGS, BUSY, checkpoint, resumes)


def test_of_processes_that_train_together_only_the_first_locks(tmp_path):
    args = [*ARGS, "--run_dir", str(tmp_path / "run")]
    found, lock = start_with_lock(args, {"RANK": "0", "WORLD_SIZE": "2"})
    with lock:
        for environment in ({"RANK": "1", "WORLD_SIZE": "2"}, {"LOCAL_RANK": "1"}, {"SLURM_PROCID": "3"}):
            assert start_with_lock(args, environment) == (found, None)
        with pytest.raises(UserError, match=r"run_dir: .* is in use by process"):
            start(args, {"RANK": "0", "WORLD_SIZE": "2"})
        second, another = start_with_lock(args, {})
        with another:
            started = start(args, {"LOCAL_RANK": "1", OWN_RUN_DIR: str(second.run_dir)})
            assert second.run_dir == started.run_dir == tmp_path / "run-2"
    assert start_with_lock([*args, "--print_config"], {})[1] is None


def test_only_shown_configurations_lock_nothing(fit, tmp_path):
    with pytest.raises(SystemExit):
        fit("--print_config")
    assert not Path("run").exists()


# ── records of an earlier run ────────────────────────────────────────────────────────────────────────────────────────


def left_behind(folder):
    """What a run leaves that has diverged before its first checkpoint."""
    folder.mkdir()
    Event(13, "non_finite", "iteration 13: a loss is not finite").write(folder, echo=False)
    (folder / "csv" / "version_0").mkdir(parents=True)
    (folder / "csv" / "version_0" / "metrics.csv").write_text("step,train/loss\n500,9.0\n")
    (folder / "samples").mkdir()
    (folder / "samples" / "step_0000500.png").write_bytes(b"")
    (folder / "training.json").write_text('{"iterations": 500}')
    (folder / "wandb.json").write_text("{}")


def test_a_new_run_shows_no_events_curves_or_pictures_of_an_earlier_one(fit, capsys):
    left_behind(Path("run"))
    fit()
    assert "run holds records of an earlier run: they are in run/earlier-1 now" in capsys.readouterr().err
    assert read_events(Path("run")) == []
    assert [event.step for event in read_events(Path("run/earlier-1"))] == [13]
    steps, _ = read_curve(Path("run"), "train/loss")
    assert max(steps) < 500
    assert not Path("run/samples/step_0000500.png").exists()
    assert json.loads(Path("run/training.json").read_text())["iterations"] == 2
    assert sorted(path.name for path in Path("run/earlier-1").iterdir()) == [
        *("csv", "events.jsonl", "samples", "training.json", "wandb.json")
    ]


def test_a_resumed_run_keeps_its_records(fit, capsys):
    fit()
    Event(1, "dead_energy", "iteration 1: dead").write(Path("run"), echo=False)
    fit("--resume", "auto", "--trainer.max_steps", "3")
    fit("--ckpt_path", "run/last.ckpt", "--trainer.max_steps", "4")
    assert [event.step for event in read_events(Path("run"))] == [1]
    assert read_curve(Path("run"), "train/loss")[0][0] <= 1
    assert not Path("run/earlier-1").exists()
    assert read("run/last.ckpt")["global_step"] == 4


def test_damaged_checkpoints_are_set_aside_with_the_records_of_their_run(fit):
    fit()
    Path("run/last.ckpt").write_bytes(b"half")
    fit("--resume", "auto", "--trainer.max_steps", "3")
    assert Path("run/earlier-1/last.ckpt").read_bytes() == b"half"
    assert read("run/last.ckpt")["global_step"] == 3
    assert not Path("run/previous.ckpt").exists()


def test_a_run_that_has_failed_before_its_first_iteration_leaves_nothing_to_set_aside(tmp_path):
    for name in ("config.yaml", "wandb.json", LOCK, "training.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "csv" / "version_0").mkdir(parents=True)
    assert set_aside(tmp_path) is None
    assert set_aside(tmp_path / "none") is None
    (tmp_path / "events.jsonl").write_text("{}")
    for number in (1, 2):
        assert set_aside(tmp_path) == tmp_path / f"earlier-{number}"
        (tmp_path / "events.jsonl").write_text("{}")
