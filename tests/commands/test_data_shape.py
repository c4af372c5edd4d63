"""`ebmzoo fit` with data of another size or number of channels than the config's: networks follow, or a sentence."""

import pytest
import torch
import yaml
from PIL import Image

from ebmzoo.commands.cli import main
from ebmzoo.data.matching import ImageShape, matched
from ebmzoo.methods import Method
from ebmzoo.training.config import build_model
from ebmzoo.training.config_files import read_config
from ebmzoo.training.config_names import config_paths
from support.command_line import fails
from support.shrinking import shrink

CIFAR = [path for path in config_paths().values() if path.name == "cifar.yaml"]
PHOTOS = ["--data", "ebmzoo.data.ImageFolder", "--data.path", "photos"]


def shown(capsys, *args):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *args, "--print_config"])
    told = capsys.readouterr()
    assert stopped.value.code == 0, told.err
    return yaml.safe_load(told.out), told.err


@pytest.mark.parametrize("path", CIFAR, ids=lambda path: path.parent.name)
def test_every_model_for_cifar_becomes_one_for_grey_images_of_twice_the_size(path):
    section = shrink(read_config(path))["model"]
    for key in ("encoder_checkpoint", "coder_checkpoint"):
        section["init_args"].pop(key, None)
    found, changed = matched(section, ImageShape(3, 8), ImageShape(1, 16))
    assert changed
    model = build_model(yaml.safe_dump({"model": found}))
    if isinstance(model, Method):
        model.eval()
        assert model.ood_score(torch.zeros(2, 1, 16, 16)).shape == (2,)
        assert model.image_shape == (1, 16, 16)


def test_a_flag_of_the_data_reaches_every_network_and_the_error_stream_says_which(capsys):
    shape = ["--data.size", "64", "--data.channels", "1"]
    config, told = shown(capsys, "--config", "liebm_cifar", *PHOTOS, *shape)
    model = config["model"]["init_args"]
    features = model["energy_net"]["init_args"]["features"]["init_args"]
    assert (features["size"], features["in_channels"]) == (64, 1)
    assert (model["generator"]["init_args"]["size"], model["generator"]["init_args"]["out_channels"]) == (64, 1)
    encoder = model["encoder"]["init_args"]
    assert (encoder["in_channels"], encoder["mean"], encoder["std"]) == (1, [0.4734], [0.2009])  # mean of the defaults
    line = next(line for line in told.splitlines() if line.startswith("data: "))
    assert line.startswith("data: images are 1×64×64 instead of the config's 3×32×32, and the model follows in ")
    assert "model.generator.out_channels" in line


def test_an_option_of_the_model_overrides_the_link_in_any_order(capsys):
    own = ["--model.generator.init_args.size", "32"]
    config, _ = shown(capsys, *own, "--data.size", "64", *PHOTOS, "--config", "liebm_cifar")
    model = config["model"]["init_args"]
    assert model["generator"]["init_args"]["size"] == 32
    assert model["energy_net"]["init_args"]["features"]["init_args"]["size"] == 64


def test_without_other_data_nothing_is_changed_or_said(capsys):
    config, told = shown(capsys, "--config", "clel_cifar", "--data.batch_size", "2")
    assert config["model"]["init_args"]["size"] == 32
    assert "data: " not in told


def test_a_second_config_may_have_the_data(capsys, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("data: {class_path: ebmzoo.data.ImageFolder, init_args: {path: photos, size: 48}}")
    config, _ = shown(capsys, "--config", "clel_cifar", "--config", str(own))
    assert (config["data"]["init_args"]["size"], config["model"]["init_args"]["size"]) == (48, 48)


def test_clel_for_cifar_trains_on_a_folder_of_another_size(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for i in range(12):
        Image.new("RGB", (70 + i, 66), (20 * i, 100, 250 - 20 * i)).save(tmp_path / "photos" / f"{i}.png")
    small = shrink(read_config(config_paths()["clel_cifar"])) | {"tasks": []}
    small["model"]["init_args"] |= {"size": 32, "replay_size": 8, "rounds": 1}  # as CIFAR-10; shrink has made it 8
    small["data"]["init_args"] |= {"batch_size": 4, "ood": []}
    (tmp_path / "clel.yaml").write_text(yaml.safe_dump(small))
    trainer = ["--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]
    trainer += ["--grid_every", "0", "--trainer.limit_val_batches", "0"]
    main(["fit", "--config", "clel.yaml", *PHOTOS, "--data.size", "64", "--run_dir", "run", *trainer])
    weights = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert weights["global_step"] == 2
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"]["init_args"]["size"] == 64


def test_data_of_one_size_say_which_take_any(capsys):
    told = fails(capsys, "fit", "--config", "clel_cifar", "--data.size", "64", "--print_config")
    assert "size" in told
    assert "--data ebmzoo.data.ImageFolder --data.path DIR --data.size N" in told


def test_a_size_that_a_network_cannot_have_is_a_sentence(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = fails(capsys, "fit", "--config", "liebm_cifar", *PHOTOS, "--data.size", "63")
    assert "size" in told
    assert "63" in told


def test_a_model_without_a_size_is_not_told_of_data(capsys):
    assert "ImageFolder" not in fails(capsys, "fit", "--config", "liebm_cifar", "--model.size", "64", "--print_config")
