"""Where a command starts: decided from the command line and the run's folder, without a trainer."""

from pathlib import Path

import pytest

from ebmzoo.commands.resume import RunFolder, Saved, Start, restarted, start, start_of_fit
from ebmzoo.errors import UserError
from ebmzoo.training.checkpoint import Rollbacks
from support.paths import DATA

ARGS = ["fit", "--config", "a.yaml"]
RUN = Path("runs/x")
CHANGED = Rollbacks(1, {"seed_everything": 1, "model.sampler.step_size": 0.5})
LAST = Saved(RUN / "last.ckpt", 6, Rollbacks())
FROM_LAST = ["--resume", "null", "--ckpt_path", "runs/x/last.ckpt"]
OLD = str(DATA / "format1.ckpt")
STEP = Saved.at(OLD).step


def test_a_run_in_an_empty_folder_begins():
    assert start_of_fit(ARGS, RunFolder(RUN), None, resumes=False) == Start(ARGS)


def test_a_run_leaves_the_one_in_its_folder_untouched():
    found = start_of_fit(ARGS, RunFolder(RUN, holds_run=True, free=Path("runs/x-2")), None, resumes=False)
    assert found.args == [*ARGS, "--run_dir", "runs/x-2"]
    assert "runs/x already holds a run; this one goes to runs/x-2" in found.message


def test_a_run_that_resumes_takes_the_newest_checkpoint_or_begins():
    found = start_of_fit(ARGS, RunFolder(RUN, True, LAST), None, resumes=True)
    message = "resuming from runs/x/last.ckpt, saved at iteration 6"
    assert found == Start([*ARGS, *FROM_LAST], step=6, message=message, continues=True)
    found = start_of_fit(ARGS, RunFolder(RUN, True), None, resumes=True)
    assert found.args == ARGS
    assert "no intact checkpoint" in found.message
    assert not found.continues


def test_a_run_that_resumes_repeats_what_its_rollbacks_changed():
    found = start_of_fit(ARGS, RunFolder(RUN, True, Saved(LAST.path, 6, CHANGED)), None, resumes=True)
    assert found.args == [*ARGS, *FROM_LAST, "--seed_everything=1", "--model.sampler.step_size=0.5"]
    assert found.rollbacks == CHANGED


def test_a_checkpoint_of_the_folder_continues_its_run_and_another_does_not():
    folder = RunFolder(RUN, holds_run=True, free=Path("runs/x-2"))
    own = start_of_fit(ARGS, folder, Saved(LAST.path, 6, CHANGED), resumes=False)
    assert own == Start(ARGS, CHANGED, 6, continues=True)
    other = start_of_fit(ARGS, folder, Saved(Path("runs/y/last.ckpt"), 9, CHANGED), resumes=False)
    assert (other.args, other.rollbacks, other.step) == ([*ARGS, "--run_dir", "runs/x-2"], Rollbacks(), 9)


def test_the_folder_is_read_from_options_and_configurations(tmp_path):
    (tmp_path / "a.yaml").write_text(f"run_dir: {tmp_path}/run\n")
    args = ["fit", "--config", f"{tmp_path}/a.yaml"]
    for name in ("run", "run-2", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "last.ckpt").write_bytes(Path(OLD).read_bytes())
    assert start(args, {}).args[-1] == f"{tmp_path}/run-3"
    assert start([*args, "--run_dir", f"{tmp_path}/none"], {}) == Start([*args, "--run_dir", f"{tmp_path}/none"])
    for environment, flags in (({}, ["--resume", "auto"]), ({"SLURM_RESTART_COUNT": "1"}, [])):
        found = start([*args, *flags, "--run_dir", f"{tmp_path}/other"], environment)
        assert (found.args[-1], found.step) == (f"{tmp_path}/other/last.ckpt", STEP)
    assert start([*args, "--ckpt_path", f"{tmp_path}/run/last.ckpt"], {"SLURM_RESTART_COUNT": "1"}).message is None


@pytest.mark.parametrize("flag", ["-h", "--help", "--model.help", "--print_config", "--print_config=skip_null"])
def test_help_decides_nothing(flag):
    assert start(["test", flag], {}) == Start(["test", flag])


def test_other_commands_need_a_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"^test needs --ckpt_path"):
        start(["test"], {})
    found = start(["test", "--ckpt_path", OLD], {})
    assert (found.args, found.step) == (["test", "--ckpt_path", OLD], STEP)
    assert (found.evaluated.path, found.evaluated.step) == (Path(OLD), STEP)
    with pytest.raises(UserError, match="no file"):
        start(["fit", "--ckpt_path", f"{tmp_path}/none.ckpt"], {})
    with pytest.raises(UserError, match="use one of the two"):
        start(["fit", "--ckpt_path", OLD, "--resume", "auto"], {})


# ── after a divergence ───────────────────────────────────────────────────────────────────────────────────────────────


def config(retries=2, changes=None, seed=0):
    sampler = {"class_path": "ebmzoo.Langevin", "init_args": {"step_size": 1.0, "steps": 3, "clip": None}}
    model = {"class_path": "ebmzoo.methods.LIEBM", "init_args": {"sampler": sampler}}
    watchdog = {"retries": retries, "changes": changes}
    return {"run_dir": "runs/x", "seed_everything": seed, "watchdog": watchdog, "model": model}


def test_a_diverged_run_goes_back_with_the_next_seed_and_scaled_settings():
    changes = {"model.sampler.step_size": 0.5, "model.sampler.steps": 0.1}
    found = restarted(Start(ARGS), config(changes=changes), LAST)
    flags = ["--seed_everything=1", "--model.sampler.step_size=0.5", "--model.sampler.steps=1"]
    assert found.args == [*ARGS, "--run_dir", "runs/x", *flags, *FROM_LAST]
    assert (found.rollbacks.tries, found.step) == (1, 6)
    assert found.message == (
        "Going back to runs/x/last.ckpt (try 1 of 2) with seed 1, model.sampler.step_size 0.5, model.sampler.steps 1"
    )


def test_without_a_checkpoint_it_goes_back_to_the_start():
    found = restarted(Start(ARGS), config(), None)
    assert found.args == [*ARGS, "--run_dir", "runs/x", "--seed_everything=1"]
    assert found.step is None
    assert "Going back to the start" in found.message
    assert found.continues, "the events of the run that has diverged are its own"


def test_retries_are_counted():
    once = restarted(Start(ARGS), config(), LAST)
    twice = restarted(once, config(seed=1), LAST)
    assert (twice.rollbacks.tries, twice.rollbacks.changed) == (2, {"seed_everything": 2})
    assert restarted(twice, config(seed=2), LAST) is None
    assert restarted(Start(ARGS), config(retries=0), LAST) is None


@pytest.mark.parametrize(("key", "words"), [("model.no.key", "no key"), ("model.sampler.clip", "is not a number")])
def test_changes_need_a_number(key, words):
    with pytest.raises(UserError, match=rf"watchdog\.changes: .*{words}"):
        restarted(Start(ARGS), config(changes={key: 0.5}), LAST)
