"""Dual-MCMC teaching against its equations (Eq. 3, 6, 7, 10, 15), in both presets."""

import math
from copy import deepcopy

import pytest
import torch

from ebmzoo.errors import UserError
from ebmzoo.methods import DualMCMC, DualMCMCLosses
from ebmzoo.methods.baselines import DivergenceTriangle
from ebmzoo.networks.batch_norm_calibration import calibrated
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.posterior import PosteriorSampler
from support.tiny import TinyData, Watch, dual_mcmc, trainer, triangle
from support.watched import watched


def images(n=6):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def independent(method, x, w_x, w_m, w_q, scale, after_generator=lambda: None):
    """The three losses written out from the paper, with the draws in the algorithm's order."""
    G, E, q, s, p = method.generator, method.energy_net, method.inference, method.sampler, method.posterior
    m = torch.randn(len(x), 4)
    made = G(m)
    chain = s(E, made)
    mu, logvar = q(x)
    z = mu + (logvar / 2).exp() * torch.randn(len(x), 4)
    z = p(G, x, z.detach())
    generator = w_x * ((x - G(z)) ** 2).sum() / len(x) + w_m * ((chain - G(m)) ** 2).sum() / len(x)

    def minus_log(z, mu, logvar):
        return -torch.distributions.Normal(mu, (logvar.exp() + 1e-6).sqrt()).log_prob(z).sum(1).mean()

    constant = (1 + w_q) * 2 * math.log(2 * math.pi)  # of the two Gaussians in four dimensions
    inference = minus_log(z, *q(x)) + w_q * minus_log(m, *q(chain)) - constant
    after_generator()
    if method.teaching.resample:
        chain = s(E, G(m))
    return generator, inference, (E(x).mean() - E(chain).mean()) / scale


@pytest.mark.parametrize("preset", ["paper", "official"])
def test_losses_are_equations_10_15_and_7(preset, monkeypatch):
    sigma = 0.4
    teaching, posterior = DualMCMCLosses(), PosteriorSampler(Langevin(3, 0.005, 0.1), sigma)
    weights = (1 / (2 * sigma**2), 1 / (2 * sigma**2), 1.0, 1.0)
    if preset == "official":
        teaching, posterior = (
            DualMCMCLosses.official(),
            PosteriorSampler(Langevin(3, 0.005, 0.1), sigma, legacy_sigma=True),
        )
        weights = (1.0, 50.0, 0.1, 0.01**2 / (2 * 0.1))
    method = dual_mcmc(teaching=teaching, posterior=posterior)
    calls, x = watched(method, monkeypatch), images()
    torch.manual_seed(3)
    method.iterate(x, torch.zeros(6))
    assert [names for _, names, _ in calls] == [("generator",), ("inference",), ("energy_net",)]
    torch.manual_seed(3)
    for (loss, _, _), want in zip(calls, independent(method, x, *weights), strict=True):
        torch.testing.assert_close(loss, want.detach(), rtol=1e-3, atol=1e-4)


def test_official_draws_the_chain_anew_from_the_generator_just_updated(monkeypatch):
    def move(method, names):
        if names == ("generator",):
            with torch.no_grad():
                method.generator.last.bias += 0.3

    losses = {}
    for resample in (False, True):
        method = dual_mcmc(teaching=DualMCMCLosses(resample=resample), sampler=Langevin(2, 0.1, 0.0))
        calls = watched(method, monkeypatch, step=move)
        torch.manual_seed(3)
        method.iterate(images(), torch.zeros(6))
        losses[resample] = calls[2][0]
        fresh = dual_mcmc(teaching=DualMCMCLosses(resample=resample), sampler=Langevin(2, 0.1, 0.0))
        torch.manual_seed(3)
        want = independent(fresh, images(), 1, 1, 1, 1, lambda: move(fresh, ("generator",)))[2]  # noqa: B023
        torch.testing.assert_close(losses[resample], want.detach(), rtol=1e-4, atol=1e-6)
    assert losses[True] != losses[False]


def test_noise_negatives_are_chains_from_uniform_noise_among_the_energy_s_own(monkeypatch):
    """⌈0.4 · 6⌉ = 3 chains more in L_E; G and q learn from the chains from G alone, as without them."""
    method, x = dual_mcmc(teaching=DualMCMCLosses(noise_negatives=0.4), sampler=Langevin(2, 0.1, 0.0)), images()
    calls = watched(method, monkeypatch)
    torch.manual_seed(3)
    told = method.iterate(x, torch.zeros(6))
    torch.manual_seed(3)
    generator, inference, _ = independent(method, x, *[1 / (2 * method.posterior.sigma**2)] * 2, 1, 1)
    torch.testing.assert_close(calls[0][0], generator.detach(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(calls[1][0], inference.detach(), rtol=1e-3, atol=1e-4)

    torch.manual_seed(3)
    chain = method.sampler(method.energy_net, method.generator(torch.randn(6, 4)))
    for _ in range(1 + method.posterior.sampler.steps):  # q's draw and those of the latent chain
        torch.randn(6, 4)
    noise = torch.rand(3, 1, 8, 8) * 2 - 1
    ends = torch.cat([method.energy_net(chain), method.energy_net(method.sampler(method.energy_net, noise))])
    torch.testing.assert_close(calls[2][0], (method.energy_net(x).mean() - ends.mean()).detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(told["energy_chain"], ends[:6].mean().detach(), rtol=1e-4, atol=1e-6)


def test_each_loss_reaches_only_its_network(monkeypatch):
    method = dual_mcmc()
    calls = watched(method, monkeypatch)
    method.iterate(images(), torch.zeros(6))
    for _, (name,), grads in calls:
        reached = {key.split(".")[0] for key, grad in grads.items() if grad.abs().max() > 0}
        assert reached == {name}, (name, reached)


def test_zero_image_steps_leave_the_generator_to_the_data(monkeypatch):
    """Law 16: with K_x = 0 the chains teach G nothing; L_G is the reconstruction alone, and L_E the triangle's."""
    method = dual_mcmc(sampler=Langevin(0, 0.1, 0.0))
    calls = watched(method, monkeypatch)
    torch.manual_seed(3)
    told = method.iterate(images(), torch.zeros(6))
    assert told["revision_mse"] == 0
    want = told["reconstruction_mse"] * 64 / (2 * method.posterior.sigma**2)
    torch.testing.assert_close(calls[0][0], want)

    other = triangle()
    for name in ("energy_net", "generator", "inference"):
        getattr(other, name).load_state_dict(getattr(dual_mcmc(), name).state_dict())
    theirs = watched(other, monkeypatch)
    torch.manual_seed(3)
    other.iterate(images(), torch.zeros(6))
    assert isinstance(other, DivergenceTriangle)
    torch.testing.assert_close(calls[2][0], theirs[0][0])


def test_zero_latent_steps_teach_the_inference_network_no_revision(monkeypatch):
    """With K_z = 0, z̃ = z₀ ~ q: E_q[∇ log q] = 0, so on average the data teach q nothing."""
    method = dual_mcmc(posterior=PosteriorSampler(Langevin(0, 0.005, 0.1)), teaching=DualMCMCLosses(latent_weight=0.0))
    calls, x = watched(method, monkeypatch), images(4).repeat(500, 1, 1, 1)
    method.iterate(x, torch.zeros(2000))
    assert method.iterate(x, torch.zeros(2000))["latent_displacement"] == 0
    _, logvar = method.inference(x)
    scale = {"mean": (1 / (logvar / 2).exp()).mean() / 2000**0.5, "logvar": 0.7 / 2000**0.5}
    for head, standard_error in scale.items():
        bias = calls[1][2][f"inference.{head}.bias"]
        assert bias.abs().max() < 5 * standard_error, head


def test_without_an_inference_network_the_latent_chain_starts_from_the_prior(monkeypatch):
    method = dual_mcmc(inference=None)
    calls, x = watched(method, monkeypatch), images()
    assert sorted(method.trained_networks()) == ["energy_net", "generator"]
    torch.manual_seed(3)
    method.iterate(x, torch.zeros(6))
    assert [names for _, names, _ in calls] == [("generator",), ("energy_net",)]
    torch.manual_seed(3)
    m = torch.randn(6, 4)
    made = method.generator(m)
    chain = method.sampler(method.energy_net, made)
    z = method.posterior(method.generator, x, torch.randn(6, 4))
    fit, revision = ((x - method.generator(z)) ** 2).sum() / 6, ((chain - made) ** 2).sum() / 6
    torch.testing.assert_close(calls[0][0], ((fit + revision) / (2 * 0.3**2)).detach(), rtol=1e-4, atol=1e-4)
    assert not method.can_infer
    assert method.representations() == {}
    with pytest.raises(UserError, match=r"model\.inference is null"):
        method.infer(x)


def test_sample_is_the_chain_from_the_generator():
    method = dual_mcmc(sampler=Langevin(3, 0.1, 0.02))
    full = method.sample(5, generator=torch.Generator().manual_seed(1))
    random = torch.Generator().manual_seed(1)
    with method.evaluating():
        start = calibrated(method.network("generator"))(torch.randn(5, 4, generator=random))
        want = method.sampler(method.network("energy_net"), start, generator=random)
    assert torch.equal(full.images, want)
    assert (full.nfe, full.steps, full.start) == (4, 3, "generator")
    assert full.temperature == pytest.approx(0.02**2 / 0.2)
    with method.evaluating():
        path = list(method.revise(start, generator=torch.Generator().manual_seed(2)))
        end = method.sampler(method.network("energy_net"), start, generator=torch.Generator().manual_seed(2))
    assert len(path) == 4
    assert torch.equal(path[0], start)
    assert torch.equal(path[-1], end)
    with pytest.raises(UserError, match="unconditional"):
        method.sample(2, labels=torch.zeros(2))


def test_the_paper_s_evaluation_has_batch_statistics_and_a_chain_of_70_steps():
    """That of the released script: an image depends on its batch; 70 steps of s = 0.4, which is η = 0.08."""
    method = dual_mcmc(evaluation="paper", sampler=Langevin(3, 0.1, 0.02))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    made = method.sample(5, generator=torch.Generator().manual_seed(1))
    assert (made.nfe, made.steps, made.start) == (71, 70, "generator")
    assert made.temperature == pytest.approx(0.001**2 / 0.16)
    assert method.chain_steps == 70
    random, net = torch.Generator().manual_seed(1), deepcopy(method.network("generator"))
    m = torch.randn(5, 4, generator=random)
    with method.evaluating():
        start = net.train()(m)
        want = Langevin(70, 0.08, 0.001)(method.network("energy_net"), start, generator=random)
        torch.testing.assert_close(made.images, want, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(method.decode(m), start, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(method.decode(m[:2]), method.decode(m)[:2], atol=1e-4)
        assert len(list(method.revise(start, steps=2))) == 3
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    made = method.sample(2, steps=1)
    assert (made.nfe, made.temperature) == (2, pytest.approx(0.001**2 / 0.16))
    method.evaluation = "library"
    assert method.sample(2).nfe == 4
    with method.evaluating():
        torch.testing.assert_close(method.decode(m), calibrated(method.network("generator"))(m))


def test_official_preset_is_the_code_s():
    official = DualMCMCLosses.official(70.0)
    assert (official.data_weight, official.chain_weight, official.latent_weight) == (1.0, 70.0, 0.1)
    assert official.resample
    assert official.by_temperature
    sampler = Langevin(30, 0.5**2 / 2, 0.001)
    assert sampler.temperature == pytest.approx(4e-6)
    with pytest.raises(UserError, match="temperature"):
        dual_mcmc(teaching=official, sampler=Langevin(3, 0.1, 0.0))


def test_a_batch_is_one_step_and_all_three_networks_learn(tmp_path):
    torch.manual_seed(0)
    method, steps = dual_mcmc(), []
    before = {n: p.detach().clone() for n, p in method.named_parameters() if not n.startswith("averages")}
    fit = trainer(tmp_path, callbacks=[Watch(lambda t, m: steps.append(t.global_step))])
    fit.fit(method, TinyData())
    assert steps == [1, 2, 3, 4]
    moved = {n.split(".")[0] for n, p in method.named_parameters() if n in before and not torch.equal(p, before[n])}
    assert moved == {"energy_net", "generator", "inference"}
    for key in ("energy_data", "energy_chain", "energy_gap", "grad_norm", "displacement", "displacement_ratio"):
        assert fit.callback_metrics[f"train/{key}"].isfinite(), key


def test_the_energy_learns_to_tell_data_from_chains():
    """On fixed images the gap rises: energies of data fall, of chains rise (the sign of Eq. 7)."""
    torch.manual_seed(0)
    method = dual_mcmc(sampler=Langevin(0, 0.1, 0.0))
    optimizer = torch.optim.Adam(method.energy_net.parameters(), 1e-3)
    gaps = []

    def minimize(self, loss, *names):
        if names == ("energy_net",):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return torch.tensor(0.0)

    method.minimize = minimize.__get__(method)
    for _ in range(30):
        gaps.append(method.iterate(images(16), torch.zeros(16))["energy_gap"].item())
    assert isinstance(method, DualMCMC)
    assert gaps[-1] > gaps[0] + 0.05
