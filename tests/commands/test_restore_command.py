"""`ebmzoo restore` on a small untrained model: its files and its errors."""

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ebmzoo import __version__
from ebmzoo.commands.cli import main
from ebmzoo.commands.restore import operator_of
from ebmzoo.data import FromFile
from ebmzoo.data.degradations import Downsample, Grayscale, Identity, Masking
from ebmzoo.errors import UserError
from ebmzoo.training.checkpoint import FORMAT, KEY
from ebmzoo.training.config import build_model
from ebmzoo.training.config_files import read_config
from support.command_line import CONFIG, fails

FEW = ["--restoring.latent_steps", "2", "--restoring.starts", "2", "--steps", "2"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of the digits config, made small and never trained."""
    config = read_config(CONFIG)
    model = config["model"]["init_args"]
    model["energy_net"]["init_args"]["features"]["init_args"] |= {"width": 16, "out_features": 16}
    model["generator"]["init_args"]["width"] = model["encoder"]["init_args"]["width"] = 8
    text = yaml.safe_dump(config)
    torch.manual_seed(0)
    state = build_model(text).state_dict()
    path = tmp_path_factory.mktemp("restore") / "last.ckpt"
    torch.save({"state_dict": state, KEY: {"format": FORMAT, "version": __version__, "config": text}}, path)
    return path


def picture(path, size, mode="L", seed=0):
    shape = (size[1], size[0]) + ((3,) if mode == "RGB" else ())
    Image.fromarray(np.random.default_rng(seed).integers(60, 200, shape, dtype=np.uint8), mode).save(path)
    return str(path)


def pixels(path):
    return np.asarray(Image.open(path).convert("L")).astype(float)


def test_small_images_are_restored_at_the_models_size(checkpoint, tmp_path, capsys):
    """Each restored image is of the model's size, and its block means are the input."""
    inputs = [picture(tmp_path / f"{name}.png", (2, 2), seed=i) for i, name in enumerate("ab")]
    out = tmp_path / "out"
    command = ["restore", "--ckpt_path", str(checkpoint), "--operator", "sr4", *inputs, "--out", str(out), "--n", "2"]
    main([*command, *FEW])
    output = capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"a.png", "a_0.png", "a_1.png", "b.png", "b_0.png", "b_1.png"}
    for name, source in zip("ab", inputs, strict=True):
        for k in range(2):
            made = pixels(out / f"{name}_{k}.png")
            assert made.shape == (8, 8)
            np.testing.assert_allclose(made.reshape(2, 4, 2, 4).mean((1, 3)), pixels(source), atol=1.5)
        assert f"{name}.png: " in output
    assert "PSNR" not in output
    assert (pixels(out / "a_0.png") != pixels(out / "a_1.png")).any()
    first = pixels(out / "a_0.png")
    main([*command, *FEW, "--overwrite"])
    assert (pixels(out / "a_0.png") == first).all(), "the same seed"
    main([*command, *FEW, "--overwrite", "--seed", "1"])
    assert (pixels(out / "a_0.png") != first).any()


def test_clean_images_are_degraded_first_and_measured(checkpoint, tmp_path, capsys):
    inputs = picture(tmp_path / "clean.png", (8, 8), "RGB")
    Image.new("L", (8, 8), 0).save(tmp_path / "mask.png")
    mask = Image.new("L", (8, 8), 0)
    mask.paste(255, (0, 0, 4, 8))
    mask.save(tmp_path / "mask.png")
    hidden = ["--operator", "inpaint", "--mask", str(tmp_path / "mask.png")]
    main(
        ["restore", "--ckpt_path", str(checkpoint), *hidden, "--degrade", inputs, "--out", str(tmp_path / "out"), *FEW]
    )
    output = capsys.readouterr().out
    assert "PSNR" in output
    assert "that of A⁺y" in output
    made, clean = pixels(tmp_path / "out" / "clean_0.png"), pixels(inputs)
    np.testing.assert_allclose(made[:, 4:], clean[:, 4:], atol=1)
    assert np.abs(made[:, :4] - clean[:, :4]).mean() > 5


def test_files_of_one_name_are_numbered(checkpoint, tmp_path):
    for folder in "xy":
        (tmp_path / folder).mkdir()
    inputs = [picture(tmp_path / folder / "a.png", (1, 1)) for folder in "xy"]
    main(
        ["restore", "--ckpt_path", str(checkpoint), "--operator", "sr8", *inputs, "--out", str(tmp_path / "out"), *FEW]
    )
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"0_a.png", "0_a_0.png", "1_a.png", "1_a_0.png"}


def test_operators_by_name(tmp_path):
    assert operator_of("sr8", None, None) == Downsample(8)
    assert operator_of("sr4", 0.1, None) == Downsample(4, noise=0.1)
    assert operator_of("color", None, None) == Grayscale.luma()
    assert operator_of("denoise", 0.5, None) == Identity(noise=0.5)
    path = picture(tmp_path / "mask.png", (8, 8))
    masking = operator_of("inpaint", None, path)
    assert isinstance(masking, Masking)
    assert isinstance(masking.mask, FromFile)


@pytest.mark.parametrize(
    ("name", "sigma", "mask", "output"),
    [
        ("sr5", None, None, "no 'sr5'; did you mean 'sr"),
        ("unknown", None, None, "the operators are sr4, sr8, color"),
        ("denoise", None, None, "denoise needs --sigma"),
        ("denoise", 0.0, None, "denoise needs --sigma"),
        ("denoise", -1.0, None, "noise is -1.0"),
        ("inpaint", None, None, "--mask and --operator inpaint go together"),
        ("sr4", None, "mask.png", "--mask and --operator inpaint go together"),
        ("inpaint", None, "nowhere.png", "there is no mask nowhere.png"),
    ],
)
def test_errors_of_operators(name, sigma, mask, output):
    with pytest.raises(UserError, match=output):
        operator_of(name, sigma, mask)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--operator", "sr4", "large.png"], ["large.png has 8×8", "one for sr4", "2×2"]),
        (["--operator", "sr4", "--degrade", "small.png"], ["small.png has 2×2", "a clean image", "8×8"]),
        (["--operator", "color", "large.png"], ["color needs images of 3 channels", "1 channels"]),
        (["--operator", "sr4", "text.png"], ["text.png is not an image file"]),
        (["--operator", "sr4", "nowhere.png"], ["nowhere.png"]),
        (["--operator", "sr4", "--n", "0", "small.png"], ["n is 0"]),
        (["--operator", "inpaint", "--mask", "small.png", "large.png"], ["2×2", "8×8"]),
        (["--operator", "sr4", "--restoring.pull", "2", "small.png"], ["restoring.pull is 2"]),
    ],
)
def test_errors_are_one_sentence(checkpoint, tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    picture("large.png", (8, 8))
    picture("small.png", (2, 2))
    (tmp_path / "text.png").write_text("no image")
    output = fails(capsys, "restore", "--ckpt_path", checkpoint, "--out", "out", *flags)
    assert all(word in output for word in words), output
    assert not (tmp_path / "out").exists()
