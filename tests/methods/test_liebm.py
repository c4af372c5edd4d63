"""LIEBM against its equations, in its three generator settings."""

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from ebmzoo.errors import UserError
from ebmzoo.methods import LIEBM, LIEBMElbo
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.latent_energies import GivenLatent, Informed, Joint
from ebmzoo.ssrl import Augment
from support.tiny import TinyData, Watch, encoder, liebm, networks, stage, trainer, without_latent


@pytest.fixture
def record(monkeypatch):
    """What `minimize` was called with, instead of a step: (loss, names)."""
    calls = []

    def attach(method):
        monkeypatch.setattr(
            type(method), "minimize", lambda self, loss, *names: (calls.append((loss, names)), torch.tensor(0.0))[1]
        )
        return calls

    return attach


def images(n=6):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def only_stage_two(**changes):
    return liebm(**{"encoder_stage": stage(epochs=0)} | changes)


def test_energy_loss_is_equation_4(record):
    """L_E = mean[E(x) − γ cos(g_ψ(f(x)), z)] − mean E(x^T): latents on the data only."""
    method = only_stage_two(gamma=0.7, negative_augment_prob=0.0)
    calls, x = record(method), images()
    torch.manual_seed(3)
    method.iterate(x, torch.zeros(6))
    (loss, names), _ = calls
    assert names == ("energy_net",)

    torch.manual_seed(3)  # the same draws, in the algorithm's order
    m = torch.randn(6, 4)
    start = method.generator(m).detach()
    torch.rand(6)  # who would be augmented
    chain = method.sampler(method.energy_net, start)
    z = method.encoder.eval()(method.augment(x))
    net = method.energy_net
    want = (Joint(net, 0.7)(x, z)).mean() - net(chain).mean()
    torch.testing.assert_close(loss, want, rtol=1e-4, atol=1e-5)


def test_generator_loss_is_equation_8(record):
    method = only_stage_two(negative_augment_prob=0.0)
    calls = record(method)
    torch.manual_seed(3)
    method.iterate(images(), torch.zeros(6))
    _, (loss, names) = calls
    assert names == ("generator",)
    torch.manual_seed(3)
    made = method.generator(torch.randn(6, 4))
    torch.rand(6)
    target = method.sampler(method.energy_net, made.detach())
    torch.testing.assert_close(loss, (made - target).square().sum() / 6, rtol=1e-4, atol=1e-6)


def test_no_steps_teach_the_generator_nothing(record):
    """With 0 Langevin steps L_G = 0, and so is its gradient (law 16)."""
    method = only_stage_two(sampler=Langevin(0, 1.0), negative_augment_prob=0.0)
    calls = record(method)
    readings = method.iterate(images(), torch.zeros(6))
    loss = calls[1][0]
    assert loss.item() == 0.0
    loss.backward()
    assert all(float(p.grad.abs().max()) == 0 for p in method.generator.parameters() if p.grad is not None)
    assert float(readings["displacement"]) == 0.0


def test_a_known_shift_costs_its_square(record, monkeypatch):
    """With target G(m) + d, L_G = |d|² (law 16)."""
    method = only_stage_two(negative_augment_prob=0.0)
    calls = record(method)
    monkeypatch.setattr(Langevin, "__call__", lambda self, energy, x: x + 0.25)
    method.iterate(images(), torch.zeros(6))
    assert float(calls[1][0]) == pytest.approx(0.25**2 * 64, rel=1e-5)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_generator_does_not_learn_from_augmented_chains(record, p, monkeypatch):
    method = only_stage_two(negative_augment_prob=p)
    calls, far = record(method), 100.0
    monkeypatch.setattr(Augment, "forward", lambda self, x, generator=None: torch.full_like(x, far))
    monkeypatch.setattr(method, "_latent", lambda x: normalize(torch.ones(len(x), 8), dim=1))
    torch.manual_seed(0)
    method.iterate(images(64), torch.zeros(64))
    loss = float(calls[1][0])
    assert loss < far, "a chain that started from v(G(m)) taught the generator"
    assert (loss == 0.0) == (p == 1.0)


def test_augmented_with_probability_p():
    method = only_stage_two(negative_augment_prob=0.3)
    torch.manual_seed(0)
    x0 = images(4000)
    start, augmented = method._augment_negatives(x0)
    assert float(augmented.float().mean()) == pytest.approx(0.3, abs=0.03)
    changed = (start != x0).flatten(1).any(1)
    assert torch.equal(changed & ~augmented, torch.zeros(4000, dtype=torch.bool))
    assert float(changed[augmented].float().mean()) > 0.9


def test_chain_is_marginal_or_joint():
    em, ejm = only_stage_two(), only_stage_two(chain="joint", gamma=0.7)
    assert em._chain_energy(em.energy_net) is em.energy_net
    energy = ejm._chain_energy(ejm.energy_net)
    assert isinstance(energy, Informed)
    x = images()
    ejm.eval()
    want = Joint(ejm.energy_net, 0.7)(x, ejm.encoder(x))
    torch.testing.assert_close(energy(x), want)


def test_encoder_is_frozen_before_the_first_chain(record):
    """In the EJM setting the chain itself runs through h: batch statistics would tie its images together."""
    method = only_stage_two(chain="joint", gamma=0.7)
    record(method)
    modes = []
    method.encoder.register_forward_pre_hook(lambda h, _: modes.append(h.training))
    before = [b.clone() for b in method.encoder.buffers()]
    method.iterate(images(), torch.zeros(6))
    assert modes == [False] * 3  # two steps of the chain, then the data's latents
    assert all(torch.equal(a, b) for a, b in zip(before, method.encoder.buffers(), strict=True))


@pytest.mark.parametrize("image_range", [(-1.0, 1.0), (0.0, 1.0)])
def test_range_is_converted_at_the_door(image_range):
    method = only_stage_two(image_range=image_range, chain="joint")
    method.use_averages, seen = False, []
    method.energy_net.trunk.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    encoded = []
    method.encoder.register_forward_pre_hook(lambda _, args: encoded.append(args[0].detach()))
    x = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 8, 8)
    method.eval()
    method.energy(x)
    assert (float(seen[-1].min()), float(seen[-1].max())) == image_range
    method._chain_energy(method.energy_net)(method.range.inward(x))
    assert (float(encoded[-1].min()), float(encoded[-1].max())) == (-1.0, 1.0)
    torch.testing.assert_close(method.range.outward(method.range.inward(x)), x)
    made = method.sample(5, steps=0).images
    assert -1 <= float(made.min()) < float(made.max()) <= 1
    assert float(made.min()) < -0.01, "the generator's tanh must come back out of the energy's range"


def test_erm_is_equations_11_and_14(record):
    elbo = LIEBMElbo(rho=2.0, weight=0.1, energy_weight=3.0)
    method = only_stage_two(inference=True, elbo=elbo, negative_augment_prob=0.0)
    calls, x = record(method), images()
    readings = method.iterate(x, torch.zeros(6))
    loss, names = calls[1]
    assert names == ("generator", "inference")
    parts = readings["elbo_pixels"] + readings["elbo_latent"] + readings["elbo_kl"]
    torch.testing.assert_close(loss.detach(), 3.0 * readings["loss_generator"] + 0.1 * parts)
    loss.backward()
    for net in (method.generator, method.inference):
        assert any(float(p.grad.abs().sum()) > 0 for p in net.parameters() if p.grad is not None)
    assert all(p.grad is None for p in method.encoder.parameters())


def test_elbo_parts_against_closed_forms(monkeypatch):
    """KL of N(μ, σ²) to N(0, 1) in 4 dimensions, squared pixels summed, −ρ cos."""

    class Fixed(nn.Module):
        def forward(self, x):
            mu = torch.tensor([1.0, 0.0, -2.0, 0.5]).expand(len(x), 4)
            return mu, torch.log(torch.tensor([0.5, 1.0, 2.0, 1.0])).expand(len(x), 4)

    method = only_stage_two(inference=True, elbo=LIEBMElbo(rho=2.0))
    method.eval()
    monkeypatch.setattr(method.generator, "forward", lambda m: torch.full((len(m), 1, 8, 8), 0.5))
    x = torch.zeros(6, 1, 8, 8)
    z = -method.encoder(torch.full((6, 1, 8, 8), 0.5)).detach()
    bound, parts = method._negative_elbo(method.elbo, Fixed(), x, z)
    kl = 0.5 * ((1 + 0 + 4 + 0.25) + (0.5 + 1 + 2 + 1) - 4 - sum(torch.log(torch.tensor([0.5, 1.0, 2.0, 1.0]))))
    assert float(parts["elbo_kl"]) == pytest.approx(float(kl), rel=1e-5)
    assert float(parts["elbo_pixels"]) == pytest.approx(0.25 * 64)
    assert float(parts["elbo_latent"]) == pytest.approx(2.0, rel=1e-5)
    assert float(bound) == pytest.approx(float(kl) + 16 + 2, rel=1e-5)


def test_a5_inference_network_leaves_the_generator_alone(record):
    """Eq. 26: no pixel term, only q learns, and G's batch statistics do not see q's latents."""
    method = only_stage_two(inference=True, elbo=LIEBMElbo(pixels=False), negative_augment_prob=0.0)
    calls = record(method)
    forwards = []
    method.generator.register_forward_pre_hook(lambda g, _: forwards.append(g.training))
    readings = method.iterate(images(), torch.zeros(6))
    assert [names for _, names in calls] == [("energy_net",), ("inference",), ("generator",)]
    torch.testing.assert_close(calls[1][0].detach(), readings["elbo_latent"] + readings["elbo_kl"])
    assert forwards == [True, False]
    assert method.generator.training


def test_phases_train_what_they_should(tmp_path):
    """Stage 1 changes the encoder alone, stage 2 everything but the encoder."""
    method = liebm(encoder_stage=stage(epochs=2))
    nets = {"energy_net": method.energy_net, "generator": method.generator, "encoder": method.encoder}

    def snapshot():
        return {name: [v.detach().clone() for v in net.state_dict().values()] for name, net in nets.items()}

    trace = {0: (snapshot(), "")}
    fit = trainer(
        tmp_path, max_epochs=4, callbacks=[Watch(lambda t, m: trace.update({t.global_step: (snapshot(), m.phase)}))]
    )
    fit.fit(method, TinyData())

    def changed(name, a, b):
        return any(not torch.equal(u, v) for u, v in zip(trace[a][0][name], trace[b][0][name], strict=True))

    assert [changed(n, 0, 8) for n in ("energy_net", "generator", "encoder")] == [False, False, True]
    assert [changed(n, 8, 16) for n in ("energy_net", "generator", "encoder")] == [True, True, False]
    assert trace[8][1].startswith("stage 1")
    assert trace[9][1].startswith("stage 2")
    assert {
        "train/energy_data",
        "train/energy_chain",
        "train/energy_gap",
        "train/grad_norm",
        "train/displacement",
    } <= set(fit.callback_metrics)


def test_encoder_trained_jointly_gets_the_models_latents_as_negatives(tmp_path, monkeypatch):
    given = []
    method = liebm(encoder_stage=stage(jointly=True))
    forward = method.objective.forward
    monkeypatch.setattr(
        method.objective,
        "forward",
        lambda *a, negatives=None: (given.append(negatives), forward(*a, negatives=negatives))[1],
    )
    before = [p.detach().clone() for p in method.encoder.parameters()]
    trainer(tmp_path, max_steps=2).fit(method, TinyData())
    assert [g.shape for g in given] == [(8, 8)] * 2
    torch.testing.assert_close(given[0].norm(dim=1), torch.ones(8))
    assert not given[0].requires_grad
    assert any(not torch.equal(a, b) for a, b in zip(before, method.encoder.parameters(), strict=True))


def test_ood_score_is_equation_15():
    method, x = only_stage_two(gamma_ood=0.4), images()
    method.eval()
    net = method.network("energy_net")
    torch.testing.assert_close(method.ood_score(x), GivenLatent(Joint(net, 0.4), method.encoder(x))(x))
    plain = without_latent()
    assert torch.equal(plain.ood_score(x), plain.energy(x))


def test_samples_say_what_they_cost():
    method = only_stage_two(sampler=Langevin(3, 0.1, 0.02))
    full, alone = method.sample(5), method.sample(5, steps=0)
    assert (full.nfe, full.steps, full.start) == (4, 3, "generator")
    assert full.temperature == pytest.approx(0.02**2 / 0.2)
    assert (alone.nfe, alone.steps) == (1, 0)
    assert full.images.shape == (5, 1, 8, 8)
    again = [method.sample(5, generator=torch.Generator().manual_seed(1)).images for _ in range(2)]
    assert torch.equal(*again)
    with pytest.raises(UserError, match="unconditional"):
        method.sample(5, labels=torch.zeros(5))


def test_infers_the_mean_and_only_with_an_inference_network():
    method = only_stage_two(inference=True, elbo=LIEBMElbo(), image_range=(0.0, 1.0))
    x = images()
    assert method.can_infer
    with method.evaluating():
        got = method.infer(x)
        torch.testing.assert_close(got, method.network("inference")((x + 1) / 2)[0])
        torch.testing.assert_close(method.decode_inferred(got), method.network("generator")(got))
    without = only_stage_two()
    assert not without.can_infer
    with pytest.raises(UserError, match="inference"):
        without.infer(x)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"encoder": None, "encoder_stage": None}, "encoder is missing"),
        ({"encoder_stage": None}, "encoder_checkpoint and encoder_stage"),
        ({"encoder_stage": stage(), "encoder_checkpoint": "x.ckpt"}, "encoder_checkpoint and encoder_stage"),
        ({"elbo": LIEBMElbo()}, "go together"),
        ({"negative_augment_prob": 1.2}, "negative_augment_prob is 1.2"),
        ({"image_range": (1.0, 0.0)}, "image_range"),
    ],
)
def test_contradictions_are_told(changes, told):
    with pytest.raises(UserError, match=told):
        LIEBM(**networks() | {"encoder": encoder(), "encoder_stage": stage()} | changes)


def test_energy_learns_to_tell_data_from_noise(tmp_path):
    """After training the energy of data is below that of scrambled data: the sign is right end to end."""
    torch.manual_seed(0)
    method = without_latent(
        sampler=Langevin(5, 0.1, 0.01), ema_decay=0.9, energy_optimizer=lambda p: torch.optim.Adam(p, 1e-3)
    )
    data = TinyData(n=64, batch_size=16)
    trainer(tmp_path, max_epochs=15).fit(method, data)
    x = data.test_set.float()
    scrambled = x.flatten(1)[:, torch.randperm(64)].view_as(x)
    with method.evaluating():
        assert float(method.energy(x).mean()) < float(method.energy(scrambled).mean())


def test_missing_encoder_is_told_when_a_fit_begins(tmp_path):
    method = liebm(encoder_stage=None, encoder_checkpoint="nowhere.ckpt")
    with pytest.raises(UserError, match=r"nowhere\.ckpt"):
        trainer(tmp_path).fit(method, TinyData())


def test_energy_penalty(record):
    """α·mean(E(x)² + E(x^T)²) is what the penalty adds."""
    losses = []
    for alpha in (0.0, 0.5):
        torch.manual_seed(0)
        method = only_stage_two(energy_penalty=alpha, negative_augment_prob=0.0)
        calls, seen = record(method), []
        marginal = method.energy_net.marginal

        def kept(f, marginal=marginal, seen=seen):
            seen.append(marginal(f))
            return seen[-1]

        method.energy_net.marginal = kept
        torch.manual_seed(3)
        method.iterate(images(), torch.zeros(6))
        losses.append((calls[-2][0].detach(), seen[-1].detach()))
    (plain, _), (penalised, energies) = losses
    data, chain = energies.chunk(2)
    torch.testing.assert_close(penalised - plain, 0.5 * (data.square() + chain.square()).mean(), rtol=1e-4, atol=1e-6)


def test_lr_schedule_is_of_all_three_networks(tmp_path):
    method = only_stage_two(
        inference=True, elbo=LIEBMElbo(), lr_schedule=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5)
    )
    rates = []
    watch = Watch(lambda t, m: rates.append([o.param_groups[0]["lr"] for o in t.optimizers[:3]]))
    trainer(tmp_path, max_steps=2, callbacks=[watch]).fit(method, TinyData())
    assert rates == [[5e-4] * 3, [2.5e-4] * 3]


def test_a_loaded_method_trains_in_training_mode(tmp_path):
    method = only_stage_two().eval()
    modes = []
    watch = Watch(lambda t, m: modes.append((m.generator.training, m.encoder.training)))
    trainer(tmp_path, max_steps=1, callbacks=[watch]).fit(method, TinyData())
    assert modes == [(True, False)]
