"""The cooperative baselines against their equations, and against what they are ablations of."""

import json
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import Adam

from ebmzoo.energy import gradient
from ebmzoo.errors import UserError
from ebmzoo.methods import DualMCMCLosses, LIEBMElbo
from ebmzoo.methods.base.capabilities import Reconstructs, StartsFromGenerator
from ebmzoo.networks import SNGANInference
from ebmzoo.networks.batch_norm_calibration import norms
from ebmzoo.sampling.energies import Tilted
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.latent_energies import Hat, OfLatent, OfResidual
from ebmzoo.sampling.posterior import PosteriorSampler
from ebmzoo.tasks import Interpolation, Reconstruction, Revision
from support.tiny import TinyData, Watch, coopnets, dual_mcmc, hat_ebm, liebm, stage, trainer, triangle, vae

ALL = [coopnets, triangle, vae, hat_ebm, dual_mcmc]


def images(n=6):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def watched(method, monkeypatch):
    """Have `minimize` note its losses, networks and gradients instead of stepping."""
    calls = []

    def note(self, loss, *names):
        self.zero_grad()
        loss.backward(retain_graph=True)
        reached = {n.split(".")[0] for n, p in self.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        calls.append((loss.detach(), names, reached))
        return torch.tensor(0.0)

    monkeypatch.setattr(type(method), "minimize", note)
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
    theirs, ours = coopnets(), dual_mcmc(teaching=DualMCMCLosses(data_weight=0.0))
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
        (("inference",), {"inference"}),
        (("generator",), {"generator"}),
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


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("make", ALL)
def test_every_baseline_trains_samples_and_scores(make, precision, tmp_path):
    torch.manual_seed(0)
    method, steps = make(), []
    before = {n: p.detach().clone() for n, p in method.named_parameters() if not n.startswith("averages")}
    watch = Watch(lambda t, m: steps.append(t.global_step))
    trainer(tmp_path, precision=precision, callbacks=[watch]).fit(method, TinyData())
    assert steps == [1, 2, 3, 4]
    moved = {n.split(".")[0] for n, p in method.named_parameters() if n in before and not torch.equal(p, before[n])}
    assert moved == set(method.trained_networks())
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


@pytest.mark.parametrize("make", [triangle, vae, dual_mcmc])
def test_latents_of_two_sizes_are_told(make):
    with pytest.raises(UserError, match=r"model\.inference has latents of dimension 6 and model\.generator of 4"):
        make(inference=SNGANInference(in_channels=1, size=8, latent=6, width=16))


@pytest.mark.parametrize(
    ("make", "changes", "told"),
    [
        (vae, {"sigma": 0.0}, r"model\.sigma is 0\.0; it must be a positive number"),
        (coopnets, {"sigma": -1.0}, r"model\.sigma is -1\.0"),
        (coopnets, {"reference_std": 0.0}, r"model\.reference_std is 0\.0"),
    ],
)
def test_standard_deviations_are_positive(make, changes, told):
    with pytest.raises(UserError, match=told):
        make(**changes)


def erm():
    """LIEBM with an inference network, in the range of its CIFAR-10 settings."""
    return liebm(inference=True, elbo=LIEBMElbo(), image_range=(0.0, 1.0), encoder_stage=stage(epochs=0))


@pytest.mark.parametrize("make", [*ALL, erm])
def test_the_tasks_ask_every_method_that_can(make, tmp_path):
    tasks = [Reconstruction(steps=(2,), noise_steps=(3,)), Interpolation(), Revision(n=8)]
    method = make()
    trainer(tmp_path, callbacks=tasks).test(method, TinyData(), verbose=False)
    found = {path.stem: json.loads(path.read_text())["figures"] for path in (tmp_path / "test").glob("*.json")}
    infers, chains = isinstance(method, Reconstructs), isinstance(method, StartsFromGenerator)
    rows = {name.partition("/")[0] for name in found["reconstruction"]}
    assert rows == ({"inference", "inference+2", "noise+3"} if infers else {"noise+3"})
    kinds = {name.partition("/")[0] for name in found["interpolation"]}
    assert kinds == ({"latent", "real"} if infers else {"latent"})
    parts = {name.partition("/")[0] for name in found["revision"]}
    assert parts == {part for part, can in (("x", chains), ("z", infers)) if can}
    assert all(value is not None for figures in found.values() for value in figures.values())


@pytest.mark.parametrize("learner", ["energy_net", "generator", "inference"])
@pytest.mark.parametrize("make", [triangle, dual_mcmc])
def test_a_step_changes_the_network_that_its_loss_is_for(make, learner, tmp_path):
    """With the other two optimizers held at rate 0, only the learner moves."""
    rates = {"energy_optimizer": 0.0, "generator_optimizer": 0.0, "inference_optimizer": 0.0}
    rates[learner.removesuffix("_net") + "_optimizer"] = 0.01
    method = make(**{name: partial(Adam, lr=rate) for name, rate in rates.items()})
    before = {n: p.detach().clone() for n, p in method.named_parameters() if not n.startswith("averages")}
    trainer(tmp_path, max_steps=1).fit(method, TinyData())
    moved = {n.split(".")[0] for n, p in method.named_parameters() if n in before and not torch.equal(p, before[n])}
    assert moved == {learner}


@pytest.mark.parametrize("make", [coopnets, hat_ebm])
def test_what_has_no_inference_network_says_so_by_its_type(make):
    assert not isinstance(make(), Reconstructs)


@pytest.mark.parametrize("make", [vae, triangle])
def test_what_has_no_chain_says_so_by_its_type(make):
    assert not isinstance(make(), StartsFromGenerator)


@pytest.mark.parametrize("make", [coopnets, dual_mcmc, triangle, vae])
def test_samples_have_the_statistics_of_samples(make):
    """Batch norms see N(0, I) when sampling, whatever training left in them; inferred latents see what it left."""
    method = make()
    for norm in norms(method.averages["generator"].module):
        norm.running_var.fill_(100.0)
    torch.manual_seed(0)
    m = torch.randn(1000, method.latent)
    with method.evaluating():
        copy = method._sampler_of_images()
        assert copy is method._sampler_of_images(), "estimated once for the same weights"
        seen = []
        first = norms(copy)[0]
        handle = first.register_forward_hook(lambda _, args, out: seen.append(out))
        made = method.decode(m)
        handle.remove()
        assert abs(seen[0].mean()) < 0.05
        assert abs(seen[0].std() - 1) < 0.05
        assert not torch.allclose(made, method.decode_inferred(m), atol=1e-3)
        torch.testing.assert_close(method.decode_inferred(m), method.network("generator")(m))
        with torch.no_grad():
            method.averages["generator"].module.last.bias += 1.0
        assert not torch.allclose(method.decode(m), made, atol=1e-3), "estimated anew for other weights"
    assert all(bool((norm.running_var == 100).all()) for norm in norms(method.averages["generator"].module))
    assert not any("calibration" in key for key in method.state_dict())


def test_hat_samples_in_inference_mode():
    method = hat_ebm()
    m = torch.randn(3, 4)
    with method.evaluating():
        torch.testing.assert_close(method.decode(m), method.network("generator")(m))
