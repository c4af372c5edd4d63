"""Restoration: the observed energy's exact law, each way to restore on a linear model, and the task on known images."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from ebmzoo.data import CentralSquare, Half
from ebmzoo.data.degradations import Downsample, GaussianBlur, Grayscale, Identity, Masking, Projection
from ebmzoo.data.image_range import ImageRange
from ebmzoo.energy import gradient
from ebmzoo.errors import UserError
from ebmzoo.methods import Generates, LIEBMElbo, Reconstructs, RestorationSettings, Restores, SampleStage
from ebmzoo.methods.baselines import IGEBM
from ebmzoo.methods.families.restoration import (
    Known,
    Measured,
    MeasuredAtLevels,
    RestoresByDenoiser,
    RestoresByEnergy,
    by_latents,
)
from ebmzoo.networks import SNGANEnergy
from ebmzoo.report.scorecard import scorecard
from ebmzoo.sampling.energies import Observed
from ebmzoo.sampling.langevin import ChainDivergedError, Langevin
from ebmzoo.sampling.noise_schedule import CosineSchedule, GeometricNoise
from ebmzoo.tasks import Restoration
from ebmzoo.tasks.budget import BUDGETS
from support.oracle import Oracle
from support.pictures import cells, rows_and_columns
from support.tiny import (
    SIZE,
    TinyData,
    cdrl,
    coopnets,
    denoising_ebm,
    drl,
    dual_mcmc,
    energy_matching,
    equilibrium_matching,
    hat_ebm,
    jem,
    liebm,
    mdsm,
    score_network,
    triangle,
    vae,
    without_latent,
)

LINEAR = [Downsample(2), GaussianBlur(std=0.7), Masking(Half("left")), Identity()]


def quadratic(v=1.0):
    return lambda x: x.square().flatten(1).sum(1) / (2 * v)


def matrix(function, shape):
    return function(torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)).flatten(1).T


def posterior(operator, y, v, sigma, shape):
    """Λ = I/v + AᵀA/σ² and μ = Λ⁻¹Aᵀy/σ² of x ~ N(0, vI), y = A x + σε."""
    a = matrix(operator, shape)
    precision = torch.eye(a.shape[1], dtype=torch.float64) / v + a.T @ a / sigma**2
    return precision, torch.linalg.solve(precision, a.T @ y.flatten() / sigma**2)


# the observed energy


@pytest.mark.parametrize("operator", LINEAR, ids=lambda o: o.name)
def test_chain_without_noise_contracts_to_the_posterior_mean(operator):
    """x_K = μ + (I − ηΛ)^K (x₀ − μ) exactly."""
    shape, v, sigma, eta, steps = (1, 4, 4), 0.8, 0.5, 0.05, 7
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    y = operator(torch.randn(1, *shape, generator=generator, dtype=torch.float64))
    precision, mu = posterior(operator, y, v, sigma, shape)
    x = Langevin(steps, eta, noise=0.0)(Observed(quadratic(v), operator, y, sigma), x0)
    power = torch.linalg.matrix_power(torch.eye(16, dtype=torch.float64) - eta * precision, steps)
    torch.testing.assert_close(x.flatten(1), mu + (x0.flatten(1) - mu) @ power.T, rtol=1e-10, atol=1e-10)


def test_stationary_law_is_the_posterior_with_the_bias_of_the_step():
    """Mean μ; along each eigenvector of Λ the variance 1/(λ(1 − ηλ/2)) (METHODS law 12.2)."""
    operator, shape, v, sigma, eta, n = Downsample(2), (1, 4, 4), 0.8, 0.2, 0.1, 8000
    y = torch.tensor([[[[0.5, -0.3], [0.1, 0.9]]]], dtype=torch.float64)
    precision, mu = posterior(operator, y, v, sigma, shape)
    lam, vectors = torch.linalg.eigh(precision)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, *shape, generator=generator, dtype=torch.float64)
    x = Langevin(60, eta)(Observed(quadratic(v), operator, y, sigma), x, generator=generator)
    along = (x.flatten(1) - mu) @ vectors
    want = 1 / (lam * (1 - eta * lam / 2))
    assert len(lam.round(decimals=6).unique()) == 2, "what y tells, and what it does not"
    torch.testing.assert_close(along.var(0) / want, torch.ones(16).double(), rtol=0, atol=5 * math.sqrt(2 / n))
    torch.testing.assert_close(along.mean(0) / want.sqrt(), torch.zeros(16).double(), rtol=0, atol=5 / math.sqrt(n))


def test_without_a_measurement_it_is_the_energy():
    x, y = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 2, 2)
    assert torch.equal(Observed(quadratic(), Downsample(2), y, math.inf)(x), quadratic()(x))
    observed = Observed(quadratic(), Downsample(2), y, 0.5)
    torch.testing.assert_close(observed(x) - quadratic()(x), 2 * (Downsample(2)(x) - y).square().flatten(1).sum(1))


def test_a_measurement_made_under_inference_mode():
    with torch.inference_mode():
        y = torch.zeros(1, 1, 2, 2)
    assert gradient(Observed(quadratic(), Downsample(2), y, 1.0), torch.ones(1, 1, 4, 4)).isfinite().all()


# by the energy of the chain


class Quadratic(Oracle, RestoresByEnergy):
    """E(x) = |x|²/2v of images in `range`."""

    def __init__(self, sampler, v=math.inf, low=-1.0, high=1.0):
        super().__init__(torch.zeros(1, 1, 4, 4))
        self.sampler, self.v, self.range = sampler, v, ImageRange(low, high)

    def chain_energy(self):
        return quadratic(self.v)


@pytest.mark.parametrize("operator", LINEAR[:3], ids=lambda o: o.name)
@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0)])
def test_a_step_takes_the_pull_of_the_residual(operator, low, high):
    """x ← x − η∇E − p A⁺(A x − y), in whatever range the energy sees."""
    eta, v, pull, steps = 0.1, 0.7, 0.3, 3
    y = operator(torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    method = Quadratic(Langevin(5, eta, noise=0.0), v, low, high)
    stage, *rest = method.restored(y, operator, RestorationSettings(steps=steps, pull=pull, projections=0))
    x, unit = operator.pinv(y), (high - low) / 2
    assert torch.equal(stage.states[0], x)
    for _ in range(steps):
        x = x - eta * method.range.inward(x) / v / unit - pull * operator.pinv(operator(x) - y)
    torch.testing.assert_close(stage.states[1], x, rtol=1e-10, atol=1e-10)
    assert (stage.name, stage.nfe, rest) == ("chain", [0, steps], [])


def test_noise_on_the_measurement_weighs_by_the_chains_temperature():
    """E flat: the chain's law is N(y, n²) at any T, with the step's bias n²/(1 − a/2), a = ηT/n² = τ²/2n²."""
    n, eta, temperature = 0.5, 0.4, 0.2
    tau = math.sqrt(2 * eta * temperature)
    a = tau**2 / (2 * n**2)
    method = Quadratic(Langevin(60, eta, tau))
    y = torch.full((1250, 1, 4, 4), 0.3, dtype=torch.float64)
    operator, random = Identity(noise=n), torch.Generator().manual_seed(0)
    (stage,) = method.restored(y, operator, RestorationSettings(pull=1.0), generator=random)
    x = stage.states[-1]
    assert float(x.var()) == pytest.approx(n**2 / (1 - a / 2), rel=5 * math.sqrt(2 / 20_000))
    assert float(x.mean()) == pytest.approx(0.3, abs=5 * n / math.sqrt(20_000))


def test_noise_and_no_temperature_or_no_pull_is_the_energy_alone():
    y = torch.full((2, 1, 4, 4), 0.5)
    for operator, sampler, pull in [
        (Identity(noise=0.1), Langevin(3, 0.1, noise=0.0), 1.0),
        (Identity(noise=0.0), Langevin(3, 0.1, noise=0.0), 0.0),
    ]:
        stage, *_ = Quadratic(sampler, 1.0).restored(y, operator, RestorationSettings(pull=pull))
        torch.testing.assert_close(stage.states[-1], 0.9**3 * y)


# by latents


class Linear(Quadratic, Generates):
    """G(z) = W z, an image of 4 pixels."""

    latent = 3

    def __init__(self):
        super().__init__(Langevin(2, 0.0, 0.0))
        self.w = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def decode(self, z):
        return (z.to(self.w) @ self.w.T).view(-1, 1, 2, 2)


class Inferring(Linear, Reconstructs):
    def infer(self, x):
        return x.flatten(1)[:, :3] / 2


def test_latents_follow_their_posterior():
    """p(m|y) ∝ exp(−E(Wm) − |m|²/2 − |A⁺(AWm − y)|²/2σ²) of a quadratic E: Λ = I + Wᵀ(I/v + P/σ²)W."""
    method, operator, sigma, v, n = Inferring(), Masking(Half("top")), 0.7, 0.9, 8000
    y = torch.tensor([0.0, 0.0, 0.6, -0.4], dtype=torch.float64).view(1, 1, 2, 2)
    p = matrix(Projection(operator), (1, 2, 2))
    eye = torch.eye(4, dtype=torch.float64)
    precision = torch.eye(3, dtype=torch.float64) + method.w.T @ (eye / v + p / sigma**2) @ method.w
    mu = torch.linalg.solve(precision, method.w.T @ p @ y.flatten() / sigma**2)
    rate, steps = 0.3, 60
    eta = rate / (1 + 4 / (sigma**2 * 3))
    restoring = RestorationSettings(latent_steps=steps, latent_rate=rate, sigma=sigma)
    random = torch.Generator().manual_seed(0)
    inferred, latent = by_latents(method, quadratic(v), y.expand(n, -1, -1, -1), operator, restoring, random)
    x = latent.states[-1].flatten(1)
    lam, vectors = torch.linalg.eigh(precision)
    covariance = vectors @ torch.diag(1 / (lam * (1 - eta * lam / 2))) @ vectors.T
    want = method.w @ covariance @ method.w.T
    scale = want.diag().sqrt()
    torch.testing.assert_close((x.mean(0) - method.w @ mu) / scale, torch.zeros(4).double(), rtol=0, atol=0.05)
    torch.testing.assert_close(x.T.cov() / scale / scale[:, None], want / scale / scale[:, None], rtol=0, atol=0.05)
    assert (inferred.name, inferred.nfe, latent.nfe) == ("inferred", [0, 2], [2, 2 + steps * 2 + 1])
    torch.testing.assert_close(inferred.states[-1], method.decode(method.infer(y)).expand(n, -1, -1, -1))


def test_without_inference_the_start_of_least_energy_is_kept():
    method, operator, starts = Linear(), Identity(noise=0.0), 40
    y = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    restoring = RestorationSettings(latent_steps=0, starts=starts, sigma=0.5)
    (latent,) = by_latents(method, None, y, operator, restoring, torch.Generator().manual_seed(2))
    z = torch.randn(3 * starts, 3, generator=torch.Generator().manual_seed(2)).view(3, starts, 3).double()
    made = z @ method.w.T
    energy = (made - y.flatten(1)[:, None]).square().sum(2) / (2 * 0.25) + z.square().sum(2) / 2
    want = made[torch.arange(3), energy.argmin(1)]
    torch.testing.assert_close(latent.states[-1].flatten(1), want)
    assert latent.nfe == [0, starts + 1]


def test_impossible_numbers():
    for changes in (
        {"steps": -1},
        {"pull": 1.5},
        {"sigma": 0.0},
        {"latent_rate": math.inf},
        {"starts": 0},
        {"projections": -1},
    ):
        with pytest.raises(UserError, match=rf"restoring\.{next(iter(changes))} is"):
            RestorationSettings(**changes)


# by levels and by denoisers


@pytest.mark.parametrize("operator", LINEAR[:3], ids=lambda o: o.name)
def test_what_is_put_back_is_known_with_its_noise(operator):
    """A x = ᾱ y + σ̄ A ε, and the rest is left alone."""
    x, eps, clean = torch.randn(3, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = operator(clean)
    got = Measured(y, operator).put_back(x, eps, 0.8, 0.6)
    torch.testing.assert_close(operator(got), 0.8 * y + 0.6 * operator(eps))
    torch.testing.assert_close(operator.null(got), operator.null(x))


def test_what_is_put_back_has_the_noise_that_it_lacks_and_no_more():
    """ᾱ(x + nε') + √(σ̄² − ᾱ²n²) ε has the variance σ̄² around ᾱx; below that noise nothing is known."""
    n, alpha, sigma = 0.5, 0.8, 0.6
    measured = Measured(torch.ones(1, 1, 2, 2), Identity(noise=n))
    x, eps = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    lacking = float(measured.put_back(x, eps, alpha, sigma)[0, 0, 0, 0]) - alpha
    assert (alpha * n) ** 2 + lacking**2 == pytest.approx(sigma**2)
    assert torch.equal(measured.put_back(x, eps, 1.0, 0.49), x)
    # a mean of 2 × 2 pixels, repeated on each, has the noise of y on all four at once: twice that of one direction
    blocks = Measured(torch.ones(1, 1, 1, 1), Downsample(2, noise=n))
    assert torch.equal(blocks.put_back(x, eps, 1.0, 0.99), x)
    assert not torch.equal(blocks.put_back(x, eps, 1.0, 1.01), x)


def test_a_mask_at_levels_is_inpainting():
    schedule, mask = CosineSchedule(), Half()
    x, y, noise = torch.randn(3, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hidden = mask(4)
    operator = Masking(mask)
    known = Known(x, hidden, noise, schedule.double())
    measured = MeasuredAtLevels(Measured(operator(x), operator), noise, schedule)
    for level in range(schedule.levels + 1):
        scale = torch.full((2, 1, 1, 1), 0.7, dtype=torch.float64)
        torch.testing.assert_close(measured.put_back(y, level, scale), known.put_back(y, level, scale))


def test_recovery_of_a_mask_is_inpainting():
    method = cdrl()
    x, hidden, operator = TinyData().test_set.float(slice(3)), CentralSquare()(SIZE), Masking(CentralSquare())
    inpainted = method.inpaint(x, hidden[None, None], generator=torch.Generator().manual_seed(3))
    stage, last = method.restored(
        operator(x), operator, RestorationSettings(), generator=torch.Generator().manual_seed(3)
    )
    assert (stage.name, stage.nfe, last.nfe) == ("levels", [0, inpainted.nfe], [inpainted.nfe] * 2)
    made = torch.where(hidden, stage.states[-1], x)
    torch.testing.assert_close(made, inpainted.images, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(last.states[-1][..., ~hidden], x[..., ~hidden])


class Constant(Oracle, RestoresByDenoiser):
    """A denoiser that returns c and records its inputs."""

    def __init__(self):
        super().__init__(torch.zeros(1, 1, 4, 4))
        self.noise, self.inputs = GeometricNoise(8, sigma_max=1.0, sigma_min=0.1), []

    def denoise(self, x, sigma):
        self.inputs.append((x, sigma))
        return torch.full_like(x, 0.25)


def test_a_denoiser_sees_decreasing_noise_around_the_measurement():
    method, operator = Constant(), Downsample(2)
    y = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0)) / 4
    stages = method.restored(y, operator, RestorationSettings(steps=3), generator=torch.Generator().manual_seed(4))
    assert [sigma for _, sigma in method.inputs] == pytest.approx([1.0, math.sqrt(0.1), 0.1])
    random = torch.Generator().manual_seed(4)
    for k, (x, sigma) in enumerate(method.inputs):
        eps = torch.randn(2, 1, 4, 4, generator=random)
        torch.testing.assert_close(operator(x), y + sigma * operator(eps))
        torch.testing.assert_close(operator.null(x), sigma * operator.null(eps), msg=f"step {k}: c has no null part")
    assert [stage.name for stage in stages] == ["denoised", "projected"]
    assert torch.equal(stages[0].states[-1], torch.full((2, 1, 4, 4), 0.25))
    torch.testing.assert_close(operator(stages[1].states[-1]), y)


@pytest.mark.parametrize("n", [0.05, 0.3, 2.0])
def test_a_denoiser_ends_at_the_noise_of_the_measurement(n):
    """There x̃ is y itself; if y has less noise than the smallest σ of training, the chain ends at that σ."""
    method = Constant()
    y = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    (stage,) = method.restored(y, Identity(noise=n), RestorationSettings(steps=5))
    sigmas = [sigma for _, sigma in method.inputs]
    assert sigmas[0] == pytest.approx(max(1.0, n))
    assert sigmas[-1] == pytest.approx(max(0.1, n))
    if n >= 0.1:
        torch.testing.assert_close(method.inputs[-1][0], y)
    assert stage.nfe == [0, 5]


# all methods


def erm():
    return liebm(inference=True, elbo=LIEBMElbo())


def igebm():
    torch.manual_seed(0)
    net = SNGANEnergy(in_channels=1, size=SIZE, width=16, bias="all")
    return IGEBM(net, Langevin(2, 1.0, 0.005, clip=0.01), in_channels=1, size=SIZE, replay_size=16)


STAGES = {
    liebm: ["latent", "residual"],
    erm: ["inferred", "latent", "residual"],
    without_latent: ["latent", "residual"],
    dual_mcmc: ["inferred", "latent", "residual"],
    coopnets: ["latent", "residual"],
    hat_ebm: ["latent", "residual"],
    vae: ["inferred", "latent"],
    triangle: ["inferred", "latent"],
    igebm: ["chain"],
    jem: ["chain"],
    energy_matching: ["chain"],
    equilibrium_matching: ["chain"],
    cdrl: ["levels"],
    drl: ["levels"],
    denoising_ebm: ["denoised"],
    mdsm: ["denoised"],
    score_network: ["denoised"],
}


@pytest.mark.parametrize("make", STAGES, ids=lambda make: make.__name__)
def test_every_method_restores(make):
    method, x, restoring = (
        make(),
        TinyData().test_set.float(slice(2)),
        RestorationSettings(steps=2, latent_steps=2, starts=2),
    )
    assert isinstance(method, Restores)
    assert method.can_restore
    learning = [p.requires_grad for p in method.parameters()]
    for operator in (Downsample(4), Identity(noise=0.2)):
        y = operator.degraded(x, torch.Generator().manual_seed(0))
        stages = method.restored(y, operator, restoring, generator=torch.Generator().manual_seed(0))
        again = method.restored(y, operator, restoring, generator=torch.Generator().manual_seed(0))
        ends = ["projected"] if operator.noise == 0 else []
        assert [stage.name for stage in stages] == STAGES[make] + ends
        assert torch.equal(stages[0].states[0], operator.pinv(y))
        for before, after in pairwise(stages):
            assert torch.equal(before.states[-1], after.states[0])
            assert before.nfe[-1] == after.nfe[0] <= after.nfe[-1]
        assert stages[-1].states[-1].shape == x.shape
        assert torch.equal(stages[-1].states[-1], again[-1].states[-1])
        if ends:
            assert float(stages[-1].states[-1].abs().max()) <= 1
            off = [float((operator(s.states[-1].clamp(-1, 1)) - y).abs().max()) for s in stages[-2:]]
            assert off[1] < min(0.02, off[0])
    assert not any(p.grad is not None for p in method.parameters())
    assert [p.requires_grad for p in method.parameters()] == learning


def test_liebm_descends_the_joint_energy_with_its_own_latent():
    """E(x) − γ cos(g(f(x)), h(x)) (Eq. 16, 17), also in the EM setting, in which the chain uses only E(x)."""
    method = liebm(gamma=2.0).eval()
    x = TinyData().test_set.float(slice(4))
    net = method.network("energy_net")
    f = net.features(x)
    cos = torch.cosine_similarity(net.project(f), method.encoder(x), dim=1)
    torch.testing.assert_close(method.restoration_energy()(x), net(x) - 2.0 * cos)
    assert not torch.allclose(method.restoration_energy()(x), method.chain_energy()(x))
    alone = without_latent()
    assert alone.restoration_energy() is alone.chain_energy()


def test_latents_of_a_coder_are_not_restored():
    method = cdrl()
    method.coder = nn.Identity()
    assert not method.can_restore
    assert not Restoration().supports(method)


# the task


class Knowing(Oracle, Restores):
    """A method that knows the images x; its stages end halfway from A⁺y to x, and at x."""

    def __init__(self, data):
        super().__init__(data.train_set.float())
        self.clean, self.at, self.seen = data.test_set.float(), 0, []

    def restored(self, y, operator, restoring, *, generator=None):
        self.seen.append((operator.name, y, torch.rand(1, generator=generator)))
        rows = torch.arange(self.at, self.at + len(y)) % len(self.clean)
        self.at += len(y)
        start, x = operator.pinv(y), self.clean[rows]
        return [SampleStage("half", [start, (start + x) / 2], [0, 3]), SampleStage("all", [start, x], [3, 7])]


class Diverging(Oracle, Restores):
    def restored(self, y, operator, restoring, *, generator=None):
        raise ChainDivergedError("the state of the Langevin chain became the finite numbers at step 3")


def evaluate(folder=None, method=None, data=None, **changes):
    data = data or TinyData()
    method = method or Knowing(data)
    torch.manual_seed(0)
    return Restoration(**{"n": 16, "batch_size": 5} | changes)(method, data, folder), method


def test_figures_of_known_images():
    """Halving the error gains 6.02 dB and halves the inconsistency; the image itself has neither."""
    result, _ = evaluate(operators=[Downsample(4), Identity(noise=0.1)])
    figures, x = result.figures, TinyData().test_set.float()
    error = (Downsample(4).project(x) - x).double().square().flatten(1).mean(1)
    psnr = 10 * torch.log10(4 / error).mean()
    assert figures["sr4/start/psnr"] == pytest.approx(float(psnr), rel=1e-5)
    assert figures["sr4/half/psnr"] - figures["sr4/start/psnr"] == pytest.approx(20 * math.log10(2), abs=1e-4)
    assert (figures["sr4/all/psnr"], figures["sr4/all/ssim"]) == (math.inf, pytest.approx(1))
    assert [figures[f"sr4/{stage}/nfe"] for stage in ("start", "half", "all")] == [0, 3, 7]
    assert figures["sr4/start/consistency"] == pytest.approx(0, abs=1e-6)
    assert figures["denoise/all/consistency"] == pytest.approx(0.1, rel=0.1), "the noise itself"
    assert figures["denoise/half/consistency"] < 0.07
    assert figures["sr4/start/ssim"] < figures["sr4/half/ssim"] < 1


def test_noise_and_chains_are_seeded_and_differ_between_batches():
    first, one = evaluate(operators=[Identity(noise=0.3)])
    second, other = evaluate(operators=[Identity(noise=0.3)])
    assert first.figures == second.figures
    assert all(torch.equal(a[1], b[1]) and a[2] == b[2] for a, b in zip(one.seen, other.seen, strict=True))
    assert len({float(draw) for _, _, draw in one.seen}) == len(one.seen) == 4
    noise = torch.cat([y for _, y, _ in one.seen]) - one.clean
    assert float(noise.std()) == pytest.approx(0.3, rel=0.1)


def test_the_default_operators_are_those_that_the_images_allow(tmp_path):
    result, method = evaluate(tmp_path, n=4)
    assert {name for name, *_ in method.seen} == {"sr4", "sr8", "blur", "denoise", "inpaint"}
    assert result.notes == [], "a result with notes would be computed again"
    assert "color" not in result.protocol["degraded_by"]
    assert "std=1.0" in result.protocol["degraded_by"]["blur"]
    assert result.protocol["restoring"]["pull"] == RestorationSettings().pull
    assert [path.split("/")[-1] for path in result.pictures] == [
        f"restoration_{name}.png" for name in ("sr4", "sr8", "blur", "denoise", "inpaint")
    ]
    assert all((tmp_path / path.split("/")[-1]).exists() for path in result.pictures)
    rows, columns = rows_and_columns(result.pictures[0], 4)
    assert (rows, columns) == (["x", "A⁺y", "half", "all"], ["image 1", "image 2", "image 3", "image 4"])
    assert torch.equal(cells(result.pictures[0], 4, 4, SIZE)[0, :, :1], TinyData().test_set.images[:4])
    result.write(tmp_path)
    table = scorecard(tmp_path, ["restoration"])
    assert "sr4/half" in table
    assert "consistency" in table
    colours, _ = evaluate(data=TinyData(channels=3), n=4)
    assert "color/all/psnr" in colours.figures


def test_a_listed_operator_that_does_not_fit_is_noted():
    result, _ = evaluate(operators=[Grayscale(), Downsample(3), Downsample(2)])
    assert result.notes == [
        "color: skipped, it needs images of 3 channels",
        "sr3: skipped, it needs images whose side is a multiple of 3",
    ]
    assert {name.split("/")[0] for name in result.figures} == {"sr2"}


def test_a_chain_that_diverges_leaves_the_start(tmp_path):
    result, _ = evaluate(tmp_path, Diverging(torch.zeros(1, 1, SIZE, SIZE)), operators=[Downsample(4)])
    assert math.isnan(result.figures["sr4/psnr"])
    assert result.figures["sr4/start/psnr"] > 0
    assert "step 3" in result.notes[0]
    assert result.pictures == []


def test_supported_methods():
    task = Restoration.standard([])
    assert task.supports(Knowing(TinyData()))
    assert not task.supports(Oracle(torch.zeros(1, 1, SIZE, SIZE)))
    task.apply_budget(BUDGETS["quick"])
    assert task.n == 16
    settings = json.loads(json.dumps(Restoration([Downsample(4), Masking(Half())]).settings()))
    assert settings["operators"][0] == {"class": "Downsample", "factor": 4, "noise": 0.0}
    assert settings["restoring"]["sigma"] == 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 0}, "restoration.n is 0"),
        ({"shown": 0}, "restoration.shown is 0"),
        ({"operators": [Downsample(4), replace(Downsample(4), noise=0.1)]}, "their names must differ"),
    ],
)
def test_impossible_settings(changes, message):
    with pytest.raises(UserError, match=message):
        Restoration(**changes)


def test_a_config_names_operators():
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Restoration, "task")
    operators = [
        {"class_path": "ebmzoo.data.degradations.Downsample", "init_args": {"factor": 8}},
        {"class_path": "ebmzoo.data.degradations.GaussianBlur"},
        {
            "class_path": "ebmzoo.data.degradations.Masking",
            "init_args": {"mask": {"class_path": "ebmzoo.data.Half", "init_args": {"side": "top"}}},
        },
    ]
    init = {"operators": operators, "restoring": {"pull": 0.5}, "n": 3}
    config = {"task": {"class_path": "ebmzoo.tasks.Restoration", "init_args": init}}
    task = parser.instantiate(parser.parse_object(config)).task
    assert [operator.name for operator in task.operators] == ["sr8", "blur", "inpaint"]
    assert (task.operators[2].mask.side, task.restoring.pull, task.n) == ("top", 0.5, 3)
