"""Denoising-EBM, MDSM and the score network against their equations (law 10)."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from ebmzoo.energy import gradient
from ebmzoo.errors import UserError
from ebmzoo.methods import DenoisingEBMLearning, DenoisingEBMSampling
from ebmzoo.methods.baselines import MDSMCooling
from ebmzoo.methods.families.denoiser_energy import linked
from ebmzoo.networks import SNGANGenerator, batch_norm_calibration
from ebmzoo.networks.batch_norm_calibration import calibrated, norms
from ebmzoo.networks.denoiser import Denoiser, UNetDenoiser
from ebmzoo.networks.latent_moments import LatentMoments
from ebmzoo.sampling.denoiser_energies import DenoisingError, DenoisingPotential, OfScore
from ebmzoo.sampling.langevin import ChainDivergedError, Langevin
from ebmzoo.sampling.latent_energies import OfDecoder
from ebmzoo.sampling.noise_schedule import GeometricNoise
from ebmzoo.training.config import build_model
from ebmzoo.training.config_files import config_path, named_config, read_config
from support.tiny import SIZE, TinyData, denoising_ebm, mdsm, score_network, trainer


class Linear(Denoiser):
    """r(x̃, σ) = k x̃."""

    def __init__(self, k):
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k, dtype=torch.float64))

    def forward(self, x, sigma):
        return self.k * x


def ideal(c, sigma):
    """The best denoiser of N(0, c²) data at one σ: k = c²/(c² + σ²)."""
    return Linear(c**2 / (c**2 + sigma**2))


def images(n=6, seed=1):
    return torch.rand(n, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def points(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def full(n, sigma):
    return torch.full((n,), sigma, dtype=torch.float64)


# ── the laws ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_denoising_loss_is_least_at_the_ideal_denoiser():
    """E|k(x + σε) − x|² over x ∈ {−c, c}, ε ∈ {−1, 1}, whose moments are those of the Gaussians."""
    c, sigma = 0.5, 0.3
    x = points(c, c, -c, -c)
    noisy = x + sigma * points(1, -1, 1, -1)
    net = ideal(c, sigma)
    loss = (net(noisy, full(4, sigma)) - x).square().mean()
    loss.backward()
    assert float(net.k.grad) == pytest.approx(0, abs=1e-15)
    assert float(loss.detach()) == pytest.approx(c**2 * sigma**2 / (c**2 + sigma**2))


@pytest.mark.parametrize(("floor", "unit"), [(0.0, 0.3), (0.6, 0.6), (0.1, 0.3)])
def test_mean_energy_is_the_closed_form(floor, unit):
    """E_ε U = ((1 − k)² x² + k²σ²)/2σ²: .51946 at c = .5, σ = .3, x = .8, here by ε = ±1; the floor only rescales."""
    c, sigma, x = 0.5, 0.3, 0.8
    noise = points(1.0, -1.0)
    energy = DenoisingError(ideal(c, sigma), full(2, sigma), floor, noise)(points(x, x)).detach().mean()
    k = c**2 / (c**2 + sigma**2)
    want = ((1 - k) ** 2 * x**2 + k**2 * sigma**2) / (2 * unit**2)
    assert float(energy) == pytest.approx(want, rel=1e-12)
    if not floor:
        assert float(energy) == pytest.approx(0.51946, abs=5e-6)


def test_the_noise_is_drawn_anew_by_the_generator_given():
    x, sigma = points(0.8, 0.8), full(2, 0.3)
    energy = DenoisingError(ideal(0.5, 0.3), sigma, generator=torch.Generator().manual_seed(3))
    first, second = energy(x), energy(x)
    assert not torch.equal(first, second)
    random = torch.Generator().manual_seed(3)
    for got in (first, second):
        xi = torch.randn(2, 1, dtype=torch.float64, generator=random)
        torch.testing.assert_close(got, DenoisingError(ideal(0.5, 0.3), sigma, noise=xi)(x))


@pytest.mark.parametrize(("sigma", "spread"), [(0.01, 25.01), (0.05, 5.05), (0.3, 1.1333), (0.5, 1.0)])
def test_the_literal_law_is_wider_than_the_data(sigma, spread):
    """exp(−E_ε U) of N(0, c²) data has the spread (c² + σ²)/σ ≥ 2c: why τ is apart from √(2η)."""
    c = 0.5
    energy = DenoisingError(ideal(c, sigma), full(2, sigma), noise=points(0.7, -0.7))
    x = points(1.0, 1.0)
    curvature = float(gradient(energy, x).mean())  # of a quadratic energy, at x = 1
    assert 1 / math.sqrt(curvature) == pytest.approx((c**2 + sigma**2) / sigma, rel=1e-9)
    assert 1 / math.sqrt(curvature) == pytest.approx(spread, rel=1e-3)
    assert 1 / math.sqrt(curvature) >= 2 * c - 1e-9


def test_the_literal_chain_diverges_at_small_sigma_and_the_floor_holds_it():
    """Where r is constant the curvature is 1/σ²: η = 0.01 is beyond 2σ² at σ = .05, and within it with the floor."""
    x, sigma, still = points(1.0), full(1, 0.05), Langevin(90, 0.01, 0.0)
    literal = still(DenoisingError(Linear(0.0), sigma), x)
    assert float(literal) == pytest.approx((1 - 0.01 / 0.05**2) ** 90, rel=1e-9)
    assert float(literal) > 1e40
    held = still(DenoisingError(Linear(0.0), sigma, floor=0.3), x)
    assert float(held) == pytest.approx((1 - 0.01 / 0.3**2) ** 90, rel=1e-9)
    with pytest.raises(ChainDivergedError):
        still(DenoisingError(Linear(0.0), full(1, 0.01).float()), x.float())


def test_a_floored_step_is_the_papers_with_a_scaled_step_size():
    x, sigma, xi = points(0.4, -1.0), full(2, 0.1), points(0.3, 0.8)
    net = ideal(0.5, 0.1)
    floored = Langevin(1, 0.01, 0.0)(DenoisingError(net, sigma, 0.3, xi), x)
    scaled = Langevin(1, 0.01 * 0.1**2 / 0.3**2, 0.0)(DenoisingError(net, sigma, 0.0, xi), x)
    torch.testing.assert_close(floored, scaled)


def test_score_and_potential_of_the_ideal_denoiser_are_those_of_the_noisy_data():
    """∇log N(0, c² + σ²) = −x/(c² + σ²)."""
    c, sigma, x = 0.5, 0.3, points(0.8, -0.2)
    want = x / (c**2 + sigma**2)
    for energy in (OfScore, DenoisingPotential):
        torch.testing.assert_close(gradient(energy(ideal(c, sigma), full(2, sigma)), x), want)


def test_a_potential_s_force_is_conservative_and_a_score_need_not_be():
    torch.manual_seed(0)
    net = nn.Linear(3, 3, bias=False).double()

    class Matrix(Linear):
        def forward(self, x, sigma):
            return net(x)

    def jacobian(energy):
        def force(x):
            if energy is OfScore:
                return (Matrix(0.0)(x[None], None)[0] - x) / 0.3**2
            e = energy(Matrix(0.0), full(1, 0.3))
            return torch.autograd.grad(e(x[None]).sum(), x, create_graph=True)[0]

        return torch.autograd.functional.jacobian(force, torch.ones(3, dtype=torch.float64))

    of_potential, of_score = jacobian(DenoisingPotential), jacobian(OfScore)
    torch.testing.assert_close(of_potential, of_potential.T)
    assert (of_score - of_score.T).abs().max() > 0.1


def test_geometric_noise():
    noise = GeometricNoise()
    assert noise.sigma.shape == (128,)
    assert float(noise.sigma[0]) == 1.0
    assert float(noise.sigma[-1]) == pytest.approx(0.01, rel=1e-6)
    torch.testing.assert_close(noise.sigma[1:] / noise.sigma[:-1], torch.full((127,), 0.01 ** (1 / 127)))
    drawn = noise.draw(4000, torch.Generator().manual_seed(0))
    assert drawn.shape == (4000,)
    assert set(drawn.tolist()) == set(noise.sigma.tolist())
    assert not noise.state_dict()
    for bad in ({"levels": 1}, {"sigma_min": 0.0}, {"sigma_max": 0.01}, {"sigma_max": math.inf}):
        with pytest.raises(UserError, match=r"noise\."):
            GeometricNoise(**bad)


def test_linked_chains_continue_from_each_other():
    halve = Langevin(1, 0.5, 0.0)
    states = list(linked([(halve, lambda x: x.square().sum(1) / 2)] * 2, points(1.0)))
    assert [float(x) for x in states] == [1.0, 0.5, 0.25]


def test_the_map_of_latents_has_their_moments_and_preconditions_the_chain():
    """L is known up to the shrinkage; a step on u is z ← z − η LLᵀ ∇U(z) + √(2η) L ξ."""
    latents, random = LatentMoments(3, rate=0.0).double(), torch.Generator().manual_seed(0)
    identity = latents.map()
    u = torch.randn(5, 3, generator=random, dtype=torch.float64)
    torch.testing.assert_close(identity(u), u)
    z = torch.randn(400, 3, generator=random, dtype=torch.float64) * torch.tensor([0.1, 1.0, 3.0]) + 2
    for batch in z.chunk(4):
        latents.update(*latents.of_batch(batch))
    placed = latents.map()
    torch.testing.assert_close(placed.mean, z.mean(0))
    covariance = torch.cov(z.T, correction=0)
    level = covariance.trace() / 3 * torch.eye(3, dtype=torch.float64)
    product = placed.factor @ placed.factor.T
    torch.testing.assert_close(product, 0.999 * covariance + 0.001 * level)

    weights = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)

    def energy(z):
        return (weights * z.square()).sum(1) / 2

    end = placed(Langevin(1, 0.1, 0.0)(lambda u: energy(placed(u)), u))
    torch.testing.assert_close(end, placed(u) - 0.1 * (weights * placed(u)) @ product)


def test_moments_forget_at_their_rate():
    latents = LatentMoments(1, rate=0.25)
    for value in (4.0, 8.0, 0.0, 0.0, 0.0, 0.0):
        latents.update(torch.tensor([value]), torch.tensor([[1.0]]))
    assert float(latents.mean) == pytest.approx(12 / 4 * 0.75**2)


def test_a_checkpoint_of_before_moments_leaves_the_chain_as_it_was():
    method = denoising_ebm()
    method.latents.update(torch.ones(4), 2 * torch.eye(4))
    old = {k: v for k, v in denoising_ebm().state_dict().items() if not k.startswith("latents.")}
    again = denoising_ebm()
    again.load_state_dict(old)
    u = torch.randn(3, 4)
    torch.testing.assert_close(again.latents.map()(u), u)
    again.load_state_dict(method.state_dict())
    assert torch.equal(again.latents.map()(u), method.latents.map()(u))


# ── the iteration ───────────────────────────────────────────────────────────────────────────────────────────────────


def watched(method, monkeypatch):
    """Have `minimize` note its losses, networks and gradients instead of stepping."""
    calls = []

    def note(self, loss, *names):
        self.zero_grad()
        loss.backward(retain_graph=True)
        calls.append((loss.detach(), names, {n: p.grad for n, p in self.named_parameters() if p.grad is not None}))
        return torch.tensor(0.0)

    monkeypatch.setattr(type(method), "minimize", note)
    return calls


def independent(method, x, w):
    """The losses written out from Algorithm 1, with the draws in its order; `w` is the weight 1/2σ² of the energies.

    With moments latents are z = μ + L u, by those of the latents seen so far, else u itself.
    """
    r, h, n = method.denoiser, method.decoder, len(x)
    learning, tau = method.learning, method.semantic.noise or math.sqrt(0.2)
    set_of, seen = method.noise.sigma, []

    def noised(x, sigma):
        return x + sigma.view(-1, 1, 1, 1) * torch.randn_like(x)

    def error(x, sigma):
        return w(sigma) * ((x - r(noised(x, sigma), sigma)) ** 2).sum((1, 2, 3))

    losses = []
    for _ in range(learning.reconstructions):
        sigma = set_of[torch.randint(128, (n,))]
        noisy = noised(x, sigma)
        seen.append(r.encode(noisy, sigma).detach())
        losses.append(((h(seen[-1]) - x) ** 2).sum() / n)
        losses.append(((r(noisy, sigma) - x) ** 2).sum() / n)
    sigma = set_of[torch.randint(128, (n,))]
    latents = torch.cat(seen)
    covariance = torch.cov(latents.T, correction=0)
    factor = torch.linalg.cholesky(0.999 * covariance + 0.001 * covariance.trace() / 4 * torch.eye(4))

    def place(u):
        return latents.mean(0) + u @ factor.T if learning.moments else u

    u = torch.randn(n, 4)
    h.eval()
    for _ in range(method.semantic.steps):
        u = u.detach().requires_grad_()
        energy = error(h(place(u)), sigma) + (u.square().sum(1) / 2 if learning.prior else 0)
        (grad,) = torch.autograd.grad(energy.sum(), u)
        u = u.detach() - 0.1 * grad + tau * torch.randn_like(u)
    z = place(u).detach()
    x0 = h(z).detach()
    of_data = r.encode(noised(x, sigma), sigma).detach()
    both = error(h(torch.cat([of_data, z])), sigma.repeat(2))
    losses.append(method.learning.weight * (both[:n].mean() - both[n:].mean()))
    h.train()
    for _ in range(method.texture.steps):
        x0 = x0.detach().requires_grad_()
        (grad,) = torch.autograd.grad(error(x0, sigma).sum(), x0)
        x0 = x0.detach() - 0.01 * grad + method.texture.tau * torch.randn_like(x0)
    both = error(torch.cat([x, x0]), sigma.repeat(2))
    losses.append(method.learning.weight * (both[:n].mean() - both[n:].mean()))
    return losses


@pytest.mark.parametrize("preset", ["resolved", "prior", "paper"])
def test_losses_are_those_of_algorithm_1(preset, monkeypatch):
    if preset == "paper":
        # The printed step sizes diverge at the printed σ; of larger ones these few steps do not.
        learning = replace(DenoisingEBMLearning.paper(), reconstructions=2)
        changes = {"learning": learning, "texture": Langevin(3, 0.01), "noise": GeometricNoise(128, 1.0, 0.3)}
    elif preset == "prior":
        changes = {"learning": DenoisingEBMLearning(reconstructions=2, warmup=0, prior=True)}
    else:
        changes = {"semantic": Langevin(2, 0.1, 0.02)}
    method, again = denoising_ebm(**changes), denoising_ebm(**changes)  # running statistics move in an iteration
    x, calls = images(), watched(method, monkeypatch)
    torch.manual_seed(3)
    readings = method.iterate(x, torch.zeros(6))
    assert [names[0] for _, names, _ in calls] == ["decoder", "denoiser"] * 3
    torch.manual_seed(3)
    if preset == "paper":
        want = independent(again, x, lambda sigma: 1 / (2 * sigma**2))
    else:
        want = independent(again, x, lambda sigma: torch.where(sigma < 0.3, 1 / 0.18, 1 / (2 * sigma**2)))
    for (loss, _, _), expected in zip(calls, want, strict=True):
        torch.testing.assert_close(loss, expected.detach(), rtol=2e-3, atol=1e-3)
    for key in ("energy_data", "energy_chain", "energy_gap", "displacement"):
        assert key in readings
        assert f"semantic_{key}" in readings
    assert {"loss_denoising", "loss_decoder", "grad_norm"} <= set(readings)


def test_each_loss_reaches_its_own_network_alone(monkeypatch):
    method = denoising_ebm()
    calls = watched(method, monkeypatch)
    method.iterate(images(), torch.zeros(6))
    for _, (name,), grads in calls:
        reached = {parameter for parameter, grad in grads.items() if grad.any()}
        assert reached
        assert all(parameter.startswith(f"{name}.") for parameter in reached), name


class Recording(Langevin):
    """A chain that notes where it started and ended."""

    def __call__(self, energy, x, **how):
        end = super().__call__(energy, x, **how)
        self.ends.append((x, end))
        return end

    def recorded(self):
        object.__setattr__(self, "ends", [])
        return self


def test_the_texture_chain_starts_at_the_image_of_the_latent_before_the_decoder_s_step(monkeypatch):
    """Line 10 is before line 18, and h is as in evaluation: with its running statistics."""
    semantic, texture = Recording(2, 0.1).recorded(), Recording(3, 0.01, 0.005).recorded()
    method, images_of_ends = denoising_ebm(semantic=semantic, texture=texture), []

    def scramble(self, loss, *names):
        with torch.no_grad():
            if semantic.ends:
                z = self.latents.map()(semantic.ends[0][1])
                images_of_ends.append(copy.deepcopy(self.decoder).eval()(z))
            for parameter in getattr(self, names[0]).parameters():
                parameter.mul_(1.5)
        return torch.tensor(0.0)

    monkeypatch.setattr(type(method), "minimize", scramble)
    method.iterate(images(), torch.zeros(6))
    (start, _), *rest = texture.ends
    assert rest == []
    torch.testing.assert_close(start, images_of_ends[0])
    assert (images_of_ends[1] - images_of_ends[0]).abs().max() > 0.01, "the step changes it"


def test_the_smallest_batch_is_one_image(monkeypatch):
    method = denoising_ebm()
    calls = watched(method, monkeypatch)
    readings = method.iterate(images(1), torch.zeros(1))
    assert all(value.isfinite() for value in readings.values())
    assert [names[0] for _, names, _ in calls] == ["decoder", "denoiser"] * 3
    assert method.sample(1).images.shape == (1, 1, SIZE, SIZE)


@pytest.mark.parametrize("name", ["decoder", "denoiser"])
def test_a_step_lowers_the_data_s_energy_against_the_chain_s(name, monkeypatch):
    """The loss of the last two steps falls by η|∇L|² to first order: data down against chain, and not the reverse."""
    method = denoising_ebm()
    calls = watched(method, monkeypatch)
    readings = method.iterate(images(), torch.zeros(6))
    loss, _, _ = calls[-1] if name == "denoiser" else calls[-2]
    prefix = "" if name == "denoiser" else "semantic_"
    gap = readings[f"{prefix}energy_chain"] - readings[f"{prefix}energy_data"]
    torch.testing.assert_close(readings[f"{prefix}energy_gap"], gap)
    torch.testing.assert_close(loss, -0.01 * gap)


def test_warm_up_is_reconstruction_alone(monkeypatch):
    method = denoising_ebm(learning=DenoisingEBMLearning(reconstructions=2, warmup=1))
    calls = watched(method, monkeypatch)
    assert method.phase == "warm-up"
    readings = method.iterate(images(), torch.zeros(6))
    assert [names for _, names, _ in calls] == [("decoder",), ("denoiser",)] * 2
    assert "energy_gap" not in readings


def test_a_reconstruction_s_latent_is_of_the_pass_that_restores(monkeypatch):
    """L passes of the encoder, though both losses need f(x̃, σ)."""
    method, passes = denoising_ebm(learning=DenoisingEBMLearning(reconstructions=3, warmup=1)), []
    watched(method, monkeypatch)
    method.denoiser.unet.down.register_forward_pre_hook(lambda *_: passes.append(1))
    method.iterate(images(), torch.zeros(6))
    assert len(passes) == 3


@pytest.mark.parametrize(
    ("changes", "trained"),
    [
        ({"decoder": None, "semantic": None}, ["denoiser"] * 3),
        ({"texture": None}, ["decoder", "denoiser"] * 2 + ["decoder"]),
    ],
)
def test_without_one_of_the_energies(changes, trained, monkeypatch):
    method = denoising_ebm(**changes)
    calls = watched(method, monkeypatch)
    readings = method.iterate(images(), torch.zeros(6))
    assert [names[0] for _, names, _ in calls] == trained
    assert ("semantic_energy_gap" in readings) == (method.decoder is not None)
    assert ("energy_gap" in readings) == (method.texture is not None)
    assert not method.can_propose
    sampled = method.sample(3)
    assert sampled.images.shape == (3, 1, SIZE, SIZE)
    if method.decoder is None:
        with pytest.raises(UserError, match=r"semantic is null"):
            method.stages(3, latent_steps=2)
        assert (sampled.start, sampled.nfe, sampled.steps) == ("noise", 3 + 1, 3)
    else:
        assert (sampled.start, sampled.nfe, sampled.steps) == ("semantic", 2 * 2 + 1, 0)
        with pytest.raises(UserError, match=r"texture is null"):
            method.sample(3, steps=2)


# ── evaluation ──────────────────────────────────────────────────────────────────────────────────────────────────────


def generator(seed=4):
    return torch.Generator().manual_seed(seed)


def test_samples_are_the_two_chains_written_out():
    method = denoising_ebm(ema_decay=0.0, semantic=Langevin(2, 0.1, 0.02)).eval()
    r, h, random = method.denoiser, calibrated(method.decoder), generator()  # before any moments z is u
    z = torch.randn(5, 4, generator=random)
    for sigma in (0.5, 0.05):
        energy = OfDecoder(DenoisingError(r, torch.full((5,), sigma), 0.3, generator=random), h)
        z = Langevin(1, 0.1, 0.02)(energy, z, generator=random)
    x = h(z).detach()
    semantic = x
    for sigma in (0.5, 0.5 / math.sqrt(10), 0.05):
        energy = DenoisingError(r, torch.full((5,), sigma), 0.3, generator=random)
        x = Langevin(1, 0.01, 0.005)(energy, x, generator=random)
    full = method.sample(5, generator=generator())
    torch.testing.assert_close(full.images, r(x, torch.full((5,), 0.05)).detach())
    assert (full.nfe, full.steps, full.start) == (2 * 2 + 1 + 3 + 1, 3, "semantic")
    alone = method.sample(5, steps=0, generator=generator())
    torch.testing.assert_close(alone.images, semantic)
    assert (alone.nfe, alone.steps) == (2 * 2 + 1, 0)
    assert math.isnan(alone.temperature)


def test_the_decoder_of_samples_has_the_batch_statistics_of_the_latents_they_start_from():
    """Those of training are of weights that the average of weights never had."""
    method = denoising_ebm()
    z = torch.randn(400, 4, generator=generator()) * torch.tensor([0.1, 1.0, 3.0, 0.5]) + 2
    method.latents.update(*method.latents.of_batch(z))
    kept = method.averages["decoder"].module
    before = copy.deepcopy(kept.state_dict())
    h = method._samples().energies.decoder
    u = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0))
    train, parts = copy.deepcopy(kept).train(), {}
    for norm in norms(train):
        norm.register_forward_pre_hook(lambda norm, inputs: parts.setdefault(norm, []).append(inputs[0].detach()))
    for part in method.latents.map()(u).split(100):
        train(part)
    assert len(parts) == len(norms(h)) > 2
    for norm, of in zip(norms(h), (parts[norm] for norm in norms(train)), strict=True):
        var, mean = (torch.stack(of).mean(0) for of in zip(*(torch.var_mean(x, (0, 2, 3)) for x in of), strict=True))
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var, var, rtol=1e-4, atol=1e-5)
    assert not h.training
    assert all(torch.equal(value, before[key]) for key, value in kept.state_dict().items())
    plain = denoising_ebm(learning=DenoisingEBMLearning.paper())
    assert plain._samples().energies.decoder is plain.averages["decoder"].module


def test_the_decoder_s_statistics_are_taken_once_for_weights_and_moments(monkeypatch):
    """And not at all where only shapes are asked."""
    taken = []
    monkeypatch.setattr(batch_norm_calibration, "calibrated", lambda h, place: taken.append(h) or calibrated(h, place))
    method = denoising_ebm()
    method.check_data(TinyData())
    assert taken == []
    with torch.inference_mode():
        method.sample(2)
    method.sample(2, steps=0)
    method.stages(2)
    assert len(taken) == 1
    method.latents.update(*method.latents.of_batch(torch.randn(9, 4, generator=generator())))
    method.sample(2)
    assert len(taken) == 2
    with torch.no_grad():
        method.averages["decoder"].module.first.bias += 1.0
    method.sample(2)
    assert len(taken) == 3


def test_kept_statistics_follow_their_generator_to_another_precision():
    h, kept = denoising_ebm().decoder, batch_norm_calibration.Calibration()
    assert kept(h) is kept(h)
    for dtype in (torch.float64, torch.float32, torch.float64):
        assert {p.dtype for p in kept(h.to(dtype)).parameters()} == {dtype}


def test_the_paper_s_samples_are_the_two_chains_written_out():
    """One σ of an image for both chains, each at temperature 1, without floor, prior and last denoising."""
    sampling = replace(DenoisingEBMSampling.paper(), latent_steps=2, image_steps=3)
    # The printed step sizes diverge at the printed σ; of larger ones these few steps do not.
    noise = GeometricNoise(128, 1.0, 0.2)
    changes = {
        "learning": DenoisingEBMLearning.paper(),
        "sampling": sampling,
        "texture": Langevin(9, 0.01),
        "noise": noise,
    }
    method = denoising_ebm(ema_decay=0.0, **changes).eval()
    r, h, random = method.denoiser, method.decoder, generator()
    sigma = noise.sigma[torch.randint(128, (5,), generator=random)]
    assert len(sigma.unique()) > 1

    def step(energy, x, eta):
        return Langevin(1, eta, math.sqrt(2 * eta))(energy, x, generator=random)

    def error(x):
        xi = torch.randn(x.shape, generator=random)
        s = sigma.view(-1, 1, 1, 1)
        return ((x - r(x + s * xi, sigma)) ** 2).sum((1, 2, 3)) / (2 * sigma**2)

    z = torch.randn(5, 4, generator=random)
    for _ in range(2):
        z = step(lambda z: error(h(z)), z, 0.1)
    x = h(z).detach()
    for _ in range(3):
        x = step(error, x, 0.01)
    sampled = method.sample(5, generator=generator())
    torch.testing.assert_close(sampled.images, x)
    assert (sampled.nfe, sampled.temperature) == (2 * 2 + 1 + 3, 1.0)


ASKED = {
    "sample": lambda method: method.sample(4, generator=generator()).images,
    "stages": lambda method: torch.cat([s for stage in method.stages(4, generator=generator()) for s in stage.states]),
    "energy": lambda method: method.energy(images()),
    "ood_score": lambda method: method.ood_score(images()),
    "denoise": lambda method: method.denoise(images(), 0.3),
    "representations": lambda method: method.representations()["autoencoder"](images()),
}


@pytest.mark.parametrize("make", [denoising_ebm, mdsm, score_network])
def test_evaluation_is_by_the_averages_in_eval_mode(make):
    method = make()
    only = () if make is denoising_ebm else ("stages", "representations")
    asked = {name: ask for name, ask in ASKED.items() if name not in only}
    with method.evaluating():
        want = {name: ask(method) for name, ask in asked.items()}
    live = [getattr(method, name) for name in ("denoiser", "decoder") if hasattr(method, name)]
    with torch.no_grad():
        for network in live:
            for parameter in network.parameters():
                parameter.mul_(1.2)
    method.train()
    modes = set()
    for network in method.averages.values():
        # a copy, which is calibrated in training mode, has the hook too
        network.module.register_forward_pre_hook(
            lambda module, _, own=network.module: modes.add(module.training) if module is own else None
        )
    for name in ("sample", "stages"):
        if name in asked:
            assert torch.equal(asked[name](method), want[name]), name
    assert modes == {False}
    assert all(network.training for network in live), "as it was before"
    method.use_averages = False
    with method.evaluating():
        changed = {name: ask(method) for name, ask in asked.items()}
        method.use_averages = True
        for name, ask in asked.items():
            assert torch.equal(ask(method), want[name]), name
            assert not torch.allclose(changed[name], want[name], rtol=1e-3), name


def test_stages_are_the_samples_and_count_evaluations():
    method = denoising_ebm()
    semantic, texture, denoised = method.stages(4, latent_steps=6, image_steps=4, keep=3, generator=generator())
    assert [s.name for s in (semantic, texture, denoised)] == ["semantic", "texture", "denoised"]
    assert semantic.nfe == [1, 7, 13]
    assert texture.nfe == [13, 15, 17]
    assert denoised.nfe == [17, 18]
    assert [len(s.states) for s in (semantic, texture, denoised)] == [3, 3, 2]
    assert torch.equal(semantic.states[-1], texture.states[0])
    assert torch.equal(texture.states[-1], denoised.states[0])
    few = method.stages(4, latent_steps=6, image_steps=4, keep=1, generator=generator())
    assert torch.equal(few[-1].states[-1], denoised.states[-1])
    every = method.stages(2, latent_steps=1, image_steps=2, keep=12)
    assert [len(s.states) for s in every] == [2, 3, 2]
    from_noise = method.stages(4, latent_steps=0, image_steps=2, generator=generator())
    assert [(s.name, s.nfe) for s in from_noise] == [("texture", [0, 1, 2]), ("denoised", [2, 3])]
    torch.testing.assert_close(from_noise[0].states[0], torch.randn(4, 1, SIZE, SIZE, generator=generator()))
    assert [s.name for s in method.stages(4, image_steps=0)] == ["semantic"]


def test_the_scores_are_the_same_at_every_call_and_in_every_batch():
    method = denoising_ebm(ema_decay=0.0)
    x = images()
    with method.evaluating():
        scores = method.ood_scores(x)
        torch.manual_seed(99)
        assert torch.equal(scores, method.ood_scores(x))
        torch.testing.assert_close(scores[:, 2:3], method.ood_scores(x[2:3]))
        assert scores.shape == (2, 6)
        assert not torch.allclose(scores[0], scores[1])
        assert torch.equal(method.ood_score(x), scores.mean(0))
        assert torch.equal(method.energy(x), scores.mean(0))
        for seed in range(2):
            xi = torch.randn(1, 1, SIZE, SIZE, generator=generator(seed))
            error = x - method.denoiser(x + 0.05 * xi, torch.full((6,), 0.05))
            torch.testing.assert_close(scores[seed], error.square().sum((1, 2, 3)) / (2 * 0.3**2))


def test_latents_and_denoising_are_the_network_s():
    method = denoising_ebm(ema_decay=0.0)
    x = images()
    with method.evaluating():
        sigma = torch.full((6,), 0.05)
        torch.testing.assert_close(method.representations()["autoencoder"](x), method.denoiser.encode(x, sigma))
        torch.testing.assert_close(method.denoise(x, 0.3), method.denoiser(x, torch.full((6,), 0.3)))


def test_presets():
    assert DenoisingEBMLearning.paper() == DenoisingEBMLearning(3, 1.0, 0, 0.0, prior=False, moments=False)
    assert DenoisingEBMSampling.paper() == DenoisingEBMSampling(35, 100, None, denoise=False)
    sampling = replace(DenoisingEBMSampling.paper(), latent_steps=3, image_steps=4)
    sampled = denoising_ebm(sampling=sampling, texture=Langevin(2, 0.01)).sample(2)
    assert (sampled.nfe, sampled.steps) == (2 * 3 + 1 + 4, 4)
    assert sampled.temperature == pytest.approx(1.0)


def test_arguments_that_contradict_each_other():
    for changes, key in [
        ({"decoder": None}, "decoder"),
        ({"semantic": None}, "semantic"),
        ({"decoder": None, "semantic": None, "texture": None}, "texture"),
        ({"denoiser": Linear(0.5)}, "Linear"),
        ({"denoiser": UNetDenoiser(1, SIZE, 5, 8, (1, 2), 1, (), embedding=16)}, "latents of dimension 4"),
        ({"energy_sigma": 0.0}, "energy_sigma"),
        ({"ood_seeds": 0}, "ood_seeds"),
    ]:
        with pytest.raises(UserError, match=key):
            denoising_ebm(**changes)
    with pytest.raises(UserError, match=r"sampling\.sigma"):
        DenoisingEBMSampling(sigma=(0.05, 0.5))
    with pytest.raises(UserError, match=r"learning\.reconstructions"):
        DenoisingEBMLearning(reconstructions=0)
    method = denoising_ebm()
    with pytest.raises(UserError, match="no labels"):
        method.sample(2, labels=torch.zeros(2))
    for steps in ({"image_steps": -1}, {"latent_steps": -1}):
        with pytest.raises(UserError, match="steps is -1; it must be 0 or more"):
            method.stages(2, **steps)
    with pytest.raises(UserError, match="keep is 0"):
        method.stages(2, keep=0)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: denoising_ebm(size=16), r"model\.in_channels and model\.size make images of \(1, 16, 16\)"),
        (lambda: denoising_ebm(in_channels=3), r"of \(3, 8, 8\) .* data has \(1, 8, 8\)"),
        (
            lambda: denoising_ebm(decoder=SNGANGenerator(latent=4, out_channels=3, size=SIZE, width=8)),
            r"model\.decoder make images of \(3, 8, 8\)",
        ),
        (lambda: denoising_ebm(decoder=None, semantic=None, size=16), r"\(1, 16, 16\)"),
        (lambda: mdsm(size=16), r"\(1, 16, 16\) but data has \(1, 8, 8\)"),
        (lambda: score_network(in_channels=3), r"\(3, 8, 8\) but data has \(1, 8, 8\)"),
    ],
)
def test_images_of_another_shape_are_told_before_training(make, told, tmp_path):
    with pytest.raises(UserError, match=told):
        trainer(tmp_path, max_steps=1).fit(make(), TinyData())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("make", [denoising_ebm, mdsm, score_network])
def test_a_run_trains_every_weight_and_counts_batches(make, precision, tmp_path):
    """Under autocast too, where a cast made without gradient, as of z = f(x̃), must not stand in for one with."""
    method = make()
    before = {name: value.clone() for name, value in method.named_parameters() if "averages" not in name}
    fit = trainer(tmp_path, max_steps=2, limit_val_batches=1, precision=precision)
    fit.fit(method, TinyData())
    assert fit.global_step == 2
    assert all(value.isfinite().all() for value in method.parameters())
    still = [name for name, value in method.named_parameters() if name in before and torch.equal(value, before[name])]
    assert still == []


# ── the baselines ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_score_network_s_loss_is_denoising_score_matching(monkeypatch):
    method = score_network()
    calls, x = watched(method, monkeypatch), images()
    torch.manual_seed(3)
    method.iterate(x, torch.zeros(6))
    torch.manual_seed(3)
    sigma = method.noise.sigma[torch.randint(10, (6,))]
    s = sigma.view(-1, 1, 1, 1)
    noisy = x + s * torch.randn_like(x)
    score = (method.denoiser(noisy, sigma) - noisy) / s**2
    want = (0.5 * sigma**2 * ((score + (noisy - x) / s**2) ** 2).sum((1, 2, 3))).mean()
    torch.testing.assert_close(calls[0][0], want.detach(), rtol=1e-4, atol=1e-4)


def test_score_network_samples_by_annealed_langevin():
    method = score_network(ema_decay=0.0, noise=GeometricNoise(3, 1.0, 0.1)).eval()
    random = generator()
    x = 2 * torch.rand(4, 1, SIZE, SIZE, generator=random) - 1
    with torch.no_grad():
        for sigma in method.noise.sigma:
            alpha = 0.2 * sigma**2
            for _ in range(2):
                score = (method.denoiser(x, sigma.expand(4)) - x) / sigma**2
                x = x + alpha / 2 * score + alpha.sqrt() * torch.randn(x.shape, generator=random)
        x = method.denoiser(x, torch.full((4,), 0.1))
    sampled = method.sample(4, generator=generator())
    torch.testing.assert_close(sampled.images, x, rtol=1e-4, atol=1e-4)
    assert (sampled.nfe, sampled.steps, sampled.temperature) == (7, 6, 1.0)
    assert method.sample(2, steps=0).nfe == 0


def test_mdsm_samples_by_langevin_steps_that_cool():
    method = mdsm(ema_decay=0.0, cooling=MDSMCooling(1, 2, 2)).eval()
    random = generator()
    energy = DenoisingPotential(method.denoiser, torch.full((4,), 0.2))
    x = 2 * torch.randn(4, 1, SIZE, SIZE, generator=random)
    for temperature in (100, 100, 1, 1, 0):
        tau = math.sqrt(2 * 0.0008 * temperature)
        x = x - 0.0008 * gradient(energy, x) + tau * torch.randn(x.shape, generator=random)
    x = x - 0.2**2 * gradient(energy, x)
    sampled = method.sample(4, generator=generator())
    torch.testing.assert_close(sampled.images, x, rtol=1e-4, atol=1e-4)
    assert (sampled.nfe, sampled.steps, sampled.temperature) == (6, 5, 0.0)
    assert mdsm(cooling=MDSMCooling(1, 2, 0)).sample(1).temperature == 1.0


def test_mdsm_s_loss_matches_the_gradient_of_its_energy(monkeypatch):
    method = mdsm()
    calls, x = watched(method, monkeypatch), images()
    torch.manual_seed(3)
    method.iterate(x, torch.zeros(6))
    torch.manual_seed(3)
    sigma = method.noise.sigma[torch.randint(128, (6,))]
    s = sigma.view(-1, 1, 1, 1)
    noisy = x + s * torch.randn_like(x)
    with method.evaluating():
        restored = noisy - 0.2**2 * gradient(
            lambda y: DenoisingPotential(method.denoiser, 0.2 * y.new_ones(6))(y), noisy
        )
        method.averages["denoiser"].module.load_state_dict(method.denoiser.state_dict())
        torch.testing.assert_close(method.denoise(noisy, 0.7), restored)
        torch.testing.assert_close(
            method.energy(x), (x * (x - method.denoiser(x, 0.2 * x.new_ones(6)))).sum((1, 2, 3)) / 0.08
        )
    want = ((restored - x).square().sum((1, 2, 3)) / sigma**2).mean()
    torch.testing.assert_close(calls[0][0], want, rtol=1e-4, atol=1e-4)
    assert any(grad.any() for grad in calls[0][2].values())


def test_mdsm_learns_from_the_identity_where_the_squared_error_cannot():
    net = UNetDenoiser(1, SIZE, 4, 8, (1, 2), 1, (1,), embedding=16)
    x, sigma = images(), torch.full((6,), 0.2)

    def learns(energy):
        y = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(energy(y).sum(), y, create_graph=True)
        net.zero_grad()
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            (y.detach() - 0.04 * grad - 0.5 * x).square().sum().backward()
        return any(p.grad is not None and p.grad.any() for p in net.parameters())

    assert not learns(DenoisingError(net, sigma, noise=torch.zeros(())))
    assert learns(DenoisingPotential(net, sigma))


def test_mdsm_cools():
    temperatures = MDSMCooling().temperatures()
    assert len(temperatures) == 2700
    assert temperatures[:500] == [100.0] * 500
    assert temperatures[2499] == pytest.approx(1.0)
    assert temperatures[2500] == 1.0
    assert temperatures[-1] == 0.0
    assert temperatures == sorted(temperatures, reverse=True)
    assert len(MDSMCooling().lasting(27).temperatures()) == 27
    assert MDSMCooling().lasting(0).temperatures() == []
    sampled = mdsm().sample(2)
    assert (sampled.nfe, sampled.steps) == (5, 4)
    assert mdsm().sample(2, steps=0).nfe == 0
    start = mdsm(cooling=MDSMCooling(temperature=25.0)).sample(2, steps=0, generator=generator()).images
    torch.testing.assert_close(start, torch.randn(2, 1, SIZE, SIZE, generator=generator()))  # σ₀√T₀ = 1
    with pytest.raises(UserError, match="cooling"):
        MDSMCooling(temperature=0.5)


def test_the_paper_s_config_is_the_preset():
    def written(name):
        return read_config(config_path(name))["model"]["init_args"]

    paper, resolved = written("denoising_ebm_paper_cifar"), written("denoising_ebm_cifar")
    assert DenoisingEBMLearning(**paper.pop("learning")) == DenoisingEBMLearning.paper()
    assert DenoisingEBMSampling(**paper.pop("sampling")) == DenoisingEBMSampling.paper()
    assert DenoisingEBMLearning(**resolved.pop("learning")) == DenoisingEBMLearning()
    assert DenoisingEBMSampling(**resolved.pop("sampling") | {"sigma": (0.5, 0.05)}) == DenoisingEBMSampling(35, 100)
    assert (paper.pop("semantic"), paper.pop("texture")) == (
        {"steps": 20, "step_size": 0.1, "noise": None},
        {"steps": 90, "step_size": 0.01, "noise": None},
    )
    assert (resolved.pop("semantic"), resolved.pop("texture")) == (
        {"steps": 20, "step_size": 0.1, "noise": 0.02},
        {"steps": 90, "step_size": 0.01, "noise": 0.005},
    )
    assert paper == resolved


@pytest.mark.parametrize(
    ("name", "denoiser", "decoder"),
    [
        ("denoising_ebm_cifar", 11_591_043, 4_276_739),
        ("denoising_ebm_celeba64", 24_194_435, 12_220_675),
        ("denoising_ebm_refinenet_cifar", 35_237_891, None),
    ],
)
def test_the_configs_networks_have_the_sizes_that_they_say(name, denoiser, decoder):
    with torch.device("meta"):
        model = build_model(named_config(name))
    assert sum(p.numel() for p in model.denoiser.parameters()) == denoiser
    assert (model.decoder and sum(p.numel() for p in model.decoder.parameters())) == decoder
