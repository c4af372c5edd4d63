"""The likelihood task: its bounds against exact likelihoods, and its notes."""

import json
import math

import pytest
import torch
from torch import nn

from ebmzoo.data import GaussianMixture
from ebmzoo.data.image_range import dequantized
from ebmzoo.errors import UserError
from ebmzoo.methods import LIEBMElbo, Method, Samples
from ebmzoo.methods.base.capabilities import DecodesGaussian
from ebmzoo.report.scorecard import scorecard
from ebmzoo.sampling.ais import LogZ, Weights
from ebmzoo.sampling.importance import importance_bound, log_normal
from ebmzoo.sampling.posterior import PosteriorSampler
from ebmzoo.tasks import Likelihood, Result
from ebmzoo.tasks.budget import BUDGETS
from ebmzoo.tasks.likelihood import bits_per_dimension
from support.tiny import SIZE, TinyData, cdrl, denoising_ebm, dual_mcmc, liebm, triangle, vae

D = SIZE**2


class Known(Method):
    """A method with any energy, and samples from `draw` at a temperature."""

    def __init__(self, energy, draw, temperature=1.0):
        super().__init__()
        self.averages, self.weight = nn.ModuleDict(), nn.Parameter(torch.zeros(1))
        self.of, self.draw, self.temperature = energy, draw, temperature

    def trained_networks(self):
        return {}

    def iterate(self, images, labels):
        return {}

    def energy(self, x):
        return self.of(x)

    def sample(self, n, *, labels=None, steps=None, generator=None):
        return Samples(self.draw(n), 5, "noise", 5, self.temperature)


class Uniform(Known):
    """E = 3 everywhere, and samples uniform on the box."""

    def __init__(self, **changes):
        super().__init__(
            lambda x: 3 + 0 * x.flatten(1).sum(1), lambda n: 2 * torch.rand(n, 1, SIZE, SIZE) - 1, **changes
        )


class LinearDecoder(Known, DecodesGaussian):
    """x = cQz + σε with QᵀQ = I, so that p(x) and q(z|x) = p(z|x) are known; `off` moves q's mean from it."""

    latent = 3
    has_density = False

    def __init__(self, c=0.5, sigma=0.3, off=0.0):
        super().__init__(None, None)
        generator = torch.Generator().manual_seed(0)
        self.q, _ = torch.linalg.qr(torch.randn(D, 3, generator=generator, dtype=torch.float64))
        self.c, self.sigma, self.off = c, sigma, off
        self.precision = 1 + c**2 / sigma**2

    def decode(self, z):
        return (self.c * z.double() @ self.q.T).view(-1, 1, SIZE, SIZE)

    @property
    def decoder_sigma(self):
        return self.sigma

    def inferred(self, x):
        mu = self.c / self.sigma**2 * x.double().flatten(1) @ self.q / self.precision
        return mu + self.off, torch.full_like(mu, -math.log(self.precision))

    def infer(self, x):
        return self.inferred(x)[0]

    def log_likelihood(self, x):
        covariance = self.c**2 * self.q @ self.q.T + self.sigma**2 * torch.eye(D, dtype=torch.float64)
        zero = torch.zeros(D, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(zero, covariance).log_prob(x.double().flatten(1))


def evaluate(method, data=None, **changes):
    torch.manual_seed(0)
    small = {"images": 16, "temperatures": 4, "chains": 8, "settle": 2, "samples": 4}
    return Likelihood(**small | changes)(method, data or TinyData())


# ── energies ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_uniform_density_takes_eight_bits_a_pixel():
    figures = evaluate(Uniform()).figures
    for side in ("lower", "upper"):
        assert figures[f"temperature_1/log_z_{side}"] == pytest.approx(D * math.log(2) - 3, abs=1e-3)
        assert figures[f"temperature_1/log_likelihood_{side}"] == pytest.approx(-D * math.log(2), abs=1e-3)
        assert figures[f"temperature_1/bits_per_dimension_{side}"] == pytest.approx(8, abs=1e-4)
    assert figures["temperature_1/ess_forward"] == pytest.approx(8, rel=1e-3)
    assert not any(name.startswith("temperature_chain") for name in figures)


def test_bits_are_those_of_the_exact_probability_of_each_bin():
    """Two halves of [−1, 1] with densities a and 1 − a: a level in the first has probability a/128."""
    a = 0.7
    log_p = D * math.log(a)
    assert bits_per_dimension(log_p, D) == pytest.approx(-math.log2(a / 128))
    images = torch.arange(256).view(-1, 1, 1, 1) / 127.5 - 1
    x = dequantized(images).flatten()
    assert torch.equal(((x + 1) * 128).floor(), torch.arange(256.0)), "each level has its own bin, of width 2/256"


def test_an_energy_of_known_z_on_the_box():
    """E = λ Σx: Z = (2 sinh λ/λ)^D on [−1, 1]^D."""
    slope, shape = 1.0, (1, SIZE, SIZE)

    def exact(n):
        u = torch.rand(n, *shape)
        return -(math.exp(slope) + u * (math.exp(-slope) - math.exp(slope))).log() / slope

    method = Known(lambda x: slope * x.flatten(1).sum(1), exact)
    figures = evaluate(method, temperatures=60, chains=40).figures
    log_z = D * math.log(2 * math.sinh(slope) / slope)
    for side, sign in (("lower", -1), ("upper", 1)):
        found = figures[f"temperature_1/log_z_{side}"]
        assert found == pytest.approx(log_z, abs=0.6), side
        mean = figures[f"temperature_1/log_likelihood_{'upper' if sign < 0 else 'lower'}"] + found
        torch.manual_seed(0)
        x = dequantized(TinyData().test_set.images.unique(dim=0) / 127.5 - 1)
        assert mean == pytest.approx(-slope * float(x.flatten(1).sum(1).mean()), abs=1e-3)


def test_the_temperature_of_the_chain_is_a_density_of_its_own():
    result = evaluate(Uniform(temperature=0.5))
    assert result.protocol["temperature"] == {"temperature_1": 1.0, "temperature_chain": 0.5}
    assert result.figures["temperature_chain/log_z_lower"] == pytest.approx(D * math.log(2) - 6, abs=1e-3)
    assert result.figures["temperature_chain/bits_per_dimension_upper"] == pytest.approx(8, abs=1e-3)


def test_further_temperatures_have_rows_of_their_own():
    """E = Σx, so that at T its slope is 1/T: Z = (2 T sinh(1/T))^D."""
    shape = (1, SIZE, SIZE)
    method = Known(lambda x: x.flatten(1).sum(1), lambda n: 2 * torch.rand(n, *shape) - 1)
    result = evaluate(method, temperatures=60, chains=40, settle=40, at=(2.0, 4.0))
    assert result.protocol["temperature"] == {"temperature_1": 1.0, "temperature_2": 2.0, "temperature_4": 4.0}
    for row, t in result.protocol["temperature"].items():
        for side in ("lower", "upper"):
            found = result.figures[f"{row}/log_z_{side}"]
            assert found == pytest.approx(D * math.log(2 * t * math.sinh(1 / t)), abs=0.6), (row, side)
    for wrong in (-1, 0, math.inf):
        with pytest.raises(UserError, match=rf"likelihood\.at has the temperature {wrong}; each must be above 0"):
            Likelihood(at=[1, wrong])


def test_the_gaussian_beside_the_model_is_that_of_the_training_images():
    assert "32 training images have no covariance of 64" in evaluate(Uniform()).protocol["gaussian"]
    figures = evaluate(Uniform(), TinyData(200)).figures
    nats = figures["gaussian/log_likelihood_lower"]
    assert nats == figures["gaussian/log_likelihood_upper"]
    assert figures["gaussian/bits_per_dimension_upper"] == pytest.approx(bits_per_dimension(nats, D))
    assert 0 < figures["gaussian/bits_per_dimension_upper"] < 8


def test_an_upper_bound_that_the_lower_refutes_is_left_out():
    """Wells that no chain finds: the bins of the test images have more mass than everything that the chains found."""
    wells = 2 * TinyData().test_set.images.unique(dim=0).double() / 255 - 1

    def energy(x):
        return 1e4 * (torch.cdist(x.flatten(1).double(), wells.flatten(1)).min(1).values - 0.5).clamp_max(0)

    method = Known(energy, lambda n: torch.zeros(n, 1, SIZE, SIZE))
    result = evaluate(method)
    figures = result.figures
    assert figures["temperature_1/log_z_lower"] == figures["temperature_1/log_z_test_bins"] > D * math.log(2) + 100
    assert math.isnan(figures["temperature_1/log_z_upper"])
    assert math.isnan(figures["temperature_1/bits_per_dimension_upper"])
    assert figures["temperature_1/bits_per_dimension_lower"] > 0, "fewer than 0 bits cannot be"
    assert "it is no bound" in result.protocol["refuted"]
    assert result.notes == [], "nothing is missing that another asking would find"


@pytest.mark.parametrize(("lower", "upper", "said"), [(42.93, 42.92, True), (42.92, 42.93, False), (60.0, 42.9, False)])
def test_bounds_that_cross_by_chance_say_so(lower, upper, said):
    """Of weights whose mean is known; beyond chance the upper one is left out instead."""
    found = LogZ(*(Weights(torch.full((4,), log).double(), acceptance=[]) for log in (lower, -upper)))
    result = Result("likelihood")
    Likelihood()._record("temperature_1", found, torch.zeros(3), 2, False, result)
    assert ("crossed" in result.protocol) is said
    if said:
        assert "log_z_lower is 0.01 nats above log_z_upper" in result.protocol["crossed"]
    assert result.figures["temperature_1/log_z_lower"] == pytest.approx(lower)
    assert math.isnan(result.figures["temperature_1/log_z_upper"]) is (lower == 60)


def test_on_the_plane_a_grid_and_the_truth_stand_beside_the_bracket():
    data = GaussianMixture(components=4, std=0.15, n_train=10, n_test=400)
    method = Known(lambda x: data.energy(x.flatten(1)), lambda n: data.draw(n).images)
    result = evaluate(method, data, images=400, temperatures=40, chains=60)
    figures = result.figures
    assert figures["temperature_1/log_z_grid"] == pytest.approx(data.log_z(), abs=1e-4)
    for side in ("lower", "upper"):
        assert figures[f"temperature_1/log_z_{side}"] == pytest.approx(data.log_z(), abs=0.4), side
    assert figures["temperature_1/log_likelihood_grid"] == pytest.approx(figures["truth/log_likelihood"], abs=1e-3)
    truth = data.density(data.test_points).log().mean().item()
    assert figures["truth/log_likelihood"] == pytest.approx(truth)
    assert not any("bits" in name for name in figures)
    assert result.protocol["test_points"] == 400


def test_many_dimensions_are_refused_with_a_note():
    result = evaluate(Uniform(), max_dimension=63)
    assert result.figures == {}
    assert "64 dimensions" in result.notes[0]


# ── generators ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("samples", [1, 5])
def test_with_the_exact_posterior_the_bound_is_the_likelihood(samples):
    method = LinearDecoder()
    x = 2 * torch.rand(6, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 1
    bound = importance_bound(method.decode, method.sigma, x, *method.inferred(x), samples)
    torch.testing.assert_close(bound, method.log_likelihood(x), rtol=1e-9, atol=1e-9)


def test_with_a_wrong_posterior_the_bound_rises_to_the_likelihood():
    """With one sample the bound is too low by KL(q ‖ p(z|x)) = 3 P off²/2 on average."""
    method = LinearDecoder(off=0.4)
    x = torch.zeros(400, 1, SIZE, SIZE, dtype=torch.float64)
    exact = float(method.log_likelihood(x).mean())
    torch.manual_seed(0)
    moments = method.inferred(x)
    short = [
        exact - float(importance_bound(method.decode, method.sigma, x, *moments, k).mean()) for k in (1, 10, 100, 1000)
    ]
    assert short[0] == pytest.approx(3 * method.precision * 0.4**2 / 2, rel=0.15)
    assert short[0] > short[1] > short[2] > short[3] > 0
    assert short[3] < 0.15


def test_log_normal_has_its_constant():
    x, mu = torch.tensor([[0.3, -1.0]]), torch.tensor([[0.1, 0.5]])
    law = torch.distributions.Normal(mu, torch.tensor([[0.5, 2.0]])).log_prob(x).sum(1)
    logvar = 2 * torch.tensor([[0.5, 2.0]]).log()
    torch.testing.assert_close(log_normal(x, mu, logvar).float(), law)


def test_bits_and_sigma_of_a_generator_are_reported():
    method = LinearDecoder()
    result = evaluate(method, batch_size=5)
    torch.manual_seed(0)
    x = dequantized(TinyData().test_set.images.unique(dim=0) / 127.5 - 1)
    law = float(method.log_likelihood(x).mean())
    assert result.figures == {
        "generator/log_likelihood_lower": pytest.approx(law, abs=1e-3),
        "generator/bits_per_dimension_upper": pytest.approx(-law / (D * math.log(2)) + 7, abs=1e-4),
    }
    assert (result.protocol["decoder_sigma"], result.protocol["importance_samples"]) == (0.3, 4)


def test_the_sigma_of_each_decoder_is_that_of_its_loss():
    assert vae(sigma=0.2).decoder_sigma == 0.2
    assert triangle().decoder_sigma == pytest.approx(1 / math.sqrt(2 * 4))
    assert dual_mcmc(posterior=PosteriorSampler(sigma=0.3)).decoder_sigma == 0.3
    legacy = dual_mcmc(posterior=PosteriorSampler(sigma=0.3, legacy_sigma=True))
    assert legacy.decoder_sigma == pytest.approx(0.3 / math.sqrt(2))
    assert dual_mcmc(inference=None).decoder_sigma is None
    erm = liebm(inference=True, elbo=LIEBMElbo())
    assert erm.decoder_sigma == pytest.approx(math.sqrt(1 / 2))
    on_unit = liebm(inference=True, elbo=LIEBMElbo(), image_range=(0.0, 1.0))
    assert on_unit.decoder_sigma == pytest.approx(2 * math.sqrt(1 / 2)), "a unit of [0, 1] is two of [−1, 1]"
    assert liebm(inference=True, elbo=LIEBMElbo(pixels=False)).decoder_sigma is None
    assert liebm().decoder_sigma is None


# ── the task ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_methods_with_a_density():
    task = Likelihood()
    assert [method.has_density for method in (liebm(), cdrl(), triangle(), vae(), denoising_ebm())] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert task.supports(vae())
    assert not task.supports(denoising_ebm())


@pytest.mark.parametrize("made", [liebm, dual_mcmc, cdrl, vae, triangle])
def test_bounds_of_every_method(made, tmp_path):
    result = evaluate(made(), temperatures=1, chains=2, settle=1, samples=2, images=4)
    rows = {name.partition("/")[0] for name in result.figures}
    assert ("temperature_1" in rows) == (made is not vae)
    assert ("generator" in rows) == (made in (vae, triangle, dual_mcmc))
    json.loads(result.write(tmp_path).read_text())
    assert "test images of tiny" in scorecard(tmp_path, ["likelihood"])


def test_budgets_and_mistakes():
    task = Likelihood()
    task.apply_budget(BUDGETS["quick"])
    assert (task.images, task.temperatures, task.samples) == (250, 12, 16)
    with pytest.raises(UserError, match=r"likelihood\.images is 0; it must be 1"):
        Likelihood(images=0)
    with pytest.raises(UserError, match=r"likelihood\.chains is 1; it must be 2"):
        Likelihood(chains=1)
