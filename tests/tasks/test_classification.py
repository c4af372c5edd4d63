"""The task on a classifier whose probabilities are known, on every model that classifies, and in the scorecard."""

import json
import math

import pytest
import torch

from ebmzoo.commands.cli import main
from ebmzoo.errors import UserError
from ebmzoo.methods import Classifies
from ebmzoo.metrics import Classifier
from ebmzoo.report.comparison.figures import known
from ebmzoo.report.scorecard import scorecard
from ebmzoo.tasks import Classification
from ebmzoo.tasks.budget import BUDGETS
from ebmzoo.tasks.suite import suite
from support.oracle import Oracle
from support.tiny import TinyData, jem, trainer, vae

CORNERS = [(slice(4 * (k // 2), 4 * (k // 2) + 4), slice(4 * (k % 2), 4 * (k % 2) + 4)) for k in range(4)]


class Corners(Oracle, Classifies):
    """Logits s · (mean of the k-th corner): of the tiny data, whose class k is bright there."""

    classes = 4

    def __init__(self, s=2.0, classes=4):
        super().__init__(TinyData().train_set.float())
        self.s, self.classes = s, classes

    def class_logits(self, x):
        return self.s * torch.stack([x[:, 0, rows, columns].mean((1, 2)) for rows, columns in CORNERS], dim=1)


def figures(method=None, **changes):
    settings = {"linf": (), "l2": (), "sigma": 0.0} | changes
    torch.manual_seed(0)
    return Classification(**settings)(method or Corners(), TinyData()).figures


def test_figures_are_those_of_the_probabilities():
    test, s = TinyData().test_set, 3.0
    found = figures(Corners(s))
    p = Corners(s).class_logits(test.float()).softmax(1).double()
    assert found["clean/accuracy"] == 1
    right = p[torch.arange(16), test.labels]
    assert found["clean/nll"] == pytest.approx(float(-right.log().mean()), rel=1e-5)
    assert math.floor(20 * float(right.min())) == math.floor(20 * float(right.max())), "one bin"
    assert found["clean/ece"] == pytest.approx(1 - float(right.mean()), abs=1e-5)
    worst = figures(Corners(-s))
    assert worst["clean/accuracy"] == 0


def test_noise_is_of_the_size_that_is_asked_for_and_not_clamped():
    seen = []

    class Watched(Corners):
        def class_logits(self, x):
            seen.append(x)
            return super().class_logits(x)

    found = figures(Watched(), sigma=2.0)
    assert float((seen[1] - seen[0]).std()) == pytest.approx(2.0, abs=0.1)
    assert float(seen[1].abs().max()) > 2
    assert found["noised/nll"] > found["clean/nll"]
    assert found["clean/nll"] == figures()["clean/nll"]


def test_what_withstands_is_what_the_margins_say():
    """Corners are brighter by 150 levels: ±r in all pixels loses where 2r ≥ the difference of the two means."""
    test = TinyData().test_set
    means = torch.stack([test.images[:, 0, r, c].float().mean((1, 2)) for r, c in CORNERS], dim=1).sort(1).values
    margin = means[:, 3] - means[:, 2]
    middle = round(float(margin.sort().values[7:9].mean()) / 2, 3)
    radii = (1.0, middle, 100.0)
    found = figures(linf=radii, steps=10)
    for r in radii:
        assert found[f"linf={r:g}_of_255/accuracy"] == float((margin > 2 * r).double().mean())
    # ℓ₂ is smallest with −t on 16 pixels and t on 16 others, r = t √32 on [0, 1]; raising all others takes 1.22 r
    needed = margin / 2 / 255 * math.sqrt(32)
    less, more = round(0.99 * float(needed.min()), 3), round(1.6 * float(needed.max()), 3)
    found = figures(Corners(20.0), l2=(less, more), steps=30)
    assert (found[f"l2={less:g}/accuracy"], found[f"l2={more:g}/accuracy"]) == (1, 0)


def test_counts_are_limited_and_budgets_reduce_them():
    torch.manual_seed(0)
    result = Classification(n=9, attacked=4, linf=(1.0,), l2=())(Corners(), TinyData())
    assert result.protocol["images"] == 9
    assert result.protocol["attack"]["images"] == 4
    (quick,) = suite([Classification(attacked=100)], Corners(), TinyData(), BUDGETS["quick"], ["classification"])
    assert (quick.n, quick.attacked) == (250, 25)
    (none,) = suite([Classification(attacked=0)], Corners(), TinyData(), BUDGETS["quick"], ["classification"])
    assert none.attacked == 0
    assert "attack" not in Classification(attacked=0)(Corners(), TinyData()).protocol


def test_batches_do_not_change_figures():
    whole, parts = (figures(linf=(40.0,), batch_size=size) for size in (100, 3))
    assert whole == pytest.approx(parts)


def test_classes_that_do_not_fit_are_a_note():
    for model, words in ((Corners(classes=3), "4 classes, but the model has 3"), (_classifier(3), "has 3")):
        result = Classification()(model, TinyData())
        assert not result.figures
        assert words in result.notes[0]
    assert "nothing to classify" in Classification()(Corners(), TinyData(kinds=1)).notes[0]
    other = _classifier(4)
    other.classes = ("b", "a", "c", "d")
    assert "was trained with b, a, c, d" in Classification()(other, TinyData()).notes[0]


def _classifier(classes):
    torch.manual_seed(0)
    return Classifier(in_channels=1, size=8, num_classes=classes, width=4, blocks=[1, 1], crop_padding=0, flip=False)


@pytest.mark.parametrize("make", [jem, lambda: _classifier(4)])
def test_models_are_left_as_they_were(make, tmp_path):
    model = make()
    model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    result = Classification(linf=(2.0,), l2=(0.1,), steps=2)(model, TinyData(), tmp_path)
    assert result.notes == []
    assert {"clean/ece", "noised/nll", "linf=2_of_255/accuracy", "l2=0.1/accuracy"} <= set(result.figures)
    assert result.figures["linf=2_of_255/accuracy"] <= result.figures["clean/accuracy"]
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for name, p in model.named_parameters() if "averages" not in name)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
    assert all((tmp_path / f"{name}.png").exists() for name in ("reliability", "robustness"))


def test_only_models_that_classify_are_asked():
    assert not Classification().fits(vae(), TinyData())
    assert "classification" in [task.name for task in suite([], jem(), TinyData(), BUDGETS["standard"])]
    assert [task.name for task in suite([], _classifier(4), TinyData(), BUDGETS["standard"])] == ["classification"]


def test_a_classifier_is_tested_by_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.chdir(tmp_path)
    main(["fit", "--config", "classifier_digits", "--run_dir", "run", "--trainer.max_steps", "2"])
    flags = ["--trainer.accelerator", "cpu", "--budget", "quick"]
    main(["test", "--ckpt_path", "run/last.ckpt", *flags])
    told = capsys.readouterr().out
    stored = json.loads((tmp_path / "run" / "test" / "classification.json").read_text())
    assert stored["protocol"]["weights"] == "raw"
    assert set(stored["protocol"]["sets"]) == {"test"}
    for row in ("clean", "noised", "linf=8_of_255", "l2=0.5"):
        assert row in told
    assert "250 images attacked by 20 steps of projected gradient descent" in " ".join(told.split())
    assert "20 bins of the confidence" in scorecard(tmp_path / "run" / "test", ["classification"])


def test_a_trained_method_is_tested_with_its_averages(tmp_path):
    method = jem(ema_decay=0.5)
    task = Classification(linf=(), l2=())
    fit = trainer(tmp_path, callbacks=[task])
    fit.test(method, TinyData(), verbose=False)
    stored = json.loads((tmp_path / "test" / "classification.json").read_text())
    assert stored["protocol"]["weights"] == "ema"
    assert float(fit.callback_metrics["test/classification/clean/nll"]) == pytest.approx(stored["figures"]["clean/nll"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n": 0}, "n is 0"),
        ({"bins": 0}, "bins is 0"),
        ({"attacked": -1}, "attacked is -1"),
        ({"steps": 0}, "steps is 0"),
        ({"sigma": -1.0}, "sigma is -1"),
        ({"linf": (1.0, 1.0)}, "linf is"),
        ({"l2": (0.0,)}, "l2 is"),
    ],
)
def test_numbers_out_of_range_are_refused(changes, words):
    with pytest.raises(UserError, match=rf"classification\.{words}"):
        Classification(**changes)


def test_comparisons_know_which_values_are_better():
    assert known("classification/clean/accuracy") == ("classification accuracy clean", "higher")
    assert known("classification/clean/ece")[1] == known("classification/noised/nll")[1] == "lower"
