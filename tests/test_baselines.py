"""The cooperative baselines against their equations, and against what they are ablations of."""

import math

import pytest
import torch
from torch import nn

from ebmzoo.compose import Hat, OfLatent, OfResidual, Tilted
from ebmzoo.energy import gradient
from ebmzoo.errors import UserError
from ebmzoo.langevin import Langevin
from ebmzoo.methods import Teaching
from ebmzoo.methods.capabilities import Reconstructs, StartsFromGenerator
from ebmzoo.posterior import PosteriorSampler
from tiny import TinyData, Watch, coopnets, dual_mcmc, hat_ebm, trainer, triangle, vae

ALL = [coopnets, triangle, vae, hat_ebm, dual_mcmc]


def images(n=6):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def watched(method, monkeypatch):
    """Have `descend` note its losses, networks and gradients instead of stepping."""
    calls = []

    def note(self, loss, *names):
        self.zero_grad()
        loss.backward(retain_graph=True)
        reached = {n.split(".")[0] for n, p in self.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        calls.append((loss.detach(), names, reached))
        return torch.tensor(0.0)

    monkeypatch.setattr(type(method), "descend", note)
    return calls


def nll(z, mu, logvar):
    normal = torch.distributions.Normal(mu, (logvar.exp() + 1e-6).sqrt())
    return -normal.log_prob(z).sum(1).mean() - z.shape[1] / 2 * math.log(2 * math.pi)


# ── CoopNets ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("reference_std", [None, 2.0])
def test_coopnets_losses(reference_std, monkeypatch):
    method = coopnets(sigma=0.5, reference_std=reference_std)
    calls, x = watched(method, monkeypatch), images()
    torch.manual_seed(3)
    method.iterate(x, torch.zeros(6))
    assert [(names, reached) for _, names, reached in calls] == [
        (("energy_net",), {"energy_net"}),
        (("generator",), {"generator"}),
    ]
    torch.manual_seed(3)
    E, made = method.energy_net, method.generator(torch.randn(6, 4))

    def tilted(x):
        return E(x) if reference_std is None else E(x) + (x**2).sum((1, 2, 3)) / (2 * 2.0**2)

    chain = method.sampler(tilted, made)
    torch.testing.assert_close(calls[0][0], (E(x).mean() - E(chain).mean()).detach(), rtol=1e-4, atol=1e-6)
    want = ((chain - made) ** 2).sum() / 6 / (2 * 0.5**2)
    torch.testing.assert_close(calls[1][0], want.detach(), rtol=1e-4, atol=1e-6)
    method.eval()
    torch.testing.assert_close(method.energy(x), tilted(x))


def test_coopnets_teaches_the_generator_as_dual_mcmc_does_without_data(monkeypatch):
    """Dual-MCMC with w_x = 0 has CoopNets' two losses."""
    theirs, ours = coopnets(), dual_mcmc(teaching=Teaching(data_weight=0.0))
    one, two = watched(theirs, monkeypatch), watched(ours, monkeypatch)
    torch.manual_seed(3)
    theirs.iterate(images(), torch.zeros(6))
    torch.manual_seed(3)
    ours.iterate(images(), torch.zeros(6))
    losses = [{names[0]: loss for loss, names, _ in calls} for calls in (one, two)]
    for name in ("energy_net", "generator"):
        torch.testing.assert_close(losses[0][name], losses[1][name], rtol=1e-4, atol=1e-6)


def test_coopnets_without_steps_teaches_the_generator_nothing(monkeypatch):
    method = coopnets(sampler=Langevin(0, 0.1, 0.0))
    calls = watched(method, monkeypatch)
    method.iterate(images(), torch.zeros(6))
    assert calls[1][0] == 0
    assert calls[1][2] == set()


def test_tilted_is_the_energy_and_a_gaussian_s():
    x = torch.randn(4, 1, 2, 2, dtype=torch.float64)
    energy = Tilted(lambda x: x.sum((1, 2, 3)), 0.5)
    torch.testing.assert_close(gradient(energy, x), 1 + x / 0.25)


# ── Divergence Triangle ─────────────────────────────────────────────────────────────────────────────────────────────


def test_triangle_losses(monkeypatch):
    method = triangle(latent_weight=0.3)
    calls, x = watched(method, monkeypatch), images()
    torch.manual_seed(3)
    method.iterate(x, torch.zeros(6))
    assert [(names, reached) for _, names, reached in calls] == [
        (("energy_net",), {"energy_net"}),
        (("inference",), {"inference", "generator"}),
        (("generator",), {"generator", "energy_net", "inference"}),
    ]
    torch.manual_seed(3)
    G, E, q = method.generator, method.energy_net, method.inference
    m = torch.randn(6, 4)
    made = G(m)
    energy = E(x).mean() - E(made).mean()
    mu, logvar = q(x)
    fit = ((x - G(mu + (logvar / 2).exp() * torch.randn(6, 4))) ** 2).sum() / 6
    kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).mean()  # as the authors' code: the mean over dimensions
    inference = fit + kl + 0.3 * nll(m, *q(made))
    fit = ((x - G(mu + (logvar / 2).exp() * torch.randn(6, 4))) ** 2).sum() / 6
    generator = fit + E(made).mean() + 0.3 * nll(m, *q(made))
    for (loss, _, _), want in zip(calls, (energy, inference, generator), strict=True):
        torch.testing.assert_close(loss, want.detach(), rtol=1e-4, atol=1e-4)


def test_triangle_moves_energies_apart_and_its_generator_down(tmp_path):
    """The generator's step lowers the energy of what it makes: the adversarial edge of the triangle."""
    torch.manual_seed(0)
    method = triangle(latent_weight=0.0)
    optimizer = torch.optim.SGD(method.generator.parameters(), 1e-3)
    before = {n: p.clone() for n, p in method.generator.named_parameters()}
    m = torch.randn(64, 4)
    energy = method.energy_net(method.generator(m)).mean()
    optimizer.zero_grad()
    energy.backward()
    optimizer.step()
    assert method.energy_net(method.generator(m)).mean() < energy
    assert any(not torch.equal(p, before[n]) for n, p in method.generator.named_parameters())


# ── VAE ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_vae_loss_is_the_negative_bound(monkeypatch):
    method = vae(sigma=0.5)
    calls, x = watched(method, monkeypatch), images()
    torch.manual_seed(3)
    method.iterate(x, torch.zeros(6))
    (loss, names, reached), *rest = calls
    assert not rest
    assert set(names) == reached == {"generator", "inference"}
    torch.manual_seed(3)
    mu, logvar = method.inference(x)
    q = torch.distributions.Normal(mu, (logvar / 2).exp())
    z = mu + q.scale * torch.randn(6, 4)
    prior = torch.distributions.Normal(torch.zeros_like(mu), 1.0)
    likelihood = torch.distributions.Normal(method.generator(z), 0.5).log_prob(x).sum((1, 2, 3))
    bound = (likelihood - torch.distributions.kl_divergence(q, prior).sum(1)).mean()
    constant = 64 * (math.log(0.5) + 0.5 * math.log(2 * math.pi))
    torch.testing.assert_close(loss, (-bound - constant).detach(), rtol=1e-4, atol=1e-3)


def test_vae_energy_is_above_the_exact_free_energy():
    """For a linear generator −log p(x) is known, and the bound at q's mean without its entropy terms is the exact one
    where q's variance is the posterior's."""

    class Linear(nn.Module):
        latent = 1

        def forward(self, z):
            return (2.0 * z).view(-1, 1, 1, 1)

    class Exact(nn.Module):
        latent = 1

        def forward(self, x):
            precision = 4 / 0.25 + 1
            mu = 2 * x.flatten(1) / 0.25 / precision
            return mu, torch.full_like(mu, -math.log(precision))

    method = vae(generator=Linear(), inference=Exact(), sigma=0.5).double()
    x = torch.tensor([0.3, -1.2], dtype=torch.float64).view(2, 1, 1, 1)
    with method.evaluating():
        gap = method.energy(x) - x.flatten(1).square().sum(1) / (2 * (4 + 0.25))
    torch.testing.assert_close(gap[0], gap[1])  # a constant: the same scores


def test_vae_makes_no_chain():
    method = vae()
    made = method.sample(3)
    assert (made.nfe, made.steps, made.start) == (1, 0, "generator")
    assert math.isnan(made.temperature)
    with pytest.raises(UserError, match="VAE samples without a chain"):
        method.sample(3, steps=5)


# ── Hat EBM ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_hat_energy_is_of_the_sum():
    torch.manual_seed(0)
    g = nn.Linear(4, 64).double()
    energy = Hat(lambda x: (x**4).sum((1, 2, 3)), lambda z: g(z).view(-1, 1, 8, 8))
    y, z = torch.randn(3, 1, 8, 8, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    x = g(z).view(-1, 1, 8, 8) + y
    torch.testing.assert_close(energy(y, z), (x**4).sum((1, 2, 3)))
    torch.testing.assert_close(gradient(OfResidual(energy.energy, energy.generator(z)), y), (4 * x**3).detach())
    torch.testing.assert_close(gradient(OfLatent(energy, y), z), (4 * x**3).flatten(1).detach() @ g.weight)


def test_hat_losses_and_bank(monkeypatch):
    method = hat_ebm(data_noise=0.0, generator_weight=10.0, sampler=Langevin(3, 0.1, 0.01), bank_size=6)
    calls, x = watched(method, monkeypatch), images()
    scale = 0.01**2 / 0.2
    torch.manual_seed(3)
    method.iterate(x, torch.zeros(6))
    torch.manual_seed(3)
    z = torch.randn(6, 4)
    method.generator.eval()
    made = method.generator(z).detach()
    chain = method.sampler(method.energy_net, made)  # a chain on y from 0 is the chain on x from G(z)
    want = (method.energy_net(x).mean() - method.energy_net(chain).mean()) / scale
    torch.testing.assert_close(calls[0][0], want.detach(), rtol=1e-3, atol=1e-3)
    assert calls[0][1:] == (("energy_net",), {"energy_net"})
    assert calls[1][0] == 0, "an empty bank teaches nothing"
    kept = torch.cat([method.bank_latents, method.bank_images.flatten(1)], 1)
    new = torch.cat([z, chain.flatten(1)], 1)
    torch.testing.assert_close(kept.sort(0).values, new.sort(0).values, rtol=1e-4, atol=1e-5)
    assert bool(method.bank_filled.all())

    pairs = method.bank_latents.clone(), method.bank_images.clone()
    method.iterate(x, torch.zeros(6))
    want = 10.0 * (method.generator(pairs[0]) - pairs[1]).square().mean()  # the bank is one batch: all of it is drawn
    torch.testing.assert_close(calls[3][0], want.detach(), rtol=1e-4, atol=1e-6)
    assert calls[3][1:] == (("generator",), {"generator"})
    assert not torch.equal(method.bank_latents, pairs[0]), "the pairs used are replaced"


def test_hat_steps_are_clipped_and_latents_move_only_with_their_sampler():
    steep = lambda x: 1000 * x.sum((1, 2, 3))  # noqa: E731
    clipped = hat_ebm(sampler=Langevin(1, 0.1, 0.0, max_step_norm=2.5), by_temperature=False)
    z = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    with clipped.evaluating():
        same, x = clipped._walk(Hat(steep, clipped.generator), z, clipped.sampler)
        moved = (x - clipped.generator(z)).flatten(1).norm(dim=1)
    assert torch.equal(same, z)
    torch.testing.assert_close(moved, torch.full((5,), 2.5))

    both = hat_ebm(sampler=Langevin(3, 0.1, 0.0), latent_sampler=Langevin(1, 0.05, 0.0), by_temperature=False)
    both.double()
    z = z.double()
    quadratic = lambda x: x.square().sum((1, 2, 3)) / 2  # noqa: E731
    with both.evaluating():
        end, x = both._walk(Hat(quadratic, both.generator), z, both.sampler)
        want, y = z, torch.zeros(5, 1, 8, 8, dtype=torch.float64)
        for _ in range(3):
            want = want - 0.05 * gradient(lambda w: quadratic(both.generator(w) + y), want)  # noqa: B023
            y = y - 0.1 * (both.generator(want) + y)
        torch.testing.assert_close(end, want)
        torch.testing.assert_close(x, both.generator(want) + y)
    assert both.float().sample(2).nfe == 1 + 4 * 3


def test_hat_without_steps_teaches_the_generator_nothing(monkeypatch):
    """Law 16: the bank then holds the generator's own images."""
    method = hat_ebm(sampler=Langevin(0, 0.1, 0.01), bank_size=6)
    calls = watched(method, monkeypatch)
    for _ in range(2):
        method.iterate(images(), torch.zeros(6))
    assert bool(method.bank_filled.all())
    assert calls[3][0] < 1e-10


def test_hat_keeps_batch_statistics_and_needs_a_bank_of_a_batch(tmp_path):
    method = hat_ebm()
    before = {n: b.clone() for n, b in method.generator.named_buffers()}
    trainer(tmp_path).fit(method, TinyData())
    assert all(torch.equal(b, before[n]) for n, b in method.generator.named_buffers())
    with pytest.raises(UserError, match=r"bank_size is 2; it must be at least data\.batch_size"):
        trainer(tmp_path).fit(hat_ebm(bank_size=2), TinyData())


# ── all of them ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("make", ALL)
def test_every_baseline_trains_samples_and_scores(make, tmp_path):
    torch.manual_seed(0)
    method, steps = make(), []
    before = {n: p.detach().clone() for n, p in method.named_parameters() if not n.startswith("averages")}
    trainer(tmp_path, callbacks=[Watch(lambda t, m: steps.append(t.global_step))]).fit(method, TinyData())
    assert steps == [1, 2, 3, 4]
    moved = {n.split(".")[0] for n, p in method.named_parameters() if n in before and not torch.equal(p, before[n])}
    assert moved == set(method.descents())
    made = method.sample(3, generator=torch.Generator().manual_seed(0))
    again = method.sample(3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made.images, again.images)
    with method.evaluating():
        assert method.ood_score(images()).shape == (6,)
        assert method.decode(torch.randn(3, method.latent)).shape == (3, 1, 8, 8)
        if isinstance(method, Reconstructs):
            assert method.infer(images()).shape == (6, method.latent)
            assert method.posterior_sampler is None or isinstance(method.posterior_sampler, PosteriorSampler)
        if isinstance(method, StartsFromGenerator):
            alone = method.sample(2, steps=0)
            assert alone.nfe == 1
            path = list(method.revise(alone.images))
            assert len(path) == method.sampler.steps + 1
            assert torch.equal(path[0], alone.images)


@pytest.mark.parametrize("make", [coopnets, hat_ebm])
def test_what_has_no_inference_network_says_so_by_its_type(make):
    assert not isinstance(make(), Reconstructs)


@pytest.mark.parametrize("make", [vae, triangle])
def test_what_has_no_chain_says_so_by_its_type(make):
    assert not isinstance(make(), StartsFromGenerator)
