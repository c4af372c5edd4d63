"""The guidance task, on methods with samples that are exact functions of class, weight and noise."""

import math
from itertools import combinations

import pytest
import torch
from PIL import Image

from ebmzoo.errors import UserError
from ebmzoo.methods import ClassConditional, Samples
from ebmzoo.metrics import ClassifierFeatures, Pixels
from ebmzoo.report.scorecard import scorecard
from ebmzoo.sampling.langevin import ChainDivergedError
from ebmzoo.tasks import Guidance
from ebmzoo.tasks.guidance import diversity
from support.corners import Corners, Nearest
from support.oracle import Oracle
from support.pictures import cells, rows_and_columns
from support.tiny import TinyData


class Guided(Oracle, ClassConditional):
    """A method whose samples have the requested class from w = 1 on, and the next class below; `noise` is added."""

    classes = 4

    def __init__(self, noise=0.0):
        super().__init__(Corners().images)
        self.noise, self.requested, self.drawn, self.made = noise, {}, {}, {}

    def sample_from_classes(self, labels, *, guidance=0.0, steps=None, generator=None):
        xi = torch.rand(len(labels), 1, 8, 8, generator=generator)
        x = self.images[labels if guidance >= 1 else (labels + 1) % 4] * (1 - self.noise * xi)
        for kept, value in ((self.requested, labels), (self.drawn, xi), (self.made, x)):
            kept.setdefault(guidance, []).append(value)
        return Samples(x, 7 if guidance else 4, "noise", 3, 1.0)


def evaluate(method, folder=None, data=None, **changes):
    changes = {"classifier": Nearest(Corners().images), "weights": (0.0, 1.0, 2.5), "n": 12} | changes
    return Guidance(**changes)(method, data or TinyData(), folder)


def test_accuracy_is_that_of_the_requested_class():
    figures = evaluate(Guided()).figures
    assert [figures[f"w={w}/accuracy"] for w in ("0", "1", "2.5")] == [0, 1, 1]
    assert figures["real/accuracy"] == 1
    assert [figures[f"w={w}/nfe"] for w in ("0", "1", "2.5")] == [4, 7, 7]


def test_classes_cycle_and_all_weights_share_their_noise():
    method = Guided()
    evaluate(method, n=10, batch_size=4)
    for w in (0.0, 1.0, 2.5):
        assert torch.cat(method.requested[w]).tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
        assert torch.equal(torch.cat(method.drawn[w]), torch.cat(method.drawn[0.0])), "one noise for all w"
    every = torch.cat(method.drawn[0.0])
    assert len(every.flatten(1).unique(dim=0)) == 10, "and another for each sample"


def test_diversity_is_the_mean_distance_of_pairs_of_a_class():
    features, labels = torch.tensor([[0.0], [0.0], [1.0], [4.0], [3.0], [9.0]]), torch.tensor([0, 1, 0, 1, 0, 2])
    assert diversity(features, labels) == pytest.approx(((1 + 2 + 3) / 3 + 4) / 2), "a class of one counts for nothing"
    assert math.isnan(diversity(features[:2], labels[:2]))


def test_diversity_of_samples_and_of_as_many_real_images():
    data, method = TinyData(), Guided(noise=0.5)
    figures = evaluate(method, data=data, n=10).figures

    def by_hand(images, labels):
        of_classes = []
        for k in range(4):
            group = images.flatten(1)[labels == k].double()
            pairs = [float((a - b).norm()) for a, b in combinations(group, 2)]
            of_classes.append(sum(pairs) / len(pairs))
        return sum(of_classes) / 4

    samples = (torch.cat(method.made[1.0]) * 127.5 + 127.5).round() / 127.5 - 1
    assert figures["w=1/diversity"] == pytest.approx(by_hand(samples, torch.arange(10) % 4))
    chosen = torch.cat([(data.test_set.labels == k).nonzero()[:3, 0] for k in range(4)])
    real = by_hand(data.test_set.float(chosen), data.test_set.labels[chosen])
    assert figures["real/diversity"] == pytest.approx(real)
    assert evaluate(Guided()).figures["w=1/diversity"] == 0, "one picture a class"


class Copies(Guided):
    """A method whose samples are all training images once from w = 1 on, and only the first image below."""

    def sample_from_classes(self, labels, *, guidance=0.0, **_):
        images = TinyData().train_set.float()
        return Samples(images if guidance >= 1 else images[:1].expand(32, -1, -1, -1), 4, "noise", 3, 1.0)


def test_distance_and_recall_of_each_extractor():
    figures = evaluate(Copies(), n=32, weights=(0.0, 1.0), extractors=[Pixels()]).figures
    assert figures["w=1/fd_pixels"] == pytest.approx(0, abs=1e-6)
    assert figures["w=0/fd_pixels"] > 10
    assert (figures["w=0/recall_pixels"], figures["w=1/recall_pixels"]) == (1 / 32, 1), "the image itself is covered"


class Sure(Nearest):
    """`Nearest` with confident predictions."""

    def forward(self, images):
        features, logits = super().forward(images)
        return features, 100 * logits


def test_inception_scores_of_all_that_have_logits():
    """Samples of all K classes equally have a score of at most K, and samples of one class 1."""
    judge, other = Sure(Corners().images), Sure(Corners().images, name="other")
    figures = evaluate(Guided(), classifier=judge, extractors=[other, Pixels()], n=16).figures
    assert figures["w=1/is_other"] == figures["w=1/is_nearest"]
    assert 1 < figures["w=1/is_other"] <= 4

    class Collapsed(Guided):
        def sample_from_classes(self, labels, **_):
            return super().sample_from_classes(labels * 0, **_)

    assert evaluate(Collapsed(), classifier=judge, n=16).figures["w=1/is_nearest"] == pytest.approx(1)


def test_a_diverged_weight_is_a_note():
    class Diverges(Guided):
        def sample_from_classes(self, labels, *, guidance=0.0, **_):
            if guidance > 2:
                raise ChainDivergedError("left at step 1")
            return super().sample_from_classes(labels, guidance=guidance, **_)

    result = evaluate(Diverges(), extractors=[Pixels()])
    assert result.notes == ["w=2.5/accuracy: left at step 1"]
    assert math.isnan(result.figures["w=2.5/accuracy"])
    assert "w=2.5/fd_pixels" not in result.figures
    assert result.figures["w=1/accuracy"] == 1


def test_pictures_and_table(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("ebmzoo.tasks.guidance.save_lines", lambda *arguments: drawn.append(arguments))
    result = evaluate(Guided(), tmp_path, extractors=[Pixels()], shown=5)
    assert result.pictures == [str(tmp_path / f"{name}.png") for name in ("guidance", "guidance_curves")]
    assert cells(result.pictures[0], 3, 5).shape[:2] == (3, 5), "a row for each w"
    assert rows_and_columns(result.pictures[0], 3) == (["w = 0", "w = 1", "w = 2.5"], ["a", "b", "c", "d", "a"])
    panels, xlabel, _ = drawn[0]
    assert xlabel == "guidance weight w"
    assert [panel.ylabel for panel in panels] == ["FD pixels", "recall pixels", "accuracy", "diversity", "IS nearest"]
    assert panels[2].lines == {"samples": ([0.0, 1.0, 2.5], [0, 1, 1])}
    assert panels[2].levels == {"test images": result.figures["real/accuracy"]}
    assert panels[0].levels == {}, "the distance of the real images to themselves is no figure"
    result.write(tmp_path)
    text = scorecard(tmp_path, ["guidance"])
    rows = {line.split()[0] for line in text.splitlines() if line}
    assert {"w=0", "w=1", "w=2.5", "real"} <= rows
    assert "classifier nearest 0123456789ab" in text


def test_curves_are_drawn(tmp_path):
    result = evaluate(Guided(), tmp_path)
    assert Image.open(result.pictures[1]).size[0] > 300
    assert evaluate(Guided(), tmp_path, weights=(1.0,)).pictures == [str(tmp_path / "guidance.png")], "a curve of one"


def test_unavailable_parts_are_noted(tmp_path):
    task = Guidance(ClassifierFeatures("nowhere.ckpt"), n=8, extractors=[ClassifierFeatures("nowhere.ckpt"), Pixels()])
    assert len(task.missing()) == 1
    result = task(Guided(), TinyData(), tmp_path)
    assert result.notes == task.missing()
    assert "w=0.7/fd_pixels" in result.figures
    assert not any("accuracy" in name or "diversity" in name for name in result.figures)


def test_supported_methods():
    class Without(Guided):
        classes = 0

    task = Guidance(Nearest(Corners().images))
    assert task.supports(Guided())
    assert not task.supports(Without())
    assert not task.supports(Corners())


@pytest.mark.parametrize("wrong", [{"n": 3}, {"batch_size": 0}, {"shown": 0}])
def test_numbers_out_of_range(wrong):
    with pytest.raises(UserError, match=rf"guidance\.{next(iter(wrong))} is {next(iter(wrong.values()))}"):
        Guidance(None, **wrong)


@pytest.mark.parametrize(
    ("weights", "message"),
    [((), "list one or more"), ((1.0, 1), "different weights"), ((-0.5,), "is -0.5; it must be a finite")],
)
def test_impossible_weights(weights, message):
    with pytest.raises(UserError, match=rf"guidance\.weights is .*{message.removeprefix('is ')}"):
        Guidance(None, weights=weights)
