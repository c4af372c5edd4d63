"""The stability task: long chains on energies with known chains."""

import json
import math

import pytest
import torch
from torch import nn

from ebmzoo.data.images import to_float, to_uint8
from ebmzoo.errors import UserError
from ebmzoo.methods import Method, Samples
from ebmzoo.methods.base.capabilities import RunsChain
from ebmzoo.methods.baselines import ShortRunEBM
from ebmzoo.metrics import ClassifierFeatures, Pixels, extract, frechet_distance
from ebmzoo.report.scorecard import scorecard
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.tasks import Stability
from ebmzoo.tasks.budget import BUDGETS
from support.pictures import cells, labels, rows_and_columns
from support.tiny import SIZE, TinyData, cdrl, cooperative, coopnets, denoising_ebm, drl, dual_mcmc, hat_ebm, liebm, vae


class Quadratic(Method, RunsChain):
    """E = |x|²/2, with chains from N(0, `start`² I)."""

    def __init__(self, sampler, start=1.0):
        super().__init__()
        self.averages, self.weight = nn.ModuleDict(), nn.Parameter(torch.zeros(1))
        self.sampler, self.spread = sampler, start

    def trained_networks(self):
        return {}

    def iterate(self, images, labels):
        return {}

    def energy(self, x):
        return x.square().flatten(1).sum(1) / 2

    @property
    def chain_steps(self):
        return self.sampler.steps

    def long_chain(self, n, steps, *, generator=None):
        x0 = self.spread * torch.randn(n, 1, SIZE, SIZE, generator=generator)
        return "noise", self.sampler.lasting(steps).path(self.energy, x0, generator=generator)

    def sample(self, n, *, labels=None, steps=None, generator=None):
        *_, x = self.long_chain(n, self.sampler.steps if steps is None else steps)[1]
        return Samples(x, self.sampler.steps, "noise", self.sampler.steps, self.sampler.temperature)


def evaluate(method, folder=None, **changes):
    torch.manual_seed(0)
    return Stability(**{"n": 20, "times": (1, 3)} | changes)(method, TinyData(n=64), folder)


def test_energies_and_displacements_follow_the_law_at_every_multiple():
    """Without noise x_k = (1 − η)ᵏ x₀."""
    result = evaluate(Quadratic(Langevin(4, 0.1, noise=0.0)), times=(1, 2, 5), batch_size=8)
    figures, start = result.figures, result.curves["energy"][0]
    rms = math.sqrt(2 * start / SIZE**2)
    for k in (1, 2, 5):
        assert figures[f"times_{k}/energy"] == pytest.approx(start * 0.9 ** (8 * k), rel=1e-4)
        assert figures[f"times_{k}/displacement"] == pytest.approx((1 - 0.9 ** (4 * k)) * rms, rel=1e-4)
        assert figures[f"times_{k}/nfe"] == 4 * k
        assert result.protocol["chains"][f"times_{k}"] == {"start": "noise", "steps": 4 * k, "temperature": 0}
    assert result.curves["energy"] == pytest.approx([start * 0.9 ** (2 * k) for k in range(21)], rel=1e-4)
    assert result.curves["step"] == list(range(21))


def test_distances_are_those_of_the_states():
    data, method = TinyData(n=64), Quadratic(Langevin(2, 0.3, noise=0.0))
    figures = evaluate(method, extractors=[Pixels()], n=40).figures
    torch.manual_seed(0)
    method.sample(1)
    with torch.no_grad():
        x0 = torch.randn(40, 1, SIZE, SIZE)
    real, _ = extract(Pixels(), data.train_set.images)
    for k in (1, 3):
        law = frechet_distance(real, to_float(to_uint8(0.7 ** (2 * k) * x0)).flatten(1))
        assert figures[f"times_{k}/fd_pixels"] == pytest.approx(law, rel=1e-3), k
    compare = to_float(data.train_set.images[:40])
    assert figures["real/energy"] == pytest.approx(method.energy(compare).mean().item(), rel=1e-5)


def test_a_stationary_chain_agrees_and_has_the_sample_size_of_its_law():
    """x is autoregressive with a = 1 − η, and x² with a²: S states have the effective size (1 − a²)/(1 + a²) S."""
    eta = 0.2
    a = 1 - eta
    stationary = math.sqrt(2 * eta / (1 - a**2))
    result = evaluate(Quadratic(Langevin(100, eta), stationary), times=(1, 10), n=60)
    figures = result.figures
    assert figures["r_hat"] == pytest.approx(1, abs=0.01)
    assert figures["states"] == 60 * 500
    assert figures["ess"] / figures["states"] == pytest.approx((1 - a**2) / (1 + a**2), rel=0.1)
    assert figures["times_10/energy"] == pytest.approx(SIZE**2 * stationary**2 / 2, rel=0.03)


def test_chains_that_keep_their_starts_do_not_agree():
    figures = evaluate(Quadratic(Langevin(10, 1e-6)), times=(1, 4), n=20).figures
    assert figures["r_hat"] > 2
    assert figures["ess"] < figures["states"] / 4


def test_the_trace_is_thinned_evenly():
    result = evaluate(Quadratic(Langevin(30, 0.1, noise=0.0)), times=(1, 100), n=2, shown=1)
    assert result.protocol["trace"] == "500 energies per chain, every 3 steps of the second half of 3000"
    assert len(result.curves["step"]) == 1001
    assert result.figures["states"] == 1000


def test_a_chain_that_diverges_keeps_what_was_before():
    # |1 − η| = 3 leaves fp32 near step 80
    result = evaluate(Quadratic(Langevin(20, 4.0, noise=0.0)), times=(1, 10), extractors=[Pixels()], n=6, batch_size=3)
    assert "became infinite or NaN at step" in result.notes[0]
    assert math.isfinite(result.figures["times_1/energy"])
    assert "times_1/fd_pixels" in result.figures
    assert math.isnan(result.figures["times_10/energy"])
    assert math.isnan(result.figures["times_10/displacement"])
    assert "times_10/fd_pixels" not in result.figures
    assert "r_hat" not in result.figures


def test_multiples_over_the_limit_are_skipped_and_recorded():
    result = evaluate(Quadratic(Langevin(5, 0.1)), times=(1, 2, 10), n=10, limit=100)
    assert "times_2/energy" in result.figures
    assert not any(name.startswith("times_10") for name in result.figures)
    assert result.protocol["left_out"] == "times 10 skipped: over 100 steps of all chains together"
    assert "left_out" not in evaluate(Quadratic(Langevin(5, 0.1)), times=(1, 2, 10), n=10, limit=None).protocol
    assert evaluate(Quadratic(Langevin(5, 0.1)), n=10, limit=1).figures.keys() == {"real/energy"}


# ── methods ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def short_run():
    return ShortRunEBM(**cooperative("energy_net", "sampler") | {"in_channels": 1, "size": SIZE})


@pytest.mark.parametrize("made", [liebm, dual_mcmc, coopnets, hat_ebm, short_run])
def test_a_long_chain_ends_where_the_method_samples(made):
    """The chain of `chain_steps` is that of `sample`, for methods without augmentations on the way."""
    method = made()
    sampled = method.sample(3, generator=torch.Generator().manual_seed(4))
    with method.evaluating():
        start, states = method.long_chain(3, method.chain_steps, generator=torch.Generator().manual_seed(4))
        states = list(states)
    assert (start, len(states)) == (sampled.start, 1 + method.chain_steps)
    torch.testing.assert_close(states[-1], sampled.images, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("made", [cdrl, drl])
def test_levels_keep_the_step_size_of_training(made):
    """One multiple is `sample` with the chain of training; larger ones have more steps, not shorter ones."""
    method = made()
    chain, seen = method.chain, []
    for times in (1, 3):
        longer = method.sample_longer(2, times, generator=torch.Generator().manual_seed(1))
        assert longer.steps == times * method.schedule.levels * chain.steps
        seen.append(longer.images)
    once = method.sample(2, steps=chain.steps, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(seen[0], once.images)
    shorter = method.sample(2, steps=3 * chain.steps, generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(seen[1], shorter.images)
    longer_chain = type(chain)(3 * chain.steps, chain.variance, chain.grow, chain.noise)
    method.chain = longer_chain
    # with a chain of that many steps from the start, unit and step size are those of the shorter one
    same = method.sample(2, steps=3 * chain.steps, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(seen[1], same.images)


def test_levels_are_sampled_again_for_each_multiple():
    result = evaluate(cdrl(), n=4, times=(1, 2), limit=None, extractors=[Pixels()])
    assert set(result.figures) == {
        *(f"times_{k}/{name}" for k in (1, 2) for name in ("energy", "nfe", "fd_pixels")),
        "real/energy",
    }
    steps = [result.protocol["chains"][f"times_{k}"]["steps"] for k in (1, 2)]
    assert steps[1] == 2 * steps[0]


def test_supported_methods():
    task = Stability()
    for made in (liebm, dual_mcmc, cdrl, hat_ebm, short_run):
        assert task.supports(made()), made
    for made in (vae, denoising_ebm):
        assert not task.supports(made()), made
    assert not task.supports(Quadratic(Langevin(0, 0.1)))


def test_file_pictures_and_table(tmp_path):
    result = evaluate(Quadratic(Langevin(10, 0.1)), tmp_path, extractors=[ClassifierFeatures("nowhere.ckpt")], shown=3)
    assert "nowhere.ckpt" in result.notes[0]
    assert result.pictures == [str(tmp_path / f"{name}.png") for name in ("stability", "stability_energy")]
    assert cells(result.pictures[0], 3, 3).shape[:2] == (3, 3)
    columns = ["start", "times 1", "times 3"]
    assert rows_and_columns(result.pictures[0], 3) == (["chain 1", "chain 2", "chain 3"], columns)
    assert {"mean energy E(x)", "Langevin step", "real images"} <= set(labels(result.pictures[1]))
    json.loads(result.write(tmp_path).read_text())
    text = scorecard(tmp_path, ["stability"])
    assert "times_3: 30 Langevin steps from noise at temperature 1" in text
    rows = {line.split()[0] for line in text.splitlines() if line}
    assert {"times_1", "times_3", "real", "r_hat", "ess"} <= rows


def test_budgets_and_mistakes():
    task = Stability()
    task.apply_budget(BUDGETS["quick"])
    assert task.n == 25
    for wrong, message in (
        ({"times": ()}, r"stability\.times is \[\]"),
        ({"times": (10, 1)}, r"stability\.times is \[10, 1\]; it must be increasing"),
        ({"n": 1}, r"stability\.n is 1"),
        ({"limit": 0}, r"stability\.limit is 0"),
    ):
        with pytest.raises(UserError, match=message):
            Stability(**wrong)
