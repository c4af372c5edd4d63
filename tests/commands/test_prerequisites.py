"""What a run needs first: what makes it, and `fit --prepare`."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import Namespace
from PIL import Image

from ebmzoo import UserError
from ebmzoo.commands.cli import main
from ebmzoo.commands.prerequisites import (
    check_networks_exist,
    missing_sentences,
    prepare,
    prerequisites,
    source_of,
    with_paths,
)
from ebmzoo.metrics import ClassifierFeatures
from ebmzoo.training.config_files import config_path, config_paths, read_config
from support.command_line import fails


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.chdir(tmp_path)


def config(name):
    return read_config(config_path(name))


def folder(classes=("a", "b"), n=6):
    """A folder of 8×8 images that differ, sorted by classes, or without any."""
    for at, part in enumerate(f"{split}/{each}" for split in ("train", "test") for each in classes or ("",)):
        (Path("own") / part).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            Image.new("L", (8, 8), 20 * at + i).save(Path("own") / part / f"{i}.png")
    return {"class_path": "ebmzoo.data.ImageFolder", "init_args": {"path": "own", "size": 8, "channels": 1}}


class Recorded:
    """A command that only writes the checkpoint; it keeps the configs."""

    def __init__(self):
        self.configs = []

    def __call__(self, args, log, environment):
        found = dict(zip(args[1::2], args[2::2], strict=True))
        self.configs.append(read_config(found["--config"]))
        log.parent.mkdir(parents=True, exist_ok=True)
        (Path(found["--run_dir"]) / "last.ckpt").write_bytes(b"")
        return 0


def test_each_checkpoint_is_found_once_with_its_key():
    found = {str(each.path): (each.key, each.network) for each in prerequisites(config("liebm_small_cifar"))}
    assert found == {
        "runs/small/simclr_cifar/last.ckpt": ("model.encoder_checkpoint", "encoder"),
        "runs/small/classifier_cifar/last.ckpt": ("tasks.extractors.checkpoint", None),
    }
    coder = prerequisites(config("cdrl_celebahq256"))[0]
    assert (coder.key, coder.network, str(coder.path.parent)) == (
        "model.coder_checkpoint",
        "coder",
        "runs/autoencoder_celebahq256",
    )


def test_what_the_configs_start_from_is_made_by_a_config():
    for name in config_paths():
        for each in prerequisites(config(name)):
            if each.network is not None:
                assert each.source is not None, (name, each.path)
                assert not each.is_of_other_data(config(name)), name


def test_a_config_is_found_by_the_folder_of_its_runs():
    """Each is found, so no two share a folder and none takes it from a config that it extends."""
    for name, path in config_paths().items():
        assert source_of(Path(config(name)["run_dir"])) == path
    assert source_of(Path("runs/mine")) is None


def test_a_network_that_is_not_there_names_its_key_and_its_config():
    with pytest.raises(UserError, match=r"^model.encoder_checkpoint: .*: no such file; .*--config simclr_small_cifar`"):
        check_networks_exist(config("liebm_small_cifar"))
    with pytest.raises(UserError, match=r"^model.coder_checkpoint: .*--config autoencoder_celebahq256` makes it"):
        check_networks_exist(config("cdrl_celebahq256"))
    own = {"model": {"init_args": {"encoder_checkpoint": "mine.ckpt"}}}
    with pytest.raises(UserError, match=r"mine.ckpt: no such file; no config .* `ebmzoo fit --config simclr_cifar`"):
        check_networks_exist(own)
    Path("mine.ckpt").touch()
    check_networks_exist(own)
    check_networks_exist(config("liebm_digits"))


def test_a_classifier_that_is_not_there_names_the_config_of_the_runs_data():
    found = config("liebm_digits")
    assert "--config classifier_digits` makes it, and so does" in missing_sentences(found)[0]
    assert "makes it of other data" in missing_sentences(found | {"data": folder()})[0]


def test_commands_in_sentences_exist():
    command = re.findall(r"--config (\w+)", ClassifierFeatures("runs/x/last.ckpt").available())
    assert command == ["classifier_cifar"]
    assert config_path(command[0]).exists()


def test_prepare_makes_what_is_not_there_and_keeps_what_is():
    command = Recorded()
    assert prepare(config("liebm_small_cifar"), True, command, print) == {}
    assert [made["run_dir"] for made in command.configs] == ["runs/small/simclr_cifar", "runs/small/classifier_cifar"]
    assert prepare(config("liebm_small_cifar"), True, command, print) == {}
    assert len(command.configs) == 2


def test_a_resumed_run_holds_its_encoder():
    command = Recorded()
    prepare(config("liebm_small_cifar"), False, command, print)
    assert [made["run_dir"] for made in command.configs] == ["runs/small/classifier_cifar"]


def test_prepare_makes_them_of_ones_own_data():
    command, run = Recorded(), config("liebm_small_cifar") | {"data": folder()}
    run["model"]["init_args"]["encoder"] = {"class_path": "ebmzoo.networks.ResNetEncoder", "init_args": {"width": 4}}
    made = prepare(run, True, command, print)
    encoder, classifier = command.configs
    assert all(each["data"]["init_args"]["path"] == "own" for each in command.configs)
    assert all(each["data"]["init_args"]["batch_size"] == 12 for each in command.configs)
    assert encoder["model"]["init_args"]["encoder"]["init_args"]["width"] == 4
    facts = {key: classifier["model"]["init_args"][key] for key in ("in_channels", "size", "num_classes")}
    assert facts == {"in_channels": 1, "size": 8, "num_classes": 2}
    assert re.fullmatch(r"classifier_cifar10_small_own_[0-9a-f]{8}", classifier["model"]["init_args"]["name"])
    assert set(made) == {"runs/small/simclr_cifar/last.ckpt", "runs/small/classifier_cifar/last.ckpt"}
    assert all(Path(path).exists() for path in made.values())
    Image.new("L", (8, 8), 255).save("own/train/a/new.png")  # other data of the same name
    assert not {*prepare(run, True, command, print).values()} & {*made.values()}


def test_data_without_classes_have_no_classifier():
    command, said = Recorded(), []
    prepare(config("liebm_digits") | {"data": folder(classes=())}, True, command, said.append)
    assert command.configs == []
    assert "have no classes" in said[0]


def test_a_failed_preparation_names_its_log():
    with pytest.raises(UserError, match=r"classifier.*fit\.log"):
        prepare(config("liebm_digits"), True, lambda *_: 1, print)


def test_paths_are_replaced_in_place_and_only_there():
    parsed = Namespace(model=Namespace(encoder_checkpoint="a"), name="a", tasks=[Namespace(checkpoint="a"), {"x": 1}])
    with_paths(parsed, {"a": "b"})
    assert (parsed.model.encoder_checkpoint, parsed.tasks[0].checkpoint, parsed.name) == ("b", "b", "a")


def test_fit_prepares_and_carries_what_it_made(capsys):
    """The classifier of one's own data is trained first, and the run's checkpoint names it."""
    data = folder(n=10)
    flags = [f"--data.{key}={value}" for key, value in data["init_args"].items()]
    flags += ["--data.batch_size=5", "--trainer.max_steps=1", "--trainer.max_epochs=-1", "--run_dir=mine"]
    main(["fit", "--config", "vae_digits", "--data", "ebmzoo.data.ImageFolder", *flags, "--prepare"])
    captured = capsys.readouterr()
    assert "classifier_digits of own: making runs/classifier_digits_own_" in captured.out
    assert "no classifier" not in captured.err
    assert "keeps the config's out-of-distribution sets" in captured.err
    carried = yaml.safe_load(torch.load("mine/last.ckpt", weights_only=True)["ebmzoo"]["config"])
    assert all("classifier_digits_own_" in str(each.path) for each in prerequisites(carried))
    assert all(each.path.exists() for each in prerequisites(carried))


GREY_ENCODER = ["--model.encoder.in_channels", "1", "--model.encoder.mean", "[0.3]", "--model.encoder.std", "[0.4]"]
"""Networks follow the data, unless an option of the model says otherwise."""


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["liebm_small_cifar", "--data.path", "own"], ["model.encoder_checkpoint", "simclr_small_cifar", "--prepare"]),
        (
            ["liebm_digits", "--data.size", "16", "--model.generator.size", "8"],
            ["(1, 8, 8)", "(1, 16, 16)", "; set --model.generator.size 16"],
        ),
        (["liebm_digits", "--data.size", "28"], ["model.energy_net.features.size: 28", "32"]),
        (
            ["vae_digits", "--data.channels", "3", "--model.generator.out_channels", "1"],
            ["--model.generator.out_channels 3"],
        ),
        (
            ["simclr_digits", "--data.channels", "3", *GREY_ENCODER],
            ["--data.channels 1", "--model.encoder.in_channels 3"],
        ),
        (["autoencoder_digits", "--data.size", "9"], ["2 times smaller", "9"]),
        (
            ["autoencoder_digits", "--data.channels", "3", "--model.coder.in_channels", "1"],
            ["--data.channels 1", "--model.coder.in_channels 3"],
        ),
        (["denoising_ebm_digits", "--data.size", "16", "--model.size", "8"], ["--model.size 16"]),
        (["classifier_digits", "--data.size", "16", "--model.size", "8"], ["--data.size 8", "--model.size 16"]),
        (["classifier_digits"], ["--model.num_classes 2"]),
    ],
)
def test_a_mismatch_names_the_flags(args, words, capsys):
    data = folder()["init_args"]
    channels = 3 if args[0] == "liebm_small_cifar" else 1
    size = 32 if args[0] == "liebm_small_cifar" else 8
    own = ["--data.path", data["path"], f"--data.size={size}", f"--data.channels={channels}", "--data.batch_size=4"]
    options = ["--data", "ebmzoo.data.ImageFolder", *own, *args[1:], "--trainer.max_steps=1"]
    output = fails(capsys, "fit", "--config", args[0], *options, "--trainer.accelerator", "cpu")
    assert all(word in output for word in words), output


@pytest.mark.parametrize("name", ["classifier_digits", "cdrl_class"])
def test_data_without_classes_say_what_to_do(name, capsys):
    data = folder(classes=())["init_args"]
    own = [f"--data.{key}={value}" for key, value in data.items()]
    if name == "cdrl_class":
        name = "cdrl_digits"
        own += ["--model.energy_net.classes=2", "--model.initializer.classes=2"]
    output = fails(capsys, "fit", "--config", name, "--data", "ebmzoo.data.ImageFolder", *own, "--data.batch_size=4")
    assert "own have no classes" in output
    assert "one folder for each class" in output
    if name == "cdrl_digits":
        assert "--model.energy_net.classes 0 --model.initializer.classes 0" in output
