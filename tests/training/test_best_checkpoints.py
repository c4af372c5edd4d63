"""The best checkpoints: what is scored, what is kept, and that the training does not notice."""

import json

import pytest
import torch
import yaml

import support.command_line as line
from ebmzoo.commands.cli import main
from ebmzoo.errors import UserError
from ebmzoo.methods import Method
from ebmzoo.metrics import Classifier, FeatureExtractor, Pixels, extract, frechet_distance
from ebmzoo.report.comparison.curves import read_curve
from ebmzoo.sampling.langevin import ChainDivergedError
from ebmzoo.sampling.randomness import repeatable
from ebmzoo.tasks.generation import draw
from ebmzoo.training.best_checkpoints import BestCheckpoints, Selection
from ebmzoo.training.checkpoint import LastCheckpoint, load, read
from ebmzoo.training.sample_scores import Monitor, monitor
from support.family import FAMILY
from support.resuming import PARTS, Rows, same
from support.tiny import TinyData, trainer, vae


def train(folder, make=vae, ckpt_path=None, scores=None, steps=8, rows=None, **chosen):
    """A fit of `steps` iterations; `scores` replaces the scores of iterations 2, 4, … by numbers."""
    torch.manual_seed(1)
    method = make()
    torch.manual_seed(7)
    best = BestCheckpoints(Selection(**{"monitor": "fd_pixels", "every": 2, "n": 6} | chosen), folder, [Pixels()])
    fit = trainer(
        folder,
        callbacks=[best, LastCheckpoint(folder, "model: null", every_n_steps=4)],
        enable_checkpointing=True,
        max_steps=steps,
        max_epochs=-1,
        logger=rows or False,
    )
    if scores is not None:
        found = iter(scores)
        start = best.on_fit_start

        def on_fit_start(*args):
            start(*args)
            best._monitor = Monitor("fd_pixels", lambda images: next(found))

        best.on_fit_start = on_fit_start
    fit.fit(method, TinyData(flip=True), ckpt_path=ckpt_path, weights_only=True)
    return best, method


def steps_of(folder):
    return {path.name: read(path)["global_step"] for path in sorted(folder.glob("best*"))}


@pytest.mark.parametrize("setting", FAMILY)
def test_a_run_trains_alike_with_and_without(setting, tmp_path):
    """Weights, averages, optimizers, replay buffers and random states, to the last bit."""
    found = []
    for every in (0, 2):
        folder = tmp_path / str(every)
        best, _ = train(folder, FAMILY[setting], every=every, steps=6)
        found.append(read(folder / "last.ckpt"))
        assert (folder / "best.ckpt").exists() == bool(every)
    assert best.kept, "else this would show nothing"
    parts = [part for part in PARTS if part != "callbacks"]
    same({part: found[0][part] for part in parts}, {part: found[1][part] for part in parts})


def test_the_score_is_that_of_the_checkpoint_and_is_logged(tmp_path):
    rows = Rows()
    best, _ = train(tmp_path, rows=rows, steps=4)
    logged = {step: row["val/fd_pixels"] for step, row in rows.rows if "val/fd_pixels" in row}
    assert sorted(logged) == [2, 4]
    assert best.kept[0].loss == min(logged.values())
    method = vae()
    method.load_state_dict(read(tmp_path / "best.ckpt")["state_dict"])
    for parameter in method.generator.parameters():  # the trained ones: the averages were scored
        torch.nn.init.zeros_(parameter)
    with repeatable(0):
        images, _ = draw(method, 6, 250, seed=0)
    real, made = (extract(Pixels(), each)[0] for each in (TinyData().train_set.images, images))
    assert frechet_distance(real, made) == logged[best.kept[0].step]


@pytest.mark.parametrize(
    ("keep", "scores", "kept"),
    [
        (1, [3.0, 1.0, 2.0, 1.0], {"best.ckpt": 4}),
        (2, [3.0, 1.0, 2.0, 0.5], {"best.ckpt": 8, "best_0000004.ckpt": 4}),
        (3, [1.0, 3.0, 4.0, 2.0], {"best.ckpt": 2, "best_0000004.ckpt": 4, "best_0000008.ckpt": 8}),
        (2, [1.0, float("nan"), 2.0, 3.0], {"best.ckpt": 2, "best_0000006.ckpt": 6}),
    ],
)
def test_the_best_are_kept(keep, scores, kept, tmp_path, capsys):
    train(tmp_path, keep=keep, scores=scores)
    assert steps_of(tmp_path) == kept
    told = capsys.readouterr()
    assert f"iteration {kept['best.ckpt']})" in told.out
    assert ("iteration 4: no fd_pixels (it is nan); training continues" in told.err) == (scores[1] != scores[1])


class Sure(FeatureExtractor):
    """Sure of the class of each image: the place of its one white pixel."""

    name, fingerprint = "sure", None

    def available(self):
        return None

    def forward(self, images):
        return images.flatten(1), 100 * images.flatten(1)


def test_a_higher_inception_score_is_better():
    found = monitor("is_sure", [Sure()], TinyData())
    images = (255 * torch.eye(16, dtype=torch.uint8)).view(16, 1, 4, 4)
    assert found.loss(images.repeat(10, 1, 1, 1)) < found.loss(images[:1].repeat(160, 1, 1, 1)) == -1


def test_a_resumed_run_remembers_the_best_and_equals_an_uninterrupted_one(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    expected = train(whole, keep=2, steps=12)[0].kept
    for steps in (4, 7, 12):  # 7: there is a checkpoint of iteration 7, and none of the scores is of it
        ckpt_path = cut / "last.ckpt" if steps > 4 else None
        best, _ = train(cut, keep=2, steps=steps, ckpt_path=ckpt_path)
    assert best.kept == expected
    assert steps_of(cut) == steps_of(whole)
    same(*({part: read(folder / "last.ckpt")[part] for part in PARTS} for folder in (whole, cut)))


def test_a_best_checkpoint_from_before_stays_against_worse_ones(tmp_path):
    train(tmp_path, scores=[1.0, 5.0], steps=4)
    train(tmp_path, scores=[2.0, 3.0], ckpt_path=tmp_path / "last.ckpt")
    assert steps_of(tmp_path) == {"best.ckpt": 2}
    train(tmp_path, scores=[0.5], ckpt_path=tmp_path / "last.ckpt", steps=10)
    assert steps_of(tmp_path) == {"best.ckpt": 10}


def test_a_kill_between_two_renames_and_damaged_or_other_files_are_put_right(tmp_path, capsys):
    train(tmp_path, scores=[1.0, 5.0], steps=4, keep=2)
    (tmp_path / "best.ckpt").rename(tmp_path / "best_0000002.ckpt")
    (tmp_path / "best_0000004.ckpt").write_bytes(b"nothing")
    (tmp_path / "best_of_mine.ckpt").write_bytes(b"mine")
    best, _ = train(tmp_path, scores=[7.0], ckpt_path=tmp_path / "last.ckpt", steps=6, keep=2)
    assert [kept.step for kept in best.kept] == [2, 6]
    assert read(tmp_path / "best.ckpt")["global_step"] == 2
    assert (tmp_path / "best_of_mine.ckpt").read_bytes() == b"mine"
    assert "best_0000004.ckpt" in capsys.readouterr().err
    best, _ = train(tmp_path, scores=[9.0], n=8, ckpt_path=tmp_path / "last.ckpt", steps=8)
    assert [kept.step for kept in best.kept] == [8], "scores of other numbers of samples are not compared"
    assert "best.ckpt has no fd_pixels of 8 samples" in capsys.readouterr().err


def test_a_diverged_chain_is_passed_over(tmp_path, capsys, monkeypatch):
    def diverge(*args, **kwargs):
        raise ChainDivergedError("the chain is NaN")

    monkeypatch.setattr("ebmzoo.training.best_checkpoints.draw", diverge)
    best, _ = train(tmp_path, steps=4)
    assert best.kept == []
    assert "iteration 2: no fd_pixels (the chain is NaN); training continues" in capsys.readouterr().err


def test_what_cannot_be_scored_is_one_sentence(tmp_path):
    for chosen, sentence in (
        ({"monitor": "fd_nothing"}, r"^checkpoint.monitor is fd_nothing; it must be one of fd_pixels, kd_pixels$"),
        ({"every": -1}, "every"),
        ({"keep": 0}, "keep"),
        ({"n": 1}, "n: 1"),
        ({"monitor": None}, "checkpoint.monitor is not given"),
    ):
        with pytest.raises(UserError, match=sentence):
            train(tmp_path, **chosen)
    best = BestCheckpoints(Selection("fd_pixels", 2), tmp_path, [])
    fit = trainer(tmp_path, callbacks=[best])
    classifier = Classifier(in_channels=1, size=8, num_classes=4, width=2, blocks=[1], crop_padding=0)
    with pytest.raises(UserError, match="but Classifier on TinyData draws no images"):
        fit.fit(classifier, TinyData())


def test_the_command_line_keeps_and_tests_the_best(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    config = line.small(tmp_path, checkpoint={"monitor": "fd_pixels", "every": 2, "keep": 2, "n": 20})
    main(["fit", "--config", str(config), "--trainer.max_steps", "10"])
    run = tmp_path / "run"
    steps, scores = read_curve(run, "val/fd_pixels")
    assert steps == [6, 8, 10], "stage 1 of LIEBM, the first four iterations, has no energy to draw by"
    kept = steps_of(run)
    assert kept["best.ckpt"] == steps[scores.index(min(scores))]
    assert len(kept) == 2
    assert f"best:       {run}/best.ckpt (fd_pixels" in capsys.readouterr().out
    main(["fit", "--config", str(config), "--trainer.max_steps", "12", "--resume", "auto"])
    main(["test", "--ckpt_path", str(run / "best.ckpt"), "--only", "generation"])
    protocol = json.loads((run / "test" / "generation.json").read_text())["protocol"]
    assert protocol["checkpoint"].endswith("best.ckpt")
    assert isinstance(load(run / "best.ckpt"), Method)
    assert yaml.safe_load((run / "config.yaml").read_text())["checkpoint"]["keep"] == 2
