"""A figure is answered from its file only where all that it rests on is the same, and its file says what that was."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ebmzoo.commands.cli import main
from ebmzoo.data import Digits
from ebmzoo.report.comparison.protocols import conditions
from ebmzoo.report.comparison.records import read_records
from ebmzoo.training.checkpoint import KEY
from support.command_line import fitted_once


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small run, fitted and tested once."""
    return fitted_once(tmp_path_factory)


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A copy of the run, tested."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    shutil.copytree(trained, tmp_path / "run")
    evaluate(tmp_path / "run")
    return tmp_path / "run"


def evaluate(run, *flags):
    main(["test", "--ckpt_path", str(run / "last.ckpt"), "--tasks", "generation,ood", *flags])


def result(run, task):
    return json.loads((run / "test" / f"{task}.json").read_text())


def skipped(capsys):
    """The tasks that the last command did not run again."""
    said = capsys.readouterr().err
    return {name for name in ("generation", "ood") if f"{name}: skipped" in said}


def test_the_same_question_is_answered_from_its_file(run, capsys):
    capsys.readouterr()
    evaluate(run)
    assert skipped(capsys) == {"generation", "ood"}


def test_another_out_of_distribution_set_is_another_question(run, capsys):
    capsys.readouterr()
    evaluate(run, "--data.ood", "[{class_path: ebmzoo.data.ConstantColours, init_args: {seed: 5}}]")
    assert skipped(capsys) == {"generation"}
    assert set(result(run, "ood")["protocol"]["sets"]["out"]) == {"constant"}
    evaluate(run)
    assert skipped(capsys) == {"generation"}


def test_an_override_of_the_model_is_another_question_and_does_not_answer_the_plain_one(run, capsys):
    plain = result(run, "generation")["figures"]["nfe"]
    capsys.readouterr()
    evaluate(run, "--again", "true", "--model.init_args.sampler.steps", "5")
    overridden = result(run, "generation")["figures"]["nfe"]
    assert overridden != plain
    capsys.readouterr()
    evaluate(run)
    assert skipped(capsys) == set()
    assert result(run, "generation")["figures"]["nfe"] == plain


def test_other_images_are_another_question(run, capsys):
    capsys.readouterr()
    evaluate(run, "--data.max_train", "119")
    assert skipped(capsys) == {"ood"}, "the test images, all that `ood` looks at, are the same"
    assert result(run, "generation")["protocol"]["sets"]["train"]["n"] == 119


def test_code_that_changed_is_another_question(run, capsys, monkeypatch):
    monkeypatch.setattr("ebmzoo.tasks.provenance.source_digest", lambda: "another")
    capsys.readouterr()
    evaluate(run)
    assert skipped(capsys) == set()


def test_an_extractor_trained_anew_at_its_path_is_another_question(run, tmp_path, capsys):
    def classifier(seed):
        torch.manual_seed(seed)
        from ebmzoo.metrics.classifier import Classifier

        model = Classifier(in_channels=1, size=8, width=2, blocks=[1])
        facts = {**model.architecture, "size": 8, "name": "judge"}
        torch.save({"classifier": facts, "state_dict": model.state_dict()}, tmp_path / "c.ckpt")

    def ask():
        extractors = (
            f"[{{class_path: ebmzoo.metrics.ClassifierFeatures, init_args: {{checkpoint: {tmp_path}/c.ckpt}}}}]"
        )
        task = f"[{{class_path: ebmzoo.tasks.Generation, init_args: {{n: 60, extractors: {extractors}}}}}]"
        main(["test", "--ckpt_path", str(run / "last.ckpt"), "--tasks", task, "--only", "config"])
        return result(run, "generation")

    classifier(0)
    first = ask()
    capsys.readouterr()
    ask()
    assert "generation: skipped" in capsys.readouterr().err
    classifier(1)
    second = ask()
    assert "generation: skipped" not in capsys.readouterr().err
    assert first["figures"]["fd_judge"] != second["figures"]["fd_judge"]
    assert first["protocol"]["extractors"]["judge"]["sha256"] != second["protocol"]["extractors"]["judge"]["sha256"]


def test_the_protocol_states_every_set(run):
    digits = Digits(max_train=120)
    sets = result(run, "generation")["protocol"]["sets"]
    assert sets == {"train": digits.train_set.record(), "test": digits.test_set.record()}
    out = result(run, "ood")["protocol"]["sets"]
    assert out["test"] == digits.test_set.record()
    assert all(set(entry) == {"name", "n", "digest"} for entry in out["out"].values())


def images(folder, seed):
    """A folder of 8×8 images in two splits."""
    random = np.random.default_rng(seed)
    for split, n in (("train", 130), ("test", 70)):
        (folder / split).mkdir(parents=True)
        for k in range(n):
            Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / split / f"{k}.png")
    return folder


def folder_of(path):
    """The flags of 8×8 grey images in a folder or an array file."""
    return ["--data", "ebmzoo.data.ImageFolder", "--data.path", str(path), "--data.size", "8", "--data.channels", "1"]


def test_figures_on_the_images_of_another_site_do_not_share_a_column(run, tmp_path):
    """Two runs with equal configs, of which one was tested on other images."""
    shutil.copytree(run, tmp_path / "other")
    site = images(tmp_path / "site", 0)
    evaluate(tmp_path / "other", *folder_of(site))
    records = read_records([run, tmp_path / "other"])
    for key in ("generation/fd_pixels", "ood/uniform/auroc_energy", "ood/far/auroc_energy"):
        mine, theirs = (conditions(key, record) for record in records)
        assert mine != theirs, key
        assert "70 of site" in theirs["sets.test"]
        assert "297 of" in mine["sets.test"]


def test_the_same_images_in_another_folder_share_the_column(run, tmp_path):
    shutil.copytree(run, tmp_path / "other")
    for name, folder in (("run", run), ("other", tmp_path / "other")):
        site = images(tmp_path / name / "site", 0)
        data = [
            "--data",
            "ebmzoo.data.ImageFolder",
            "--data.path",
            str(site),
            "--data.size",
            "8",
            "--data.channels",
            "1",
        ]
        evaluate(folder, *data)
    one, two = (conditions("generation/fd_pixels", record) for record in read_records([run, tmp_path / "other"]))
    assert one == two


def test_figures_are_logged_at_the_checkpoint_s_iteration(run):
    (rows,) = [
        list(csv.DictReader(path.open()))
        for path in sorted((run / "csv").glob("version_*/metrics.csv"))
        if "test/generation/nfe" in path.read_text()
    ]
    assert {row["step"] for row in rows} == {"12"}
    assert {row["epoch"] for row in rows} == {"3"}


def test_images_that_were_trained_on_are_told_when_they_are_test_images(run, capsys):
    """The training images of the run as another's test images: the checkpoint knows each of them."""
    data = Digits(max_train=120)
    np.savez(
        run / "leak.npz",
        train_images=data.test_set.images[:100, 0].numpy(),
        test_images=np.concatenate([data.train_set.images[:7, 0].numpy(), data.test_set.images[100:180, 0].numpy()]),
    )
    capsys.readouterr()
    evaluate(run, *folder_of(run / "leak.npz"), "--data.max_train", "null")
    said = capsys.readouterr().err
    assert "the run was trained on 7 of the 87 test images, to the pixel" in said
    assert "the run was trained on 120 of" in said
    evaluate(run, "--again", "true")
    assert "! data:" not in capsys.readouterr().err


def test_a_run_resumes_on_other_images_only_if_told_and_says_so(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    shutil.copytree(trained, tmp_path / "run")
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    config["run_dir"] = str(tmp_path / "run")
    config["trainer"]["max_epochs"] = 4
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    line = ["fit", "--config", str(tmp_path / "c.yaml"), "--resume", "auto", "--data.init_args.max_train", "119"]
    with pytest.raises(SystemExit):
        main(line)
    assert "ebmzoo: data: the run was trained on 120 of" in capsys.readouterr().err
    main([*line, "--changed_data"])
    assert "! data: the run was trained on 120 of" in capsys.readouterr().err


def test_a_checkpoint_states_its_data(trained):
    carried = torch.load(trained / "last.ckpt", weights_only=True)[KEY]["data"]
    digits = Digits(max_train=120)
    assert carried["record"] == digits.record()
    assert carried["classes"] == [str(k) for k in range(10)]
    assert torch.equal(carried["images"], digits.train_set.image_digests)
    assert len(digits.train_set.image_digests.unique()) == len(digits.train_set.images.unique(dim=0))
