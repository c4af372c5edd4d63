"""A checkpoint with a wrong bit, or with weights that are not finite, makes no pictures and no figures."""

from zipfile import ZipFile

import pytest
import torch
from PIL import Image

import ebmzoo
from ebmzoo.errors import UserError
from ebmzoo.metrics import ClassifierFeatures
from ebmzoo.networks import ResNetEncoder
from ebmzoo.ssrl import load_encoder
from ebmzoo.training.checkpoint import newest
from support.command_line import fails
from support.paths import DATA


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8), 90).save("x.png")


def with_a_wrong_bit(path):
    """A copy of the checkpoint in which one bit of one weight is flipped."""
    content = bytearray((DATA / "format1.ckpt").read_bytes())
    with ZipFile(DATA / "format1.ckpt") as file:
        weights = max((each for each in file.infolist() if "/data/" in each.filename), key=lambda each: each.file_size)
    content[weights.header_offset + 256 + weights.file_size // 2] ^= 64
    path.write_bytes(content)


def with_nan(path):
    checkpoint = torch.load(DATA / "format1.ckpt", weights_only=True)
    name = next(name for name in checkpoint["state_dict"] if name.startswith("generator."))
    checkpoint["state_dict"][name].flatten()[3] = torch.nan
    torch.save(checkpoint, path)


BAD = {"a wrong bit": (with_a_wrong_bit, "is damaged"), "NaN": (with_nan, "NaN or infinity in generator.")}
COMMANDS = {
    "sample": ["--n", 2],
    "restore": ["x.png", "--operator", "denoise", "--sigma", 0.1],
    "test": [],
    "validate": [],
    "predict": [],
    "fit": [],
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_refuse_a_bad_checkpoint_in_one_sentence(command, kind, tmp_path, capsys):
    make, words = BAD[kind]
    make(tmp_path / "last.ckpt")
    sentence = fails(capsys, command, *COMMANDS[command], "--ckpt_path", tmp_path / "last.ckpt")
    assert words in sentence
    assert str(tmp_path / "last.ckpt") in sentence
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "x.png"]


@pytest.mark.parametrize("kind", BAD)
def test_resuming_skips_it_and_loading_it_raises(kind, tmp_path, capsys):
    make, words = BAD[kind]
    (tmp_path / "previous.ckpt").write_bytes((DATA / "format1.ckpt").read_bytes())
    make(tmp_path / "last.ckpt")
    assert newest(tmp_path) == tmp_path / "previous.ckpt"
    assert words in capsys.readouterr().err
    with pytest.raises(UserError, match=words):
        ebmzoo.load(tmp_path / "last.ckpt")


def test_a_file_is_checked_again_when_it_has_changed(tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_bytes((DATA / "format1.ckpt").read_bytes())
    ebmzoo.load(path)
    with_a_wrong_bit(path)
    with pytest.raises(UserError, match="is damaged"):
        ebmzoo.load(path)


def test_networks_that_others_use_are_checked_too(tmp_path):
    encoder = ResNetEncoder(1, width=4, mean=None, std=None)
    state = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    next(iter(state.values())).flatten()[0] = torch.inf
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"last\.ckpt holds NaN or infinity in "):
        load_encoder(ResNetEncoder(1, width=4, mean=None, std=None), tmp_path / "last.ckpt")
    with_a_wrong_bit(tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="is damaged"):
        ClassifierFeatures(str(tmp_path / "last.ckpt"))(torch.zeros(1, 1, 8, 8))
