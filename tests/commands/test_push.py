"""`ebmzoo push`, and the commands on what it has written: by a folder, by a name, and from the hub."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml

from ebmzoo.commands.cli import main
from ebmzoo.commands.shared_models import with_shared_model
from ebmzoo.data import Digits
from ebmzoo.networks.weights import sha256
from ebmzoo.training.checkpoint import LAST
from ebmzoo.training.config import build_model
from ebmzoo.training.config_files import named_config
from ebmzoo.training.sharing.shared_model import CARD, CONFIG, FILES, PICTURE, WEIGHTS
from ebmzoo.training.sharing.zoo import folder_of, names, pretrained
from support.shared import saved_run, write_checkpoint

ZOO = "dual_mcmc_digits"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A run with results, and its shared model, in a folder."""
    folder = tmp_path_factory.mktemp("push")
    saved_run(folder / "run", "vae_digits")
    own, other = sha256(folder / "run" / LAST)[:12], "0" * 12
    write_result(folder / "run", "generation", own, {"fd_pixels": 1.25, "seconds": 3.0, "kd_pixels": None})
    write_result(folder / "run", "ood", other, {"uniform/auroc_energy": 0.5})
    write_result(folder / "run", "likelihood", own, {"bpd": 2.0}, weights="raw")
    main(["push", str(folder / "run"), "--to", str(folder / "my_vae"), "--license", "cc-by-4.0", "--commit", "abc123"])
    return folder


def write_result(run, task, digest, figures, weights="ema"):
    protocol = {"n": 10, "seed": 0, "weights": weights, "checkpoint": "/home/ada/run", "checkpoint_sha256": digest}
    (run / "test").mkdir(exist_ok=True)
    (run / "test" / f"{task}.json").write_text(json.dumps({"task": task, "figures": figures, "protocol": protocol}))


def refused(capsys, *args):
    """The sentence with which a command ends."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([*args])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert len(printed) == 1
    return printed[0]


def test_a_run_becomes_a_folder_with_weights_config_card_and_picture(shared):
    assert {path.name for path in (shared / "my_vae").iterdir()} == {*FILES}
    card = (shared / "my_vae" / CARD).read_text()
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["license"] == "cc-by-4.0"
    (model,) = metadata["model-index"]
    assert model["name"] == "my_vae"
    assert model["results"][0]["metrics"] == [{"type": "generation/fd_pixels", "value": 1.25}]
    assert "commit abc123" in card
    assert "7 iterations, seed 0" in card
    assert "| generation | fd_pixels | 1.25 |" in card
    assert "checkpoint_sha256" in card
    assert "/home/ada" not in card
    assert (shared / "my_vae" / PICTURE).read_bytes()[1:4] == b"PNG"


def test_results_of_another_checkpoint_or_of_raw_weights_are_named_and_left_out(shared, tmp_path, capsys):
    main(["push", str(shared / "run" / LAST), "--to", str(tmp_path / "x"), "--note", "Made\nfor a test."])
    assert "raw weights: likelihood.json, ood.json" in capsys.readouterr().err
    card = (tmp_path / "x" / CARD).read_text()
    assert "auroc" not in card
    assert "bpd" not in card
    assert "- Made\\nfor a test." in card
    assert "None is stated for the weights." in card


def test_nothing_is_written_over_without_leave(shared, capsys):
    line = ("push", str(shared / "run"), "--to", str(shared / "my_vae"))
    assert f"{shared / 'my_vae' / WEIGHTS} and 3 more would be overwritten" in refused(capsys, *line)
    main([*line, "--overwrite"])


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["nowhere", "--to", "x"], "there is no checkpoint nowhere"),
        (["{shared}/my_vae", "--to", "x"], "there is no checkpoint"),
        (["{shared}/my_vae/model.safetensors", "--to", "x"], "a run's folder is needed"),
        (["{shared}/run", "--to", "s3://bucket/x"], "to is s3://bucket/x; it must be the path"),
        (["{shared}/run", "--to", "hf:name"], "hf:name is no address of a model on the hub"),
        (["{shared}/run", "--to", "hf:ada/name@v1"], "names a revision"),
        (["{shared}/run"], "--to"),
    ],
)
def test_what_cannot_be_shared_is_said_in_a_sentence(args, sentence, shared, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(capsys, "push", *(arg.format(shared=shared) for arg in args))
    assert [*tmp_path.iterdir()] == []


def test_a_classifier_is_not_shared(tmp_path, capsys):
    config = yaml.safe_load(named_config("classifier_digits"))
    write_checkpoint(tmp_path / "run", build_model(yaml.safe_dump(config)), config)
    sentence = refused(capsys, "push", str(tmp_path / "run"), "--to", str(tmp_path / "x"))
    assert "holds a Classifier; only a method, which makes images, is shared" in sentence
    assert not (tmp_path / "x").exists()


def test_the_samples_are_those_of_the_card(shared, tmp_path):
    main(["sample", "--ckpt_path", str(shared / "my_vae"), "--n", "64", "--out", str(tmp_path / "x.png")])
    assert (tmp_path / "x.png").read_bytes() == (shared / "my_vae" / PICTURE).read_bytes()
    main(["sample", f"--ckpt_path={shared / 'my_vae' / WEIGHTS}", "--n", "64", "--out", str(tmp_path / "y.png")])
    assert (tmp_path / "y.png").read_bytes() == (tmp_path / "x.png").read_bytes()


def test_results_of_a_model_by_its_name_go_to_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    before = {path: path.stat().st_mtime_ns for path in folder_of(ZOO).rglob("*")}
    main(["predict", "--pretrained", ZOO, "--trainer.accelerator", "cpu"])
    with np.load(tmp_path / "runs" / "shared" / ZOO / "predictions.npz") as found:
        energies = torch.from_numpy(found["energy"])
    images = Digits().test_set.float()
    with torch.no_grad():
        torch.testing.assert_close(energies, pretrained(ZOO).energy(images), atol=1e-4, rtol=1e-4)
    assert {path: path.stat().st_mtime_ns for path in folder_of(ZOO).rglob("*")} == before
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


def test_results_of_a_folder_go_into_it(shared, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    folder = tmp_path / "mine"
    shutil.copytree(shared / "my_vae", folder)
    main(["validate", "--ckpt_path", str(folder), "--trainer.accelerator", "cpu", "--trainer.limit_val_batches", "1"])
    assert (folder / "csv").is_dir()


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_the_line_of_a_model_by_name(command):
    path = str(folder_of(ZOO) / WEIGHTS)
    assert with_shared_model([command, "--pretrained", ZOO]) == [
        *(command, "--ckpt_path", path),
        *("--run_dir", f"runs/shared/{ZOO}"),
    ]
    line = [command, "--pretrained=" + ZOO, "--run_dir", "x", "--only", "ood"]
    assert with_shared_model(line) == [command, "--ckpt_path", path, *line[2:]]


def test_other_words_stay_where_they_are():
    line = ["restore", "a.png", "--pretrained", ZOO, "b.png", "--n", "2"]
    path = str(folder_of(ZOO) / WEIGHTS)
    assert with_shared_model(line) == ["restore", "a.png", "--ckpt_path", path, "b.png", "--n", "2"]
    for line in (["fit", "--ckpt_path", "runs/x/last.ckpt"], ["fit", "--ckpt_path", "null", "--n", "-1"]):
        assert with_shared_model(line) == line


def test_what_a_shared_model_cannot_do_is_said_in_a_sentence(shared, capsys):
    folder = str(shared / "my_vae")
    assert "both name a model" in refused(capsys, "sample", "--pretrained", ZOO, "--ckpt_path", folder)
    unknown = refused(capsys, "sample", "--pretrained", "no_such_model")
    assert all(name in unknown for name in names())
    assert "pretrained: a name is needed, one of" in refused(capsys, "sample", "--pretrained")
    assert "no state of its training" in refused(capsys, "fit", "--ckpt_path", folder, "--config", "vae_digits")
    assert "the averaged weights alone" in refused(capsys, "sample", "--ckpt_path", folder, "--weights", "raw")
    assert "holds no model.safetensors" in refused(capsys, "test", "--ckpt_path", str(shared))


def test_a_class_that_is_not_trusted_is_refused(shared, tmp_path, capsys):
    folder = tmp_path / "stranger"
    shutil.copytree(shared / "my_vae", folder)
    config = yaml.safe_load((folder / CONFIG).read_text()) | {"model": {"class_path": "my_zoo.Method"}}
    (folder / CONFIG).write_text(yaml.safe_dump(config))
    for command in ("sample", "test"):
        assert "'my_zoo.Method' is neither a class of ebmzoo nor" in refused(
            capsys, command, "--ckpt_path", str(folder)
        )
