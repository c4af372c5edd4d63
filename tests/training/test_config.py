"""The parser of configs: integers stay integers, and a class that is not found is named with what is missing."""

import json

import numpy as np
import pytest
import torch
import yaml

from ebmzoo.commands.cli import main
from ebmzoo.training.config import ZooParser, integers_first
from ebmzoo.training.config_files import config_paths, read_config
from ebmzoo.training.migration import KEY
from ebmzoo.training.trainer import ZooTrainer
from support.command_line import fails
from support.paths import DATA

OLD = DATA / "format1.ckpt"
LIMITS = [f"limit_{stage}_batches" for stage in ("train", "val", "test", "predict")]
LIMITS += ["val_check_interval", "overfit_batches"]


@pytest.fixture(scope="module")
def parser():
    parser = ZooParser()
    parser.add_lightning_class_args(ZooTrainer, "trainer")
    return parser


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (float | int | None, "int | float | None"),
        (int | float, "int | float"),
        (float | str | int, "int | float | str"),
        (float | None, "float | None"),
        (int, "int"),
        (list[float | int], "list[float | int]"),
    ],
)
def test_integers_are_tried_first(hint, expected):
    found = integers_first(hint)
    members = getattr(found, "__args__", ())
    kept = str(found) if found is hint else " | ".join(getattr(kind, "__name__", str(kind)) for kind in members)
    assert kept.replace("NoneType", "None").replace("<class 'int'>", "int") == expected


@pytest.mark.parametrize("key", LIMITS)
@pytest.mark.parametrize("value", [0, 1, 3, 1.0, 0.5])
def test_a_number_of_batches_is_no_share_of_them(key, value, parser):
    """`1` is one batch and `1.0` all of them: on the command line, in YAML, and in the config that a run keeps."""
    given = parser.parse_args([f"--trainer.{key}", str(value)])
    kept = yaml.safe_load(parser.dump(given))
    for config in (given, parser.parse_object({"trainer": {key: value}}), parser.parse_object(kept)):
        found = config["trainer"][key]
        assert (found, type(found)) == (value, type(value))


def test_our_own_configs_mean_batches(parser):
    named = 0
    for path in config_paths().values():
        for key, value in read_config(path)["trainer"].items():
            if key in LIMITS:
                named += 1
                assert type(value) is int, path
                assert type(parser.parse_object({"trainer": {key: value}})["trainer"][key]) is int
    assert named > 30


def test_one_batch_is_one_batch(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    config = yaml.safe_load(torch.load(OLD, weights_only=True)[KEY]["config"])
    config["trainer"] |= {"limit_train_batches": 1, "limit_val_batches": 1, "limit_predict_batches": 1}
    config["data"]["init_args"] |= {"batch_size": 10, "max_train": 30}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(config | {"run_dir": str(tmp_path / "run")}))
    main(["fit", "--config", str(tmp_path / "x.yaml")])
    assert json.loads((tmp_path / "run" / "training.json").read_text())["iterations"] == config["trainer"]["max_epochs"]
    predict = ["predict", "--ckpt_path", str(tmp_path / "run" / "last.ckpt"), "--overwrite"]
    for flags, number in (([], 10), (["--trainer.limit_predict_batches", "2"], 20)):
        main([*predict, *flags])
        assert len(np.load(tmp_path / "run" / "predictions.npz")["energy"]) == number
    main([*predict, "--trainer.limit_predict_batches", "1.0"])
    assert len(np.load(tmp_path / "run" / "predictions.npz")["energy"]) > 100


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my_zoo.methods.Mine", ["'my_zoo.methods.Mine'", "no module 'my_zoo'", "PYTHONPATH=."]),
        ("my_zoo.methods.LIEBM", ["no module 'my_zoo'"]),
        ("ebmzo.methods.LIEBM", ["did you mean 'ebmzoo.methods.LIEBM'"]),
        ("ebmzoo.methods.LIEBN", ["did you mean 'ebmzoo.methods.LIEBM'"]),
        ("LIEBN", ["did you mean 'ebmzoo.methods.LIEBM'"]),
        ("there_is.Nothing", ["there is no class 'there_is.Nothing'"]),
    ],
)
def test_a_module_that_python_does_not_find(name, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_zoo").mkdir()
    (tmp_path / "there_is").mkdir()
    (tmp_path / "there_is" / "__init__.py").write_text("")
    if name.startswith("there_is"):
        monkeypatch.syspath_prepend(tmp_path)
    told = fails(capsys, "fit", "--config", "vae_digits", "--model", name)
    assert all(word in told for word in words), told
