"""The benchmark's plan and its runner, with a stand-in for `ebmzoo` that writes the same files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from ebmzoo.commands.benchmark import Plan, execute
from ebmzoo.commands.benchmark.plan import Run, agrees
from ebmzoo.commands.benchmark.runner import _environment
from ebmzoo.commands.cli import main
from ebmzoo.errors import UserError
from ebmzoo.training.config_files import config_path, read_config
from ebmzoo.training.run_lock import CLAIM, RunLock
from support.paths import CONFIGS

BENCHMARKS = sorted((CONFIGS / "benchmarks").glob("*.yaml"))


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Two runs and a prerequisite, in their own folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("judge", "first", "second"):
        config = {"run_dir": f"runs/{name}", "model": {"class_path": "m", "init_args": {"gamma": 0.1}}}
        Path(f"{name}.yaml").write_text(yaml.safe_dump(config | {"trainer": {"max_steps": 100}}))
    message = {
        "prepare": ["judge.yaml"],
        "runs": ["first.yaml", {"config": "second.yaml", "fit": {"model.gamma": 0.5}}],
    }
    message |= {"run_dir": "bench", "fit": {"trainer.max_steps": 7}, "test": {"budget": "quick"}}
    Path("plan.yaml").write_text(yaml.safe_dump(message))
    return Plan.read("plan.yaml")


class Zoo:
    """Writes the files of `ebmzoo fit` and `test`; the commands in `broken` fail."""

    def __init__(self, broken=(), steps=None):
        self.calls, self.broken, self.steps = [], broken, steps

    def __call__(self, args, log, environment):
        name, flags = args[0], dict(zip(args[1::2], args[2::2], strict=True))
        run_dir = Path(flags.get("--run_dir") or Path(flags.get("--ckpt_path", "runs/judge/x")).parent)
        self.calls.append((name, run_dir.name))
        with log.open("a") as file:
            print("some words", file=file)
            if (name, run_dir.name) in self.broken:
                print("ebmzoo: the chain left the finite numbers", file=file)
                return 2
        if name == "fit":
            config = yaml.safe_load(Path(flags["--config"]).read_text())
            steps = int(flags.get("--trainer.max_steps", 100))
            config["trainer"]["max_steps"] = steps
            config["trainer"]["added_by_default"] = True
            if "--model.gamma" in flags:
                config["model"]["init_args"]["gamma"] = float(flags["--model.gamma"])
            checkpoint = {
                "global_step": self.steps or steps,
                "state_dict": {},
                "ebmzoo": {"format": 1, "config": yaml.safe_dump(config)},
            }
            torch.save(checkpoint, run_dir / "last.ckpt")
        return 0


def test_every_run_is_trained_and_tested_after_what_it_needs(plan):
    zoo = Zoo()
    outcomes = execute(plan, zoo, report=lambda _: None)
    wanted = [("fit", "judge"), ("fit", "first"), ("test", "first"), ("fit", "second"), ("test", "second")]
    assert zoo.calls == wanted
    assert [o.status for o in outcomes] == ["made", "made"]


def test_finished_runs_are_kept(plan):
    execute(plan, Zoo(), report=lambda _: None)
    zoo = Zoo()
    outcomes = execute(plan, zoo, report=lambda _: None)
    assert zoo.calls == []
    assert [o.status for o in outcomes] == ["kept", "kept"]
    (plan.runs[1].run_dir / "benchmark.json").unlink()  # as if it had been interrupted while testing
    execute(plan, zoo, report=lambda _: None)
    assert zoo.calls == [("test", "second")]


def test_an_unfinished_run_resumes_from_its_checkpoint(plan):
    execute(plan, Zoo(steps=3), report=lambda _: None)
    seen = []

    def zoo(args, log, environment):
        seen.append(args)
        return Zoo()(args, log, environment)

    execute(plan, zoo, report=lambda _: None)
    fits = [args for args in seen if args[0] == "fit"]
    assert len(fits) == 2
    assert all(args[args.index("--ckpt_path") + 1].endswith("last.ckpt") for args in fits)


def test_a_failure_is_a_row_and_is_tried_again(plan):
    outcomes = execute(plan, Zoo(broken=[("fit", "first")]), report=lambda _: None)
    assert [o.status for o in outcomes] == ["failed", "made"]
    assert "the chain left the finite numbers" in outcomes[0].error
    message = json.loads((plan.runs[0].run_dir / "failed.json").read_text())
    assert message["stage"] == "fit"
    assert "exit status 2" in message["error"]
    zoo = Zoo()
    assert [o.status for o in execute(plan, zoo, report=lambda _: None)] == ["made", "kept"]
    assert zoo.calls == [("fit", "first"), ("test", "first")]
    assert not (plan.runs[0].run_dir / "failed.json").exists()


def test_a_run_that_somebody_is_training_is_not_trained_beside(plan):
    zoo = Zoo()
    with RunLock.take(plan.runs[0].run_dir):
        outcomes = execute(plan, zoo, report=lambda _: None)
    assert [o.status for o in outcomes] == ["failed", "made"]
    assert f"is in use by another fit, process {os.getpid()} on " in outcomes[0].error
    assert ("fit", "first") not in zoo.calls


def test_a_fit_that_leaves_no_checkpoint_has_failed(plan):
    def zoo(args, log, environment):
        fits_first = args[0] == "fit" and "first.yaml" in args
        return 0 if fits_first else Zoo()(args, log, environment)

    outcomes = execute(plan, zoo, report=lambda _: None)
    assert "it has left no" in outcomes[0].error


def test_prerequisites_must_not_fail(plan):
    with pytest.raises(UserError, match="judge"):
        execute(plan, Zoo(broken=[("fit", "judge")]), report=lambda _: None)


def test_a_run_of_another_config_is_not_taken_for_this_one(plan):
    execute(plan, Zoo(), report=lambda _: None)
    changed = yaml.safe_load(Path("plan.yaml").read_text())
    changed["fit"]["model.gamma"] = 0.2
    Path("plan.yaml").write_text(yaml.safe_dump(changed))
    with pytest.raises(
        UserError, match=r"bench/first holds a run with another config .* model\.init_args\.gamma differs"
    ):
        execute(Plan.read("plan.yaml"), Zoo(), report=lambda _: None)


def test_two_processes_share_the_runs(plan, tmp_path):
    """While one process holds the first run, another takes the second, and waits for the first at the end."""
    import fcntl
    import threading

    plan.runs[0].run_dir.mkdir(parents=True)
    held = (plan.runs[0].run_dir / CLAIM).open("w")
    fcntl.flock(held, fcntl.LOCK_EX)
    zoo = Zoo()

    def release():
        Zoo()(["fit", "--config", "first.yaml", "--run_dir", str(plan.runs[0].run_dir)], tmp_path / "log", {})
        held.close()

    timer = threading.Timer(0.5, release)
    timer.start()
    outcomes = execute(plan, zoo, report=lambda _: None)
    assert ("fit", "first") not in zoo.calls
    assert ("fit", "second") in zoo.calls
    assert [o.status for o in outcomes] == ["kept", "made"]


def test_each_of_torchruns_processes_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    environment = _environment()
    assert environment["CUDA_VISIBLE_DEVICES"] == "6"
    assert not {"LOCAL_RANK", "WORLD_SIZE"} & set(environment)


def test_agreement_of_configs():
    assert agrees({"a": {"b": 1.0e-6}}, {"a": {"b": "1e-06", "c": 2}}) is None
    assert agrees({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}) == "a.b.1"
    assert agrees({"a": {"b": 1}}, {"a": {}}) == "a.b"
    assert agrees({"a": True}, {"a": "False"}) == "a"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": []}, "`runs` is empty"),
        ({"rums": []}, "did you mean 'runs'"),
        ({"runs": ["nowhere.yaml"]}, "there is no config nowhere.yaml"),
        ({"runs": 3}, "runs is 3; it must be a list"),
        ({"runs": ["first.yaml"], "prepare": "first.yaml"}, "prepare is 'first.yaml'; it must be a list"),
        ({"runs": ["first.yaml"], "columns": [5]}, "names of figures are needed"),
        ({"runs": ["first.yaml"], "run_dir": "s3://bucket/x"}, "run_dir is s3://bucket/x"),
        ({"runs": ["first.yaml"], "run_dir": ["x"]}, r"run_dir is \['x'\]"),
        ({"runs": [{"config": 3}]}, "config is 3; it must be the path or the name"),
        ({"runs": ["first.yaml"], "fit": {"a b": 1}}, "'a b' is no key that a plan can set"),
        ({"runs": ["first.yaml"], "fit": {"run_dir": "x"}}, "'run_dir' is no key that a plan can set"),
        ({"runs": ["first.yaml"], "test": {"budget": float("inf")}}, "budget is inf; a finite number"),
        ({"runs": ["first.yaml", "first.yaml"]}, "'first' twice"),
        ({"fit": [1]}, "must be a mapping"),
        *(
            (
                {"runs": [{"config": "first.yaml", "name": name}]},
                "is not that of a folder inside the benchmark's run_dir",
            )
            for name in ("../../x", "a/../../x", "/x", "..", "./x", 3)
        ),
    ],
)
def test_mistakes_in_a_plan_are_one_sentence(plan, change, message):
    Path("plan.yaml").write_text(yaml.safe_dump(yaml.safe_load(Path("plan.yaml").read_text()) | change))
    with pytest.raises(UserError, match=message):
        Plan.read("plan.yaml")


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda p: p.stem)
def test_benchmarks_name_configs_that_take_their_flags(path, monkeypatch, capsys):
    monkeypatch.chdir(BENCHMARKS[0].parents[2])
    plan = Plan.read(path)
    for run in plan.runs:
        assert run.wanted()["trainer"]["max_steps"] > 0
    run = plan.runs[0]
    flags = [part for key, value in run.fit.items() for part in (f"--{key}", str(value))]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", str(run.config), *flags, "--print_config"])
    assert stopped.value.code == 0
    assert agrees(run.wanted(), yaml.safe_load(capsys.readouterr().out)) is None


def test_the_real_thing_end_to_end(tmp_path):
    """One tiny run in real processes: trained, tested and compared; another that cannot be trained is a row."""
    config = read_config(config_path("vae_digits"))
    config["model"]["init_args"]["generator"]["init_args"]["width"] = 8
    config["data"]["init_args"] |= {"max_train": 40, "batch_size": 20}
    config["tasks"] = [{"class_path": "ebmzoo.tasks.Generation", "init_args": {"n": 20, "extractors": []}}]
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(config | {"checkpoint_every": 0}))
    plan = {"runs": ["tiny.yaml", "wrong.yaml"], "fit": {"trainer.max_steps": 2}, "test": {"only": "generation"}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    environment = os.environ | {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ebmzoo", "benchmark", "plan.yaml"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr
    assert "ebmzoo: 1 of 2 runs failed: wrong" in ended.stderr
    assert "wrong failed: fit: checkpoint_every is 0; it must be 1 or more" in ended.stdout
    made = tmp_path / "runs" / "benchmarks" / "plan"
    record = json.loads((made / "tiny" / "training.json").read_text())
    assert (record["iterations"], record["images"], record["finished"]) == (2, 40, True)
    assert set(record["parameters"]) == {"generator", "inference"}
    assert (made / "tiny" / "test" / "generation.json").exists()
    assert (made / "compare" / "compare.html").exists()


def test_a_key_that_the_config_has_no_mapping_for_is_named(plan):
    run = Run("first", Path("first.yaml"), Path("runs/first"), {"run_dir.x": 1})
    with pytest.raises(UserError, match=r"fit: run_dir\.x cannot be set, since the config has 'runs/first'"):
        run.wanted()
