"""Files from others: nothing in them runs code that ebmzoo does not know, unless the user allows it."""

import os
import pickle
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse._common import parsing_settings

import ebmzoo
from ebmzoo import UserError, load
from ebmzoo.commands.cli import main
from ebmzoo.commands.config_data import image_data
from ebmzoo.metrics import ClassifierFeatures
from ebmzoo.networks import ResNetEncoder
from ebmzoo.networks.weights import load_pretrained
from ebmzoo.training.checkpoint import Rollbacks
from ebmzoo.training.config import build_model
from ebmzoo.training.config_files import config_paths, read_config
from ebmzoo.training.migration import KEY
from ebmzoo.training.trust import ALLOWED, needs_trust, refusal, restricted_imports, shell_command
from support.paths import TESTS

GOOD = TESTS / "data" / "format1.ckpt"
SOURCE = Path(ebmzoo.__file__).parent
PLACES = {
    "a class of another's": ("model.class_path", "test_trust.Foreign"),
    "the system's command": ("model.class_path", "os.system"),
    "a function of ebmzoo that would load with trust": ("model.class_path", "ebmzoo.training.checkpoint.load"),
    "the same, by its public name": ("model.class_path", "ebmzoo.load"),
    "what a module of ebmzoo imports": ("model.class_path", "ebmzoo.data.sources.tarfile.open"),
    "what a module of torch imports": (
        "model.init_args.energy_net.class_path",
        "torch.nn.modules.module.warnings.warn",
    ),
    "a network": ("model.init_args.energy_net.class_path", "test_trust.Foreign"),
    "an optimizer": ("model.init_args.energy_optimizer.class_path", "test_trust.Foreign"),
    "an optimizer as a name": ("model.init_args.energy_optimizer", "os.system"),
    "a function as an optimizer": ("model.init_args.generator_optimizer", "test_trust.foreign"),
    "a schedule": ("model.init_args.lr_schedule", "subprocess.Popen"),
}
DEFINED = {
    "ebmzoo.data.sources.tarfile.open": "tarfile.TarFile.open",
    "torch.nn.modules.module.warnings.warn": "_warnings.warn",
}
"""Names within the list of allowed classes that are defined elsewhere, with their definitions."""
LIGHTNING = {
    "a file of checkpoints": ("callbacks", [["callbacks.ModelCheckpoint", {"dirpath": "../elsewhere"}]]),
    "one callback instead of a list": ("callbacks", ["callbacks.ModelCheckpoint", {"dirpath": "../elsewhere"}]),
    "a logger": ("logger", ["loggers.CSVLogger", {"save_dir": "../elsewhere"}]),
    "an account of W&B": ("logger", [["loggers.WandbLogger", {"project": "theirs", "entity": "them"}]]),
    "a profiler": ("profiler", ["profilers.AdvancedProfiler", {"dirpath": "../elsewhere", "filename": "x"}]),
    "a plugin": ("plugins", [["plugins.io.AsyncCheckpointIO", {}]]),
    "a strategy": ("strategy", ["strategies.DeepSpeedStrategy", {"nvme_path": "../elsewhere"}]),
}
"""Objects of Lightning's own that write where their arguments say, as `[path below lightning.pytorch, arguments]`."""
SET_ELSEWHERE = {
    "default_root_dir": "../elsewhere",
    "model_registry": "theirs/model",
    "profiler": "pytorch",
    "strategy": "deepspeed_stage_3_offload_nvme",
    "logger": "../elsewhere/logger.yaml",
    "callbacks": "../elsewhere/callbacks.yaml",
    "plugins": "slurm",
}
"""Keys of the trainer with values that are no objects."""
RUN_PLACES = {
    "the data": ("data.class_path", "test_trust.Foreign"),
    "a task": ("tasks", [{"class_path": "test_trust.Foreign"}]),
    "a callback": ("trainer.callbacks", [{"class_path": "test_trust.Foreign"}]),
    "a logger": ("trainer.logger", {"class_path": "test_trust.Foreign"}),
    "a plugin": ("trainer.plugins", [{"class_path": "test_trust.Foreign"}]),
    "a profiler": ("trainer.profiler", {"class_path": "test_trust.Foreign"}),
    "a strategy": ("trainer.strategy", {"class_path": "test_trust.Foreign"}),
    "out-of-distribution images": ("data.init_args.ood", [{"class_path": "test_trust.Foreign"}]),
}

ran = []


def foreign(*args, **kwargs):
    ran.append("function")
    return torch.optim.SGD(*args, lr=0.1)


class Foreign:
    def __new__(cls, *args, **kwargs):
        ran.append("class")
        return super().__new__(cls)


class Malicious:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (Path.touch, (Path(self.marker),))


@pytest.fixture(autouse=True)
def nothing_ran(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    ran.clear()


def naming(path, place, value):
    """A copy of the good checkpoint at `path`, whose config has `value` at `place`."""
    checkpoint = torch.load(GOOD, weights_only=True)
    config = yaml.safe_load(checkpoint[KEY]["config"])
    at, keys = config, place.split(".")
    for key in keys[:-1]:
        at = at.setdefault(key, {}) if not isinstance(at.get(key), dict) else at[key]
    at[keys[-1]] = value
    checkpoint[KEY]["config"] = yaml.safe_dump(config)
    torch.save(checkpoint, path)
    return path


def sentence(capsys, *args):
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in args])
    assert stopped.value.code == 2
    (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ebmzoo: ")]
    return message


def named(value):
    found = value[0] if isinstance(value, list) else value
    return found["class_path"] if isinstance(found, dict) else found


@pytest.mark.parametrize("case", PLACES)
def test_a_model_with_a_foreign_class_is_refused(case, tmp_path):
    place, value = PLACES[case]
    with pytest.raises(UserError, match=r"--trust") as caught:
        load(naming(tmp_path / "x.ckpt", place, value))
    assert f"'{DEFINED.get(value, value)}'" in str(caught.value)
    assert not ran


@pytest.mark.parametrize("case", [*PLACES, *RUN_PLACES])
def test_each_command_refuses_and_names_class_and_flag(case, tmp_path, capsys, monkeypatch):
    place, value = {**PLACES, **RUN_PLACES}[case]
    checkpoint = naming(tmp_path / "x.ckpt", place, value)
    monkeypatch.chdir(tmp_path)
    command = ["test", "validate", "predict", "fit"][len(case) % 4]
    message = sentence(capsys, command, "--ckpt_path", checkpoint)
    assert DEFINED.get(named(value), named(value)) in message
    assert "--trust" in message
    assert not ran


def of_lightning(value):
    """The value with its classes as a config has them."""
    if isinstance(value[0], list):
        return [of_lightning(each) for each in value]
    return {"class_path": f"lightning.pytorch.{value[0]}", "init_args": value[1]}


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("case", [*LIGHTNING, *SET_ELSEWHERE])
def test_a_trainer_that_could_write_elsewhere_needs_trust(case, command, tmp_path, capsys, monkeypatch):
    """Also of Lightning's own classes, none of which is foreign."""
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    key, value = (case, SET_ELSEWHERE[case]) if case in SET_ELSEWHERE else LIGHTNING[case]
    value = value if case in SET_ELSEWHERE else of_lightning(value)
    checkpoint = naming(tmp_path / "run" / "last.ckpt", f"trainer.{key}", value)
    assert needs_trust(yaml.safe_load(torch.load(checkpoint, weights_only=True)[KEY]["config"]))
    message = sentence(capsys, command, "--ckpt_path", "last.ckpt")
    assert f"trainer.{key} is " in message
    assert "--trust" in message
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "last.ckpt"]


@pytest.mark.parametrize("place", [place for place, _ in PLACES.values()] + ["data.class_path", "data.init_args.ood"])
@pytest.mark.parametrize("name", ["callbacks.ModelCheckpoint", "loggers.CSVLogger", "profilers.AdvancedProfiler"])
def test_no_key_takes_a_class_that_writes_elsewhere(place, name, tmp_path):
    value = f"lightning.pytorch.{name}"
    checkpoint = naming(tmp_path / "x.ckpt", place, [{"class_path": value}] if place.endswith("ood") else value)
    config = torch.load(checkpoint, weights_only=True)[KEY]["config"]
    with pytest.raises(UserError, match="--trust"):
        (image_data if place.startswith("data") else build_model)(config, trust=False)


def test_the_users_own_trainer_needs_no_trust_and_the_next_command_does(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load(torch.load(GOOD, weights_only=True)[KEY]["config"])
    config["trainer"] |= {"max_epochs": -1, "max_steps": 1, "profiler": "simple"}
    config["trainer"]["callbacks"] = [of_lightning(["callbacks.LearningRateMonitor", {}])]
    config["trainer"]["logger"] = of_lightning(["loggers.CSVLogger", {"save_dir": "."}])
    Path("x.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", "x.yaml", "--run_dir", "run"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next:")]
    assert line.endswith("--trust")
    assert "trainer.logger" in sentence(capsys, "validate", "--ckpt_path", "run/last.ckpt")
    main(["validate", "--ckpt_path", "run/last.ckpt", "--trust", "--trainer.limit_val_batches", "1"])


@pytest.mark.parametrize(
    "value", ["/dev/zero", "pipe", "http://127.0.0.1:9/x.yaml", "file:///dev/zero", "aliases.yaml"]
)
def test_a_value_that_names_what_has_no_end_is_refused(value, tmp_path, monkeypatch):
    """jsonargparse reads the file that a value of a class names."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("aliases.yaml").write_text("class_path: &a [*a]\n")
    for place in ("model.init_args.energy_net", "model.init_args.energy_optimizer", "model.init_args.sampler"):
        with pytest.raises(UserError):
            load(naming(tmp_path / "x.ckpt", place, value))


def test_commands_wait_for_no_pipe_and_read_no_device(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.yaml")
    Path("extending.yaml").write_text("extends: pipe.yaml\n")
    Path("device.yaml").write_text("extends: /dev/zero\n")
    for name, kind in {"pipe.yaml": "pipe", "extending.yaml": "pipe", "device.yaml": "device"}.items():
        assert f"not a regular file but a {kind}" in sentence(capsys, "fit", "--config", name)
    assert "/dev/zero is not a regular file but a device" in sentence(capsys, "fit", "--config", "/dev/zero")
    for command in ("fit", "test", "sample"):
        for path in ("pipe.yaml", "/dev/zero"):
            assert f"there is no file {path}" in sentence(capsys, command, "--ckpt_path", path)
    assert "pipe.yaml" in sentence(capsys, "benchmark", "pipe.yaml")


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_a_folder_with_a_link_to_elsewhere_is_not_written_into(command, tmp_path, capsys, monkeypatch):
    """Other libraries write into it too, and they follow links."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "mine").mkdir()
    shutil.copy(GOOD, tmp_path / "run" / "last.ckpt")
    (tmp_path / "run" / "csv").symlink_to(tmp_path / "mine")
    assert "run/csv is a link to " in sentence(capsys, command, "--ckpt_path", "run/last.ckpt")
    assert not [*(tmp_path / "mine").iterdir()]
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {"last.ckpt", "csv", ".lock"}


def test_sample_and_restore_refuse_too(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = naming(tmp_path / "x.ckpt", "model.class_path", "test_trust.Foreign")
    for rest in (["sample"], ["restore", "x.png", "--operator", "sr4"]):
        message = sentence(capsys, rest[0], "--ckpt_path", checkpoint, *rest[1:])
        assert "test_trust.Foreign" in message
        assert "--trust" in message
    assert not ran
    with pytest.raises(UserError, match="--trust"):
        image_data("data: {class_path: test_trust.Foreign}")
    assert not ran


def test_trust_lets_the_users_own_class_in(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = naming(tmp_path / "x.ckpt", "model.init_args.energy_optimizer", "test_trust.foreign_optimizer")
    with pytest.raises(UserError, match="--trust"):
        load(checkpoint)
    assert load(checkpoint, trust=True).optimizer_of["energy_net"] is foreign_optimizer
    sample = ["sample", "--ckpt_path", str(checkpoint), "--n", "2", "--out", str(tmp_path / "x.png")]
    for trust in (["--trust"], ["--trust", "true"], ["--trust=true"]):
        main([*sample, *trust, "--overwrite"])
        (tmp_path / "x.png").unlink()
    restore = ["restore", "--operator", "sr4", "--ckpt_path", checkpoint, "--trust", "nowhere.png"]
    assert "nowhere.png" in sentence(capsys, *restore)
    main(["validate", "--ckpt_path", str(checkpoint), "--trust", "--trainer.limit_val_batches", "1"])
    assert "val/" in capsys.readouterr().out
    for trust in (["--trust", "false"], ["--trust", "true", "--trust", "false"]):
        assert "--trust" in sentence(capsys, *sample, *trust)
        assert "--trust" in sentence(capsys, "validate", "--ckpt_path", checkpoint, *trust)


@pytest.mark.parametrize("case", [*PLACES, *RUN_PLACES])
def test_what_needs_trust_is_what_is_refused(case, tmp_path):
    place, value = {**PLACES, **RUN_PLACES}[case]
    checkpoint = torch.load(naming(tmp_path / "x.ckpt", place, value), weights_only=True)
    assert needs_trust(yaml.safe_load(checkpoint[KEY]["config"]))


def test_what_comes_with_ebmzoo_needs_no_trust():
    assert not needs_trust(yaml.safe_load(torch.load(GOOD, weights_only=True)[KEY]["config"]))
    for path in config_paths().values():
        assert not needs_trust(read_config(path)), path
    for harmless in ("runs/x/last.ckpt", "os", "data.npz", "32-true", "nowhere.Nothing", "test_trust.GOOD", 3, None):
        assert not needs_trust({"a": [harmless]}), harmless


def test_printed_commands_are_pasted_into_a_shell():
    for path in (Path("my runs/é'x/last.ckpt"), Path("plain/last.ckpt")):
        assert shlex.split(shell_command("test", path, "{}")) == ["ebmzoo", "test", "--ckpt_path", str(path)]
    assert shell_command("fit", Path("x"), "a: [os.system]") == "ebmzoo fit --ckpt_path x --trust"


def test_the_next_command_runs_as_it_is_printed(tmp_path, capsys, monkeypatch):
    """For a run whose name has spaces and whose optimizer is of the user's own."""
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load(torch.load(GOOD, weights_only=True)[KEY]["config"])
    config["model"]["init_args"]["energy_optimizer"] = "test_trust.foreign_optimizer"
    config["trainer"] |= {"max_epochs": -1, "max_steps": 1}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", "x.yaml", "--run_dir", "my run é"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next:")]
    words = shlex.split(line.removeprefix("next:"))
    assert words == ["ebmzoo", "test", "--ckpt_path", "my run é/last.ckpt", "--trust"]
    main([*words[1:], "--budget", "quick", "--only", "generation"])
    assert (tmp_path / "my run é" / "test" / "generation.json").exists()


def foreign_optimizer(params) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.1)


def test_the_users_own_config_may_name_anything(tmp_path):
    config = yaml.safe_load(torch.load(GOOD, weights_only=True)[KEY]["config"])
    config["model"]["init_args"]["energy_optimizer"] = "test_trust.foreign_optimizer"
    assert build_model(yaml.safe_dump(config)).optimizer_of["energy_net"] is foreign_optimizer


def test_a_config_cannot_trust_itself(tmp_path, capsys):
    checkpoint = torch.load(naming(tmp_path / "x.ckpt", "trust", True), weights_only=True)
    config = yaml.safe_load(checkpoint[KEY]["config"])
    config["data"] = {"class_path": "test_trust.Foreign"}
    checkpoint[KEY]["config"] = yaml.safe_dump(config)
    torch.save(checkpoint, tmp_path / "x.ckpt")
    told = sentence(capsys, "validate", "--ckpt_path", tmp_path / "x.ckpt")
    assert "its config has the key 'trust', which belongs to no run" in told
    assert not ran


def test_a_config_that_names_a_file_is_refused_what_the_file_names(tmp_path):
    (tmp_path / "evil.yaml").write_text("class_path: test_trust.Foreign\n")
    with pytest.raises(UserError, match="energy_net"):
        load(naming(tmp_path / "x.ckpt", "model.init_args.energy_net", str(tmp_path / "evil.yaml")))
    assert not ran


def test_settings_of_the_parser_are_as_before():
    before = dict(parsing_settings)
    with restricted_imports():
        assert parsing_settings != before
    assert parsing_settings == before
    with pytest.raises(KeyError), restricted_imports():
        raise KeyError
    assert parsing_settings == before
    assert refusal("model: something else") is None


def test_every_config_of_the_project_is_within_the_list():
    for path in TESTS.parent.glob("configs/**/*.yaml"):
        for name in re.findall(r"class_path: *([\w.]+)", path.read_text()):
            assert name.startswith(tuple(f"{allowed}." for allowed in ALLOWED)), path


COMMANDS = [["fit"], ["validate"], ["test"], ["predict"], ["sample"], ["restore", "x.png", "--operator", "sr4"]]
PYTHON = ["!!python/object/apply:os.system ['touch marker']", "!!python/name:os.system", "!!python/module:os"]


@pytest.mark.parametrize("tag", PYTHON)
def test_yaml_makes_no_objects_of_python(tag, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(f"model: {tag}\n")
    sentence(capsys, "fit", "--config", "x.yaml")
    (tmp_path / "plan.yaml").write_text(f"runs: {tag}\n")
    sentence(capsys, "benchmark", "plan.yaml")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(f"model: {tag}\n")
    sentence(capsys, "compare", "run")
    checkpoint = torch.load(GOOD, weights_only=True)
    checkpoint[KEY]["config"] = f"model: {tag}\n"
    torch.save(checkpoint, tmp_path / "x.ckpt")
    for command in COMMANDS:
        assert "x.ckpt" in sentence(capsys, command[0], "--ckpt_path", "x.ckpt", *command[1:])
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_a_malicious_pickle_does_nothing(kind, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = Malicious(tmp_path / "marker")
    if kind == "torch":
        torch.save({KEY: {"config": "model: null", "format": 1}, "state_dict": {"encoder.x": evil}}, "x.ckpt")
    else:
        Path("x.ckpt").write_bytes(pickle.dumps({KEY: evil}, protocol=2))
    for command in (
        ["test"],
        ["validate"],
        ["predict"],
        ["fit"],
        ["sample"],
        ["restore", "x.png", "--operator", "sr4"],
    ):
        message = sentence(capsys, command[0], "--ckpt_path", "x.ckpt", *command[1:])
        assert "x.ckpt" in message
        assert kind == "pickle" or "could run code" in message
    encoder = ResNetEncoder(in_channels=3, width=4, blocks=[1], latent=4, hidden=4)
    with pytest.raises(UserError, match=r"x\.ckpt"):
        load_pretrained(encoder, "x.ckpt", "encoder.", "encoder")
    assert "x.ckpt" in (ClassifierFeatures("x.ckpt").available() or "")
    assert not Path("marker").exists()
    assert Path("x.ckpt").exists()


READERS = {
    r"torch\.load\(": {"networks/weights.py": "weights_only=True"},
    r"np\.load\(|numpy\.load\(": {"data/arrays.py": "allow_pickle=False"},
    r"yaml\.(safe_)?load\(|yaml\.(unsafe_load|full_load|compose|parse|scan)": {},
    r"pickle\.|import pickle|from pickle": {},
    r"\.extractall\(|\.extract\(|unpack_archive": {},
    r"\beval\(|\bexec\(|os\.system|shell=True": {},
    r"weights_only=False|weights_only=None": {"training/durable.py": "trainer.save_checkpoint("},
}
"""Calls by which a file could run code: their places in the source, and why each is safe."""


@pytest.mark.parametrize("pattern", READERS)
def test_files_are_read_where_it_is_safe(pattern):
    for path in SOURCE.rglob("*.py"):
        for line in path.read_text().splitlines():
            if re.search(pattern, line) and not re.search(r"\.eval\(", line):
                place = path.relative_to(SOURCE).as_posix()
                assert READERS[pattern].get(place, "nowhere") in line, f"{place}: {line}"


@pytest.mark.parametrize(
    "changed",
    [
        {"trainer.callbacks=[{class_path: test_trust.Foreign}] #": 1},
        {"run_dir=/elsewhere": 1},
        {"trust=true --x": 1.0},
        {"model.gamma\n": 1.0},
        {"": 1.0},
        {3: 1.0},
        {"model": "{class_path: test_trust.Foreign}"},
        {"trainer.callbacks": [{"class_path": "test_trust.Foreign"}]},
        {"trust": True},
    ],
)
def test_nothing_of_a_checkpoint_becomes_another_flag(changed, tmp_path, capsys, monkeypatch):
    """The changes of rollbacks are the one part of a file that is written as flags: numbers at plain keys alone."""
    monkeypatch.chdir(tmp_path)
    checkpoint = torch.load(GOOD, weights_only=True)
    checkpoint[KEY]["rollbacks"] = {"tries": 1, "changed": changed}
    torch.save(checkpoint, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="rollbacks change"):
        Rollbacks.of(checkpoint)
    with pytest.raises(SystemExit):
        main(["fit", "--ckpt_path", "last.ckpt"])
    assert "which is no number of its config" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt"}
