"""Scores with known values, and the protocol of out-of-distribution detection on them."""

import json
import math
from dataclasses import replace
from statistics import mean

import pytest
import torch
from torch import nn

from ebmzoo import data
from ebmzoo.data.datamodule import OutOfDistribution
from ebmzoo.data.image_range import ImageRange
from ebmzoo.errors import UserError
from ebmzoo.methods import Method, Samples
from ebmzoo.methods.base.capabilities import Denoises, HasChain, HasStochasticScore, Reconstructs
from ebmzoo.metrics import aupr, auroc, fpr95
from ebmzoo.metrics.bootstrap import intervals
from ebmzoo.report.histograms import histogram
from ebmzoo.report.scorecard import scorecard
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.tasks import OutOfDistributionDetection
from ebmzoo.tasks.budget import BUDGETS, Budget
from ebmzoo.tasks.ood import Scored
from ebmzoo.tasks.scores import DenoisingGap, EnergyDrop, GradientNorm, ReconstructionError, available_scores
from support.pictures import labels
from support.tiny import (
    SIZE,
    TinyData,
    cdrl,
    denoising_ebm,
    drl,
    dual_mcmc,
    hat_ebm,
    jem,
    liebm,
    mdsm,
    score_network,
    vae,
)


def half_square(x):
    return x.square().flatten(1).sum(1) / 2


class Bowl(Method):
    """E(x) = |x|²/2; its own score is −E."""

    def __init__(self):
        super().__init__()
        self.averages = nn.ModuleDict()
        self.weight = nn.Parameter(torch.zeros(1))

    def trained_networks(self):
        return {}

    def iterate(self, images, labels):
        return {}

    def energy(self, x):
        return half_square(x)

    def ood_score(self, x):
        return -self.energy(x)

    def sample(self, n, *, labels=None, steps=None, generator=None):
        return Samples(torch.zeros(n, 1, SIZE, SIZE), 0, "nothing", 0, math.nan)


class Plain(Bowl):
    """Its own score is E."""

    def ood_score(self, x):
        return self.energy(x)


class Rolling(Bowl, HasChain):
    """With a chain on images in [0, 1]."""

    def __init__(self, step_size=0.1):
        super().__init__()
        self.sampler, self.range = Langevin(50, step_size, noise=3.0), ImageRange(0.0, 1.0)

    def chain_energy(self):
        return half_square


class Halving(Bowl, Reconstructs):
    """G(μ(x)) = x/2."""

    latent = SIZE * SIZE

    def infer(self, x):
        return x.flatten(1)

    def decode(self, z):
        raise AssertionError("inferred latents are restored, not decoded")

    def decode_inferred(self, z):
        return z.view(-1, 1, SIZE, SIZE) / 2


class Keeping(Bowl, Denoises):
    """A denoiser that returns its input."""

    def denoise(self, x, sigma):
        return x


class Chancy(Bowl, HasStochasticScore):
    """Scores that are the energy times each of `signs`."""

    def __init__(self, signs):
        super().__init__()
        self.signs, self.ood_seeds = signs, len(signs)

    def ood_scores(self, x):
        return torch.stack([sign * self.energy(x) for sign in self.signs])

    def ood_score(self, x):
        return self.ood_scores(x).mean(0)


class Grey(OutOfDistribution):
    """`n` images of one grey; with `spread` above 0, of `n` increasing greys from it on."""

    def __init__(self, name, grey, n=5, spread=0):
        self.name, self.grey, self.n, self.spread = name, grey, n, spread

    def load(self, like):
        greys = (self.grey + self.spread * torch.arange(self.n)).view(-1, 1, 1, 1).to(torch.uint8)
        return replace(like.test_set.take([0] * self.n), images=greys.expand(-1, 1, SIZE, SIZE).contiguous())


class Absent(Grey):
    def load(self, like):
        raise UserError("no network: put absent.tar into datasets")


BLACK, MIDDLE = Grey("black", 0), Grey("middle", 127)
"""|x| = 8, above that of every test image, and |x| ≈ 0, below."""


def images(n=6, seed=0):
    return torch.rand(n, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def ask(method, *sets, folder=None, **settings):
    return OutOfDistributionDetection(**{"resamples": 0} | settings)(method, TinyData(ood=list(sets)), folder)


# scores


def test_gradient_norm_of_a_bowl_is_the_distance():
    x = images()
    torch.testing.assert_close(GradientNorm(half_square)(x), x.flatten(1).norm(dim=1))


@pytest.mark.parametrize("steps", [1, 4])
def test_drop_of_a_bowl_is_exact_and_without_the_noise_of_the_chain(steps):
    """On [0, 1] K steps of η lead from u to (1 − η)ᴷ u."""
    x = images()
    drop = EnergyDrop.of(Rolling(step_size=0.1), steps)(x)
    torch.testing.assert_close(drop, half_square((x + 1) / 2) * (1 - 0.9 ** (2 * steps)))


def test_drop_keeps_the_limits_of_the_chain():
    method = Rolling(step_size=0.1)
    method.sampler = replace(method.sampler, bounds=(0.5, 1.0))
    drop = EnergyDrop.of(method, 30)(torch.ones(1, 1, SIZE, SIZE))
    assert drop.item() == pytest.approx((1 - 0.5**2) * SIZE * SIZE / 2), "it ends at the bound"


def test_reconstruction_errors_are_sums_of_squares():
    x = images()
    torch.testing.assert_close(ReconstructionError(Halving())(x), half_square(x) / 2)
    gap = DenoisingGap(Keeping(), 0.5)
    noise = torch.randn(1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gap(x), torch.full((6,), 0.25 * noise.square().sum().item()))
    torch.testing.assert_close(gap(x[4:]), gap(x)[4:])


class Coded(Bowl):
    """An energy of the code of an image under a fixed encoder."""

    def energy(self, x):
        with torch.no_grad():
            code = x.mean((2, 3))
        return code.square().sum(1) * self.weight


@pytest.mark.parametrize(
    ("make", "has"),
    [
        (Bowl, set()),
        (liebm, {"drop"}),
        (dual_mcmc, {"drop", "reconstruction"}),
        (hat_ebm, {"drop"}),
        (jem, {"drop", "confidence"}),
        (vae, {"reconstruction"}),
        (cdrl, set()),
        (drl, set()),
        (denoising_ebm, {"reconstruction"}),
        (score_network, {"reconstruction"}),
        (mdsm, {"reconstruction"}),
    ],
)
def test_methods_have_the_scores_of_what_they_can_do(make, has):
    """The score of an image does not depend on the other images of a batch."""
    method, x = make(), images()
    with method.evaluating():
        scores = available_scores(method, x[:1], drop_steps=2, sigma=0.3)
        assert set(scores) == {"energy", "score", "gradient"} | has
        for name, score in scores.items():
            found = score(x)
            assert found.shape == (6,), name
            assert found.isfinite().all(), name
            torch.testing.assert_close(score(x[2:4]), found[2:4], rtol=1e-3, atol=1e-4)


def test_an_energy_of_codes_has_no_gradient():
    assert set(available_scores(Coded(), images(1), drop_steps=1, sigma=0.3)) == {"energy", "score"}


@pytest.mark.parametrize("make", [cdrl, drl])
def test_the_gradient_of_a_sequence_of_energies_is_that_of_the_lowest_level(make):
    method, x = make(), images()
    with method.evaluating():
        found = available_scores(method, x[:1], drop_steps=1, sigma=0.3)["gradient"](x)
        norms = [GradientNorm(lambda x, level=level: method.energy_at(x, level))(x) for level in (0, 1)]
    torch.testing.assert_close(found, norms[0])
    assert not torch.allclose(found, norms[1])


# the task


def test_sets_are_separated_by_the_known_scores():
    result = ask(Bowl(), BLACK, MIDDLE, Absent("absent", 0))
    for score, right in {"energy": 1, "score": 0, "gradient": 1}.items():
        assert result.figures[f"black/auroc_{score}"] == right
        assert result.figures[f"black/aupr_in_{score}"] == 1 or not right
        assert result.figures[f"black/fpr95_{score}"] == 1 - right
        assert result.figures[f"middle/auroc_{score}"] == 1 - right
    assert result.notes == ["absent: no network: put absent.tar into datasets"]
    assert "data.ood is empty" in ask(Bowl()).notes[0]


def test_figures_and_protocol_are_all_that_is_promised():
    result = ask(Bowl(), BLACK, n=9)
    names = {f"{metric}_{score}" for metric in ("auroc", "aupr", "aupr_in", "fpr95") for score in SHOWN}
    assert set(result.figures) == {f"{row}/{name}" for row in ("black", "far") for name in names}
    expected = {"in": "tiny", "in_images": 9, "out_images": {"black": 5}, "kinds": {"black": "far"}}
    assert result.protocol == expected | {
        "scores": dict(zip(SHOWN, ("E(x)", "the method's own", "|∇E(x)|"), strict=True))
    }
    assert set(ask(Bowl(), BLACK, scores=["gradient"]).histograms) == {"black/gradient"}


SHOWN = ("energy", "score", "gradient")


def test_figures_are_the_metrics_of_the_scores_in_batches_of_any_size():
    sets = Grey("greys", 20, n=11, spread=21)
    inside, outside = (half_square(x) for x in (TinyData().test_set.float(), sets.load(TinyData()).float()))
    for batch_size in (3, 100):
        figures = ask(Bowl(), sets, batch_size=batch_size).figures
        for name, metric in {"auroc": auroc, "aupr": aupr, "fpr95": fpr95}.items():
            assert figures[f"greys/{name}_energy"] == pytest.approx(metric(inside, outside))
            assert 0 < figures[f"greys/{name}_energy"] < 1


def test_the_spread_of_a_score_over_seeds_is_reported():
    result = ask(Chancy((3.0, -1.0, 0.0)), BLACK, batch_size=3)
    # alone, the first seed is always right, the second always wrong and the third blind; their mean is always right
    assert result.protocol["auroc_score_of_seeds"] == {"black": [1.0, 0.0, 0.5]}
    assert result.figures["black/auroc_score_std"] == pytest.approx(0.5, abs=1e-12)
    assert result.figures["black/auroc_score"] == 1
    assert result.figures["black/fpr95_score"] == 0
    assert "far/auroc_score_std" not in result.figures
    one = ask(Chancy((-1.0,)), BLACK)
    assert one.protocol["auroc_score_of_seeds"] == {"black": [0.0]}
    assert "black/auroc_score_std" not in one.figures, "one seed has no spread"


def test_near_and_far_are_means_over_their_sets():
    sets = [BLACK, MIDDLE, Grey("greys", 20, n=11, spread=21), data.InterpolatedImages(offset=3)]
    result = ask(Bowl(), *sets, near=["black", "greys"])
    assert result.protocol["kinds"] == {"black": "near", "middle": "far", "greys": "near", "interpolation": "far"}
    for name in ("auroc_energy", "fpr95_score", "aupr_gradient"):
        of = {source.name: result.figures[f"{source.name}/{name}"] for source in sets}
        assert result.figures[f"near/{name}"] == pytest.approx(mean([of["black"], of["greys"]])), name
        assert result.figures[f"far/{name}"] == pytest.approx(mean([of["middle"], of["interpolation"]])), name
    assert ask(Bowl(), *sets).protocol["kinds"]["interpolation"] == "near"
    with pytest.raises(UserError, match=r"ood\.near has 'blak', which is not a set of data\.ood: black"):
        ask(Bowl(), BLACK, near=["blak"])


def test_sets_know_what_they_are_near_to():
    kinds = [kind for kind in vars(data).values() if isinstance(kind, type) and issubclass(kind, OutOfDistribution)]
    near = {"CIFAR-10": "CIFAR-100", "CIFAR-100": "CIFAR-10", "MNIST": "Fashion-MNIST", "Fashion-MNIST": "MNIST"}
    like = TinyData()
    for kind in kinds:
        if kind in (OutOfDistribution, data.InterpolatedImages) or getattr(kind, "__abstractmethods__", None):
            continue
        for like.name in ("CIFAR-10", "CIFAR-100", "MNIST", "Fashion-MNIST", "SVHN", "digits"):
            assert kind.is_near(kind, like) == (near.get(like.name) == getattr(kind, "name", "")), (kind, like.name)
    assert data.InterpolatedImages().is_near(like)


def test_intervals_are_in_the_protocol_of_every_figure_of_a_set():
    sets = Grey("greys", 20, n=11, spread=21)
    result = ask(Bowl(), sets, resamples=40, level=0.8)
    inside, outside = (half_square(x) for x in (TinyData().test_set.float(), sets.load(TinyData()).float()))
    stored = result.protocol["intervals"]
    assert (stored.pop("level"), stored.pop("resamples")) == (0.8, 40)
    assert set(stored) == {name for name in result.figures if name.startswith("greys/")}
    for metric, ends in intervals(inside.double(), outside.double(), 40, 0.8).items():
        assert stored[f"greys/{metric}_energy"] == list(ends), metric


def test_halves_share_no_image():
    scores = torch.arange(11.0)
    first, second = Scored({"energy": scores, "score": -scores}, scores[None]).halves()
    assert (len(first["energy"]), len(second["energy"])) == (5, 6)
    assert torch.equal(torch.cat([first["energy"], second["energy"]]).sort().values, scores)
    for half in (first, second):
        assert set(half) == {"energy", "score"}
        assert torch.equal(half["energy"], -half["score"])


def test_a_score_is_chosen_on_one_half_and_evaluated_on_the_other():
    sets, tiny = [BLACK, Grey("dark", 10, n=8, spread=1)], TinyData()
    energies = {"in": half_square(tiny.test_set.float())} | {s.name: half_square(s.load(tiny).float()) for s in sets}
    halves = {name: Scored({"energy": e}).halves() for name, e in energies.items()}
    result = ask(Bowl(), *sets, choose="auroc")
    chosen = result.protocol["chosen"]
    assert chosen["score"] == "energy"
    assert chosen["chosen_on"] == {"in": 8, "black": 2, "dark": 4}
    assert chosen["reported_on"] == {"in": 8, "black": 3, "dark": 4}
    assert chosen["mean_auroc"] == {"energy": 1, "score": 0, "gradient": 1}
    greys = Grey("greys", 20, n=11, spread=21)
    by, reported = (Scored({"energy": half_square(greys.load(tiny).float())}).halves()[k]["energy"] for k in (0, 1))
    result = ask(Bowl(), greys, choose="auroc", scores=["energy"])
    assert result.protocol["chosen"]["mean_auroc"]["energy"] == pytest.approx(auroc(halves["in"][0]["energy"], by))
    expected = auroc(halves["in"][1]["energy"], reported)
    assert result.figures["greys/auroc_chosen"] == result.figures["far/auroc_chosen"] == pytest.approx(expected)
    assert expected != pytest.approx(result.figures["greys/auroc_energy"])


class Halved(Bowl):
    """Its own score is right for images of the greys `right`, and wrong for others except those of the data."""

    def __init__(self, right, wrong):
        super().__init__()
        self.right, self.wrong = right, wrong

    def ood_score(self, x):
        grey = ((x.flatten(1).mean(1) + 1) * 127.5).round()
        return 1.0 * torch.isin(grey, self.right) - 1.0 * torch.isin(grey, self.wrong)


def test_what_is_reported_does_not_choose():
    """The own score is right on the half that chooses and wrong on the other; E is the opposite, and is not chosen."""
    greys = Grey("greys", 200, n=8, spread=1)  # none has the mean of a test image
    first, second = (half["grey"] for half in Scored({"grey": torch.arange(200.0, 208.0)}).halves())
    for right, wrong, best in ((first, second, "score"), (second, first, "energy")):
        result = ask(Halved(right, wrong), greys, choose="auroc", scores=["energy", "score"])
        assert result.protocol["chosen"]["mean_auroc"]["score"] == (1 if best == "score" else 0)
        assert result.protocol["chosen"]["score"] == best
        assert result.figures["greys/auroc_score"] == 0.5
    assert ask(Halved(first, second), greys, choose="auroc", scores=["score"]).figures["greys/auroc_chosen"] == 0


def test_too_few_images_to_choose_a_score_are_noted():
    result = ask(Bowl(), Grey("one", 0, n=1), choose="auroc")
    assert "cannot be halved" in result.notes[0]
    assert not any("chosen" in name for name in result.figures)


def test_a_chain_that_diverges_costs_its_score_alone():
    result = ask(Rolling(step_size=1e30), Grey("white", 255))
    assert [note.partition(":")[0] for note in result.notes] == ["tiny/drop", "white/drop"]
    assert result.figures["white/auroc_energy"] == 1
    assert not any("drop" in name for name in result.figures)


class Undefined(Bowl):
    """Its own score is NaN for a black image."""

    def ood_score(self, x):
        return torch.where(x.flatten(1).mean(1) == -1, math.nan, self.energy(x))


def test_a_score_that_is_not_finite_is_skipped_in_its_set_and_in_the_means():
    result = ask(Undefined(), BLACK, MIDDLE)
    assert result.notes == ["black/score: 5 of 5 out-of-distribution scores are NaN, which have no rank"]
    assert {"black/auroc_energy", "middle/auroc_score", "far/auroc_energy"} <= set(result.figures)
    assert not {"black/auroc_score", "far/auroc_score"} & set(result.figures), "a mean over fewer sets would mislead"


def test_histograms_and_pictures_of_every_set(tmp_path):
    result = ask(Plain(), BLACK, Grey("a-b", 40, n=7, spread=9), folder=tmp_path, bins=6)
    assert set(result.histograms) == {
        f"{name}/{score}" for name in ("black", "a-b") for score in ("energy", "gradient")
    }
    for name, counts in result.histograms.items():
        assert len(counts["edges"]) == 7, name
        assert (sum(counts["in"]), sum(counts["out"])) == (16, 5 if "black" in name else 7), name
    assert result.pictures == [str(tmp_path / "ood_black.png"), str(tmp_path / "ood_a-b.png")]
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("ood_black.png", "ood_a-b.png"))
    named = {"density", "score, higher is farther out", "black"}
    assert named <= set(labels(tmp_path / "ood_black.png"))
    assert ask(Plain(), BLACK).pictures == []
    assert "black/score" in ask(Bowl(), BLACK).histograms, "shown where it is not the energy"


def test_histograms_count_what_lies_beyond_in_the_last_bins():
    counts = histogram({"in": [*range(1000), 1e9], "out": [-math.inf, 0, 5, math.inf]}, bins=10)
    assert counts["edges"][0] >= 0
    assert counts["edges"][-1] < 1000
    assert (sum(counts["in"]), sum(counts["out"])) == (1001, 4)
    assert counts["in"][1:-1] == pytest.approx([100] * 8, abs=1)
    assert (counts["out"][0], counts["out"][-1]) == (3, 1)
    one = histogram({"in": [2.0, 2.0], "out": [2.0]}, bins=4)
    assert sum(one["in"]) == 2
    assert one["edges"][0] < 2 < one["edges"][-1]
    with pytest.raises(UserError, match="out has no finite number"):
        histogram({"in": [1.0], "out": [math.inf]})


def test_the_scorecard_has_a_table_for_each_metric_with_intervals(tmp_path):
    sets = Grey("greys", 20, n=11, spread=21)
    result = ask(Bowl(), sets, resamples=20, near=["greys"], choose="auroc")
    result.write(tmp_path)
    card = scorecard(tmp_path, ["ood"])
    low, high = result.protocol["intervals"]["greys/auroc_energy"]
    assert f"{result.figures['greys/auroc_energy']:.4g} [{low:.3g}, {high:.3g}]" in card
    heads = [line.split() for line in card.splitlines() if "_energy" in line]
    assert heads == [[f"{m}_{s}" for s in (*SHOWN, "chosen")] for m in ("auroc", "aupr", "aupr_in", "fpr95")]
    assert "near: greys; chosen: " in card
    assert "95% intervals of 20 resamples" in card
    assert json.loads((tmp_path / "ood.json").read_text())["protocol"]["intervals"]["resamples"] == 20


def test_budgets_and_impossible_settings():
    task = OutOfDistributionDetection.standard([])
    assert task is not None
    task.apply_budget(BUDGETS["quick"])
    assert (task.n, task.resamples) == (250, 250)
    few = OutOfDistributionDetection(resamples=0)
    few.apply_budget(Budget("b", share=0.1))
    assert (few.n, few.resamples) == (10_000, 0)
    impossible = {"n": 0, "batch_size": 0, "drop_steps": 0, "bins": 0, "resamples": -1, "sigma": 0, "level": 1}
    for key, value in impossible.items():
        with pytest.raises(UserError, match=rf"ood\.{key} is {value}"):
            OutOfDistributionDetection(**{key: value})
    with pytest.raises(UserError, match=r"ood\.scores has 'enery'; it must be one of energy, score"):
        OutOfDistributionDetection(scores=["enery"])
