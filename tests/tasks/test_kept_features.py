"""The features of real images are computed once for the tasks of a test, and for the tests of all runs on the data."""

import json

import pytest
import torch

from ebmzoo.commands.cli import main
from ebmzoo.metrics import Pixels
from ebmzoo.tasks import Cost, Generation, Result, Stability
from ebmzoo.tasks.generation import compared
from support.keeping import empty_home
from support.shared import saved_run
from support.tiny import TinyData, liebm, stage

OF = {"n": 20, "extractors": [{"class_path": "ebmzoo.metrics.Pixels"}]}
TASKS = [{"class_path": "ebmzoo.tasks.Generation", "init_args": OF}]
REAL, MADE = 1500 + 20, 20
"""The training images of the digits and as many test images as samples, and the samples."""


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    return empty_home(tmp_path_factory, monkeypatch)


@pytest.fixture
def seen(monkeypatch):
    """The numbers of images of each pass of the pixels."""
    forward, passes = Pixels.forward, []

    def counted(self, images):
        passes.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Pixels, "forward", counted)
    return passes


def total(seen):
    n = sum(seen)
    seen.clear()
    return n


def evaluate(run, *flags):
    main(["test", "--ckpt_path", str(run / "last.ckpt"), "--only", "generation", *flags])
    figures = json.loads((run / "test" / "generation.json").read_text())["figures"]
    return {name: value for name, value in figures.items() if not name.endswith("seconds")}


def test_a_second_test_passes_samples_alone_and_has_the_same_figures(tmp_path, seen, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    config = {"tasks": TASKS, "trainer": {"accelerator": "cpu", "logger": False, **quiet}}
    saved_run(tmp_path / "a", "vae_digits", **config)
    without = evaluate(tmp_path / "a", "--fresh_features")
    assert total(seen) == REAL + MADE
    lines = capsys.readouterr().err.count("\n")
    assert evaluate(tmp_path / "a", "--again") == without
    assert total(seen) == REAL + MADE
    assert evaluate(tmp_path / "a", "--again") == without
    assert total(seen) == MADE
    saved_run(tmp_path / "b", "vae_digits", **config)
    assert evaluate(tmp_path / "b") == without
    assert total(seen) == MADE
    assert evaluate(tmp_path / "b", "--again", "--fresh_features") == without
    assert total(seen) == REAL + MADE
    capsys.readouterr()
    evaluate(tmp_path / "a", "--again")
    assert capsys.readouterr().err.count("\n") == lines, "nothing is printed about it"
    total(seen)
    monkeypatch.setenv("EBMZOO_CACHE", "off")
    assert evaluate(tmp_path / "b", "--again") == without
    assert total(seen) == REAL + MADE


def test_tasks_that_use_the_same_real_images_share_them(seen):
    data, method = TinyData(), liebm(encoder_stage=stage(epochs=0))
    figures = {}
    for task in (
        Generation([Pixels()], n=10),
        Cost(steps=(1, 2), timed=4, repeats=1, n=10, extractors=[Pixels()]),
        Stability(n=8, times=(1,), extractors=[Pixels()]),
    ):
        torch.manual_seed(0)
        figures[task.name] = task(method, data).figures
    real = len(data.train_set)
    assert seen.count(real) == 1
    made = 2 * 10 + 2 * 10 + 8  # of the generation, with and without the chain, of two costs, and of the stability
    assert sum(seen) == real + 10 + made, "10 are of the test images, which the generation compares too"
    assert all(any("fd_pixels" in figure for figure in found) for found in figures.values())


def test_what_is_compared_is_what_is_measured_without(monkeypatch):
    data = TinyData()
    made = {"a": data.test_set.images, "b": 255 - data.test_set.images}

    def distances():
        result = Result("x", protocol={"extractors": {}})
        found = compared(Pixels(), torch.device("cpu"), data.train_set.images, made, 8, result)
        return [of_real.frechet_distance(features) for _, of_real, features, _ in found], result.protocol

    kept = [distances(), distances()]
    monkeypatch.setenv("EBMZOO_CACHE", "off")
    assert kept == [distances()] * 2
