"""The tasks on methods with known results, and the scorecard that shows them."""

import inspect
import json
import math

import pytest
import torch

from ebmzoo.errors import UserError
from ebmzoo.metrics import ClassifierFeatures, Pixels, frechet_distance
from ebmzoo.report.scorecard import scorecard, table
from ebmzoo.tasks import Generation, Representation, Result
from ebmzoo.tasks.generation import draw
from support.oracle import Oracle
from support.tiny import TinyData, liebm, stage, trainer, without_latent


def test_generation_of_the_data_itself_is_perfect(tmp_path):
    data = TinyData(n=64)
    result = Generation([Pixels()], n=64, batch_size=10)(Oracle(data.train_set.float()), data, tmp_path)
    assert result.figures["fd_pixels"] == pytest.approx(0, abs=1e-6)
    assert result.figures["precision_pixels"] == result.figures["recall_pixels"] == 1
    assert result.figures["nfe"] == 5
    assert result.protocol["chains"] == {"full": {"start": "buffer", "steps": 5, "temperature": 0.25}}
    assert not any("no_mcmc" in name for name in result.figures), "no generator, so nothing without the chain"
    train, test = (data_set.images.flatten(1) / 127.5 - 1 for data_set in (data.train_set, data.test_set))
    assert result.figures["real/fd_pixels"] == pytest.approx(frechet_distance(train, test), rel=1e-4)
    # in units of [-1, 1]: a shift by 0.1 of all 64 pixels, rounded to bytes, is a Fréchet distance of 64 · 0.1²
    shift = round(0.1 * 127.5) / 127.5
    shifted = Generation([Pixels()], n=64)(Oracle(data.train_set.float() + shift), data)
    assert shifted.figures["fd_pixels"] == pytest.approx(64 * shift**2, rel=1e-3)


def test_generation_measures_the_generator_alone_too():
    data, method = TinyData(), liebm(encoder_stage=stage(epochs=0))
    result = Generation([Pixels()], n=20)(method, data)
    assert (result.figures["nfe"], result.figures["no_mcmc/nfe"]) == (3, 1)
    assert result.figures["fd_pixels"] != result.figures["no_mcmc/fd_pixels"]


def test_a_missing_extractor_is_noted_and_skipped():
    task = Generation([ClassifierFeatures("nowhere.ckpt"), Pixels()], n=16)
    assert "nowhere.ckpt" in task.missing()[0]
    result = task(without_latent(), TinyData())
    assert result.notes == task.missing()
    assert {"fd_pixels"} == {name for name in result.figures if name.startswith("fd_")}
    with pytest.raises(UserError, match=r"generation\.n is 1"):
        Generation([], n=1)


class TwoLogits(Pixels):
    """Pixels with logits, so that there is an Inception Score to compute."""

    def forward(self, images):
        features, _ = super().forward(images)
        return features, features[:, :2]


@pytest.mark.parametrize(
    ("n", "left_out"),
    [
        (2, {"precision_pixels and recall_pixels", "is_pixels"}),
        (3, {"precision_pixels and recall_pixels", "is_pixels"}),
        (7, {"is_pixels"}),
        (10, set()),
    ],
)
def test_a_figure_that_few_samples_make_impossible_is_left_out_and_the_others_are_there(n, left_out):
    data = TinyData(n=64)
    result = Generation([TwoLogits()], n=n)(Oracle(data.train_set.float()), data)
    assert {note.partition(":")[0] for note in result.notes} == left_out
    assert {"fd_pixels", "kd_pixels", "nfe"} <= set(result.figures)
    assert ("is_pixels" in result.figures) is (n >= 10)
    assert ("precision_pixels" in result.figures) is (n > 3)


def test_drawn_samples_are_bytes_in_the_order_drawn():
    images = TinyData(n=8).train_set.float()
    drawn, _ = draw(Oracle(images), 7, batch_size=3)
    assert torch.equal(drawn, TinyData(n=8).train_set.images[:7])


def test_representation_probes_what_the_method_has(tmp_path):
    data = TinyData(n=64)
    task = Representation(epochs=30, tsne=16)
    result = task(liebm(encoder_stage=stage(epochs=0)), data, tmp_path)
    assert set(result.figures) == {"energy/knn", "energy/linear", "encoder/knn", "encoder/linear"}
    assert result.figures["energy/knn"] > 0.9, "blobs in four corners are easy to classify"
    assert all((tmp_path / f"tsne_{name}.png").exists() for name in ("energy", "encoder"))
    assert not task.supports(Oracle(data.train_set.float()))


def test_neighbours_that_few_training_images_do_not_have_are_left_out():
    data = TinyData(n=8)
    result = Representation(epochs=2, neighbours=20, tsne=0)(liebm(encoder_stage=stage(epochs=0)), data)
    assert {note.partition(":")[0] for note in result.notes} == {"energy/knn", "encoder/knn"}
    assert set(result.figures) == {"energy/linear", "encoder/linear"}


def test_result_file_and_scorecard(tmp_path):
    figures = {"nfe": 16.0, "fd_x": 1.23456, "no_mcmc/nfe": 1.0, "no_mcmc/fd_x": math.nan}
    protocol = {"n": 9, "split": "train", "real_images": 50, "weights": "ema"}
    protocol["chains"] = {"full": {"start": "generator", "steps": 15, "temperature": 4e-8}}
    Result("generation", figures, protocol, notes=["beware"]).write(tmp_path)
    stored = json.loads((tmp_path / "generation.json").read_text())
    assert stored["figures"]["no_mcmc/fd_x"] is None
    text = scorecard(tmp_path, ["generation", "absent"])
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}
    assert rows["fd_x"] == ["1.235", "–"]
    assert rows["nfe"] == ["16", "1"]
    assert "15 Langevin steps from generator at temperature 4e-08" in text
    assert "! beware" in text


def test_table_is_aligned():
    lines = table([("a", "1"), ("long name", "22.5")], ("", "value")).splitlines()
    assert len({len(line) for line in lines[1:]}) == 1
    assert lines[-1].endswith("22.5")


def test_tasks_do_not_disturb_the_random_numbers(tmp_path):
    data = TinyData()
    method = liebm(encoder_stage=stage(epochs=0))
    fit = trainer(tmp_path, callbacks=[Generation([Pixels()], n=16)])
    torch.manual_seed(3)
    fit.test(method, data, verbose=False)
    first = torch.rand(1)
    torch.manual_seed(3)
    trainer(tmp_path).test(method, data, verbose=False)
    assert torch.equal(first, torch.rand(1))
    assert (tmp_path / "test" / "generation.json").exists()


def test_settings_are_the_arguments_of_the_task(tmp_path):
    trainer(tmp_path, callbacks=[Generation([Pixels()], n=16)]).test(
        liebm(encoder_stage=stage(epochs=0)), TinyData(), verbose=False
    )
    stored = json.loads((tmp_path / "test" / "generation.json").read_text())["protocol"]["settings"]
    assert set(stored) <= set(inspect.signature(Generation).parameters)
    assert stored["n"] == 16
