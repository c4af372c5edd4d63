"""The command line end to end, and its errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from ebmzoo.commands.cli import COMMANDS, main
from ebmzoo.training.config_files import read_config
from support.command_line import CONFIG, ROOT, fails, fitted_once, small


@pytest.fixture(autouse=True)
def no_dashboard(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small run, fitted once."""
    return fitted_once(tmp_path_factory)


def test_fit_writes_everything_that_test_and_sample_need(trained):
    names = {p.name for p in trained.iterdir()}
    assert {"last.ckpt", "config.yaml", "csv", "samples", "samples_no_mcmc"} <= names
    curves = (trained / "csv" / "version_0" / "metrics.csv").read_text().splitlines()
    assert "train/energy_gap" in curves[0]
    assert {p.stem for p in (trained / "samples").iterdir()} == {f"step_{n:07d}" for n in (6, 8, 10, 12)}


def test_checkpoint_loads_without_running_code(trained):
    checkpoint = torch.load(trained / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 12
    assert yaml.safe_load(checkpoint["ebmzoo"]["config"])["model"]["class_path"] == "ebmzoo.methods.LIEBM"


def test_test_needs_only_the_checkpoint(trained, capsys):
    main(["test", "--ckpt_path", str(trained / "last.ckpt")])
    output = capsys.readouterr().out
    for word in ("fd_pixels", "w/o MCMC", "nfe", "auroc_score", "uniform", "encoder", "knn"):
        assert word in output
    generation = json.loads((trained / "test" / "generation.json").read_text())
    assert generation["figures"]["nfe"] == 3
    assert generation["figures"]["no_mcmc/nfe"] == 1
    protocol = generation["protocol"]
    assert {"seed", "n", "split", "weights", "checkpoint_sha256", "versions", "precision"} <= set(protocol)
    assert protocol["weights"] == "ema"
    ood = json.loads((trained / "test" / "ood.json").read_text())["figures"]
    assert all(0 <= value <= 1 for value in ood.values())
    assert (trained / "test" / "tsne_encoder.png").exists()


def test_command_line_overrides_the_checkpoint(trained, capsys, tmp_path):
    run_dir = str(tmp_path / "other")
    raw = ["--weights", "raw", "--model.sampler.steps", "5"]
    main(["test", "--ckpt_path", str(trained / "last.ckpt"), "--run_dir", run_dir, *raw])
    capsys.readouterr()
    output = json.loads((tmp_path / "other" / "test" / "generation.json").read_text())
    assert output["figures"]["nfe"] == 6
    assert output["protocol"]["weights"] == "raw"


def test_fit_warns_of_what_its_tasks_lack(tmp_path, capsys):
    lacking = [{"class_path": "ebmzoo.metrics.ClassifierFeatures", "init_args": {"checkpoint": "nowhere.ckpt"}}]
    tasks = [{"class_path": "ebmzoo.tasks.Generation", "init_args": {"extractors": lacking}}]
    main(["fit", "--config", str(small(tmp_path, tasks=tasks)), "--trainer.max_steps", "1"])
    assert "generation: no classifier at nowhere.ckpt" in capsys.readouterr().err


def test_sample_in_three_forms(trained, tmp_path, capsys):
    checkpoint = str(trained / "last.ckpt")
    for out in ("a.npz", "b.npz", "grid.png", "folder"):
        main(["sample", "--ckpt_path", checkpoint, "--n", "5", "--out", str(tmp_path / out)])
    a, b = (np.load(tmp_path / name)["images"] for name in ("a.npz", "b.npz"))
    assert a.shape == (5, 8, 8, 1)
    assert a.dtype == np.uint8
    assert (a == b).all()
    assert len(list((tmp_path / "folder").glob("*.png"))) == 5
    assert (tmp_path / "grid.png").exists()
    for flags in (["--seed", "1"], ["--steps", "0"], ["--weights", "raw"]):
        main(["sample", "--ckpt_path", checkpoint, "--n", "5", "--out", str(tmp_path / "c.npz"), *flags, "--overwrite"])
        assert (np.load(tmp_path / "c.npz")["images"] != a).any(), flags
    assert "0 Langevin steps" not in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize(
    ("flags", "words"),
    [(["--batch_size", "0"], ["batch_size is 0"]), (["--device", "cud"], ["device cud"])],
)
def test_errors_of_sample(trained, flags, words, capsys, tmp_path):
    output = fails(capsys, "sample", "--ckpt_path", trained / "last.ckpt", "--out", tmp_path / "x.png", *flags)
    assert all(word in output for word in words)


def test_samples_of_a_class_like_an_image_and_composed(trained, tmp_path, capsys):
    from PIL import Image

    Image.new("RGB", (8, 8), "white").save(tmp_path / "like.png")
    made = {}
    for flag, value in {"--class": "3", "--like": tmp_path / "like.png", "--compose": "3, 7"}.items():
        out = tmp_path / f"{flag}.npz"
        main(["sample", "--ckpt_path", str(trained / "last.ckpt"), "--n", "5", "--out", str(out), flag, str(value)])
        made[flag] = np.load(out)["images"]
        assert made[flag].shape == (5, 8, 8, 1), flag
        output = capsys.readouterr().out
        assert "NFE 9" in output, "one pass of the generator and 4 rounds of 2 steps"
        assert str(value) in output
    assert (made["--class"] != made["--like"]).any()
    assert (made["--class"] != made["--compose"]).any()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--class", "10"], ["--class", "'10'", "0 to 9"]),
        (["--class", "-1"], ["--class", "'-1'", "0 to 9"]),
        (["--class", "three"], ["--class", "'three'", "0, 1, 2"]),
        (["--compose", "3,x"], ["--compose", "'x'", "0 to 9"]),
        (["--like", "nowhere.png"], ["nowhere.png"]),
        (["--like", CONFIG], ["--like", "liebm_digits.yaml", "not an image"]),
        (["--like", "large.png"], ["--like", "large.png", "9×8", "8×8"]),
        (["--class", "3", "--like", "large.png"], ["--class and --like", "one of them"]),
        (["--clas", "3"], ["clas", "class"]),
    ],
)
def test_errors_of_conditional_sampling(trained, flags, words, capsys, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9, 8)).save("large.png")
    output = fails(capsys, "sample", "--ckpt_path", trained / "last.ckpt", "--n", "2", "--out", "x.png", *flags)
    assert all(word in output for word in words), output
    assert not Path("x.png").exists()


def test_run_that_ends_in_the_encoder_stage_warns(tmp_path, capsys):
    main(["fit", "--config", str(small(tmp_path)), "--trainer.max_epochs", "1"])
    assert "never the energy" in capsys.readouterr().err


def test_other_checkpoints_run_is_not_overwritten(trained, tmp_path):
    main(["fit", "--config", str(small(tmp_path)), "--trainer.max_epochs", "1"])
    before = (tmp_path / "run" / "last.ckpt").read_bytes()
    other = ["--ckpt_path", str(trained / "last.ckpt"), "--trainer.max_epochs", "4"]
    main(["fit", "--config", str(tmp_path / "small.yaml"), *other])
    assert (tmp_path / "run" / "last.ckpt").read_bytes() == before
    assert (tmp_path / "run-2" / "last.ckpt").exists()


def test_predict_writes_a_file(trained, capsys):
    main(["predict", "--ckpt_path", str(trained / "last.ckpt")])
    found = np.load(trained / "predictions.npz")
    assert found["energy"].shape == found["ood_score"].shape == found["label"].shape == (297,)
    assert "297 images" in capsys.readouterr().out


def test_validate_prints_metrics(trained, capsys):
    main(["validate", "--ckpt_path", str(trained / "last.ckpt")])
    assert "val/energy_gap" in capsys.readouterr().out


def test_second_run_does_not_touch_the_first(trained, capsys):
    before = (trained / "last.ckpt").read_bytes()
    main(["fit", "--config", str(trained.parent / "small.yaml"), "--trainer.max_epochs", "1"])
    assert "already holds a run" in capsys.readouterr().out
    assert (trained / "last.ckpt").read_bytes() == before
    assert (trained.with_name("run-2") / "last.ckpt").exists()


@pytest.mark.parametrize("cut", ["max_epochs=1", "max_epochs=2", "max_steps=2", "max_steps=7"])
def test_resumed_run_is_the_whole_run(cut, trained, tmp_path):
    """Three epochs at once equal, bit for bit, a run stopped at the end or in the middle of a stage and resumed."""
    main(["fit", "--config", str(small(tmp_path)), f"--trainer.{cut}"])
    again = tmp_path / "run" / "last.ckpt"
    main(["fit", "--ckpt_path", str(again), "--trainer.max_epochs", "3", "--trainer.max_steps", "-1"])
    whole, resumed = (torch.load(p, weights_only=True) for p in (trained / "last.ckpt", again))
    assert resumed["global_step"] == whole["global_step"]
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name


def test_simclr_checkpoint_replaces_stage_one(tmp_path):
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=0"]
    simclr = str(ROOT / "configs" / "simclr" / "digits.yaml")
    main(["fit", "--config", simclr, "--run_dir", str(tmp_path / "encoder"), *short])
    config = yaml.safe_load(small(tmp_path).read_text())
    encoder = read_config(ROOT / "configs" / "simclr" / "digits.yaml")["model"]["init_args"]["encoder"]
    model = config["model"]["init_args"]
    model |= {"encoder": encoder, "encoder_stage": None, "encoder_checkpoint": str(tmp_path / "encoder" / "last.ckpt")}
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(path), "--trainer.max_steps", "2", "--trainer.max_epochs", "-1"])
    made = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["state_dict"]
    pretrained = torch.load(tmp_path / "encoder" / "last.ckpt", weights_only=True)["state_dict"]
    for name in [n for n in pretrained if n.startswith("encoder.") and "running" in n]:
        assert torch.equal(made[name], pretrained[name]), "the frozen encoder's batch statistics moved"
    # the LIEBM checkpoint must load without the encoder's file
    (tmp_path / "encoder" / "last.ckpt").unlink()
    main(["sample", "--ckpt_path", str(tmp_path / "run" / "last.ckpt"), "--n", "2", "--out", str(tmp_path / "s.png")])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["fitt"], ["fitt", "did you mean 'fit'"]),
        (["fit", "--config", "nowhere.yaml"], ["nowhere.yaml"]),
        (["fit", "--config", CONFIG, "--model.gama", "1"], ["gama", "'gamma'"]),
        (["fit", "--config", CONFIG, "--trainer.max_epoch", "1"], ["max_epoch", "trainer.max_epochs"]),
        (["fit", "--config", CONFIG, "--trainer.max_epochs", "many"], ["max_epochs", "many"]),
        (["fit", "--config", CONFIG, "--model.gamma", "much"], ["gamma", "much"]),
        (["fit", "--config", CONFIG, "--model.sampler.steps", "-3"], ["steps", "-3"]),
        (["fit", "--config", CONFIG, "--model", "LIEBN"], ["LIEBN", "ebmzoo.methods.LIEBM"]),
        (["fit", "--config", CONFIG, "--data", "ebmzoo.data.Digit"], ["Digit", "ebmzoo.data.Digits"]),
        (["fit", "--config", CONFIG, "--model.chain", "both"], ["chain", "both"]),
        (["fit", "--config", CONFIG, "--model.encoder_checkpoint", "x.ckpt"], ["encoder_checkpoint", "encoder_stage"]),
        (["fit", "--config", CONFIG, "--data.batch_size", "0"], ["batch_size"]),
        (["fit", "--config", CONFIG, "--model.generator.out_channels", "3"], ["(3, 8, 8)", "(1, 8, 8)"]),
        (["fit", "--config", CONFIG, "--trainer.accelerator", "gpuu"], ["gpuu"]),
        (["fit"], ["model"]),
        (["fit", "--config", CONFIG, "--trainer.precision", "bf17"], ["precision", "bf17", "bf16-mixed"]),
        (["fit", "--config", CONFIG, "--trainer.precision", "bf16-true"], ["bf16-true", "bf16-mixed"]),
        (["test"], ["--ckpt_path"]),
        (["test", "--config", CONFIG], ["--ckpt_path"]),
        (["test", "--ckpt_path", "nowhere.ckpt"], ["nowhere.ckpt"]),
        (["test", "--ckpt_path", CONFIG], ["liebm_digits.yaml"]),
        (["sample", "--ckpt_path", "nowhere.ckpt"], ["nowhere.ckpt"]),
        (["sample"], ["ckpt_path"]),
        (["fit", "--config", CONFIG, "--run_dir", "/proc/no"], ["/proc/no"]),
        (["sample", "--ckpt_path", "x", "--n", "0"], ["n is 0"]),
        (["sample", "--ckpt_path", "x", "--out", "a.gif"], ["a.gif", ".png"]),
        (["sample", "--ckpt_path", "x", "--weights", "best"], ["weights", "best"]),
    ],
)
def test_errors_are_one_sentence(args, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = fails(capsys, *args)
    for word in words:
        assert word in output, output
    assert len(output) < 450, output


def test_help_and_no_arguments_show_first_commands(capsys):
    for args in ([], ["--help"]):
        main(args)
        output = capsys.readouterr().out
        assert "ebmzoo fit --config liebm_digits" in output
        assert all(command in output for command in COMMANDS)
    main(["--version"])
    assert capsys.readouterr().out.startswith("ebmzoo 0.")


def test_help_loads_no_torch():
    code = (
        "import sys; from ebmzoo.commands.cli import main; main(['--help']);"
        "sys.exit(any(m in sys.modules for m in HEAVY))"
    )
    code = code.replace("HEAVY", repr(("torch", "lightning", "numpy", "jsonargparse", "wandb")))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0


def test_a_reader_that_has_read_enough_ends_a_command_without_a_word():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "ebmzoo", "configs"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_print_config_shows_every_value(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", str(CONFIG), "--print_config"])
    assert stopped.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["model"]["init_args"]["energy_penalty"] == 0.0
    assert shown["trainer"]["inference_mode"] is False
