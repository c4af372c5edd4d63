"""The command line of `ebmzoo play`: what it refuses before it serves anything, and what it takes of a model."""

import pytest
import torch
import yaml

from ebmzoo import __version__
from ebmzoo.commands.cli import main
from ebmzoo.commands.play import command
from ebmzoo.training.checkpoint import FORMAT, KEY
from ebmzoo.training.config import build_model
from ebmzoo.training.config_files import read_config
from support.command_line import fails
from support.paths import ROOT


def saved(path, config):
    """A checkpoint of a config that was never trained."""
    text = yaml.safe_dump(config)
    torch.manual_seed(0)
    state = build_model(text).state_dict()
    torch.save({"state_dict": state, KEY: {"format": FORMAT, "version": __version__, "config": text}}, path)
    return path


@pytest.fixture
def served(monkeypatch):
    """What would have been served: the players, names and ports."""
    found = []
    monkeypatch.setattr(command, "gradio", lambda folder: folder)
    monkeypatch.setattr(command, "build", lambda player, name, gr: (player, name))
    monkeypatch.setattr(command, "serve", lambda page, port, gr: found.append((*page, port, gr)))
    return found


def test_a_model_is_served_with_its_data(served, monkeypatch):
    main(["play", "--pretrained", "clel_digits", "--port", "8123"])
    ((player, name, port, folder),) = served
    assert (name, port) == ("clel_digits", 8123)
    assert player.data.name == "digits"
    assert len(player.classes) == 10
    assert not folder.exists()  # its files are gone with it


def test_without_its_data_a_model_is_served_all_the_same(served, tmp_path):
    config = read_config(ROOT / "configs" / "igebm" / "digits.yaml")
    config["data"] = {"class_path": "ebmzoo.data.ImageFolder", "init_args": {"path": str(tmp_path / "no"), "size": 8}}
    main(["play", "--ckpt_path", str(saved(tmp_path / "last.ckpt", config))])
    ((player, name, _, _),) = served
    assert player.data is None
    assert str(tmp_path / "no") in player.no_data
    assert name == tmp_path.name


def test_nothing_is_downloaded(served, tmp_path, monkeypatch):
    config = read_config(ROOT / "configs" / "igebm" / "digits.yaml")
    config["data"] = {"class_path": "ebmzoo.data.CIFAR10", "init_args": {"root": str(tmp_path / "data")}}

    def download(*args, **kwargs):
        raise AssertionError("asked for data")

    monkeypatch.setattr("urllib.request.urlopen", download)
    main(["play", "--ckpt_path", str(saved(tmp_path / "last.ckpt", config))])
    assert served[0][0].data is None
    assert "CIFAR" in served[0][0].no_data


def test_errors_are_sentences(served, tmp_path, capsys):
    for port in ("0", "65536"):
        assert f"port is {port}; it must be from 1 to 65535" in fails(
            capsys, "play", "--pretrained", "vae_digits", "--port", port
        )
    assert "there is no model 'vae_digit'" in fails(capsys, "play", "--pretrained", "vae_digit")
    plane = saved(tmp_path / "plane.ckpt", read_config(ROOT / "configs" / "short_run" / "checkerboard.yaml"))
    assert "`ebmzoo animate` shows its chains" in fails(capsys, "play", "--ckpt_path", plane)
    classifier = saved(tmp_path / "c.ckpt", read_config(ROOT / "configs" / "classifier" / "digits.yaml"))
    assert "does not sample images" in fails(capsys, "play", "--ckpt_path", classifier)
    assert served == []


def test_without_gradio_there_is_a_sentence(monkeypatch, capsys):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(command, "import_module", missing)
    monkeypatch.setattr(command.os, "environ", {})
    assert "pip install 'ebmzoo[play]'" in fails(capsys, "play", "--pretrained", "vae_digits")
