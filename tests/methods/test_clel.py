"""CLEL against its equations (Eq. 9, 10, 12, 13, 14, 15), its buffer, its averages and its samples."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR

from ebmzoo.data.image_range import dequantized
from ebmzoo.errors import UserError
from ebmzoo.methods import CLEL
from ebmzoo.methods.base.averaging import averaged
from ebmzoo.networks import CLELEnergy, CLELFeatures, ResNetEncoder, ViTEncoder
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.ssrl import BYOL, MAE, WMSE
from ebmzoo.training.config_files import config_path, read_config
from support.clel import ETA, SLOTS, TAU, N, clel, without_latent
from support.tiny import TinyData, Watch, encoder, trainer


def images(n=N):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def watched(monkeypatch):
    """Have `minimize` note its loss, its networks and whom the gradient reaches, instead of a step."""

    def attach(method):
        calls = []

        def note(self, loss, *names):
            self.zero_grad()
            loss.backward(retain_graph=True)
            got = {n.split(".")[0] for n, p in self.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
            calls.append((loss.detach(), names, got))
            return torch.tensor(0.0)

        monkeypatch.setattr(CLEL, "minimize", note)
        monkeypatch.setattr(CLEL, "progress", 0.5)
        method.energy_net.eval()  # two passes of a spectrally normalised network are then the same
        return calls

    return attach


def plain_augment(monkeypatch, method):
    """Views that are the image itself; how many images each call had."""
    seen = []
    monkeypatch.setattr(method.augment, "forward", lambda x, generator=None: (seen.append(len(x)), x)[1])
    return seen


def iterate(method, n=N):
    torch.manual_seed(3)
    return method.iterate(images(n), torch.zeros(n))


# ── an iteration ────────────────────────────────────────────────────────────────────────────────────────────────────


def independent(method, alpha, beta, tau_c, negatives):
    """Both losses, the chains and their slots written out from the paper, with the draws in the algorithm's order."""
    net, h, T, x = method.energy_net, method.encoder, method.augment, (images() + 1) / 2
    x = x * 255 / 256 + torch.rand_like(x) / 256
    slots = torch.randperm(SLOTS)[:N]
    anew = torch.rand(N) < 0.2
    states = method.replay.states[slots].clone()
    states[anew] = (torch.rand(N, 1, 8, 8) * 2 - 1)[anew]
    chain = (T(states) + 1) / 2
    for _ in range(2):
        chain.requires_grad_()
        (grad,) = torch.autograd.grad((net.features(chain) ** 2).sum() / 2, chain)
        chain = (chain - ETA * grad + TAU * torch.randn_like(chain)).clamp(0, 1).detach()
    z = h(T(2 * x - 1)).detach()

    f, f_chain = net.features(x), net.features(chain)
    data, ends = (f**2).sum(1) / 2, (f_chain**2).sum(1) / 2
    first, _, last = net.projection

    def g(f):
        u = f @ first.weight.T
        v = torch.where(u > 0, u, 0.2 * u) @ last.weight.T
        return v / v.norm(dim=1, keepdim=True)

    energy = sum(data[i] - beta * g(f)[i] @ z[i] - ends[i] + alpha * (data[i] ** 2 + ends[i] ** 2) for i in range(N))

    views = [method.objective.augment(2 * x - 1) for _ in range(2)]
    z = h(torch.cat(views))
    keys = torch.cat([z, g(f_chain).detach()]) if negatives else z
    total = 0.0
    for i in range(2 * N):
        logits = torch.stack([z[i] @ keys[k] / tau_c for k in range(len(keys)) if k != i])
        total = total - (z[i] @ z[(i + N) % (2 * N)] / tau_c - logits.logsumexp(0))
    return energy.detach() / N, total.detach() / (2 * N), chain, slots


@pytest.mark.parametrize("model_negatives", [True, False])
def test_losses_are_equations_12_and_13(model_negatives, watched):
    method = clel(alpha=0.7, model_negatives=model_negatives)
    calls, before = watched(method), method.replay.states.clone()
    told = iterate(method)
    after, method.replay.states = method.replay.states.clone(), before.clone()
    torch.manual_seed(3)
    energy, ssrl, chain, slots = independent(method, 0.7, 0.3, 0.2, model_negatives)
    torch.testing.assert_close(calls[0][0], energy, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(calls[1][0], ssrl, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(told["ssrl_loss"], calls[1][0], rtol=0, atol=0)

    torch.testing.assert_close(after[slots], 2 * chain - 1, rtol=0, atol=1e-4)
    untouched = torch.ones(SLOTS, dtype=torch.bool)
    untouched[slots] = False
    assert torch.equal(after[untouched], before[untouched])
    assert not torch.equal(after[slots], before[slots])


def test_each_loss_reaches_only_its_network(watched):
    """z and z̃ have no gradient, so two steps are the one step of the sum."""
    method = clel()
    calls = watched(method)
    iterate(method)
    assert [(names, got) for _, names, got in calls] == [
        (("energy_net",), {"energy_net"}),
        (("ssrl",), {"encoder"}),
    ]


def test_beta_weighs_the_data_s_latents_alone(watched):
    """Of the loss only −β mean cos(v, z) of the data depends on β: the chains have no latents of their own."""
    losses, told = {}, {}
    for beta in (0.0, 50.0):
        method = clel(beta=beta)
        calls = watched(method)
        told[beta] = iterate(method)
        losses[beta] = calls[0][0]
    assert abs(told[50.0]["agreement"]) > 0.001
    torch.testing.assert_close(losses[50.0] - losses[0.0], -50 * told[50.0]["agreement"], rtol=1e-3, atol=0)
    torch.testing.assert_close(told[50.0]["energy_chain"], told[0.0]["energy_chain"], rtol=0, atol=0)


def test_beta_zero_is_the_model_without_latents(watched):
    """The same energy loss, gradients and chains with an encoder that does not matter, and with none."""
    methods = [clel(beta=0.0), without_latent()]
    grads = []
    for method in methods:
        calls = watched(method)
        iterate(method)
        assert len(calls) == (2 if method.encoder is not None else 1)
        method.zero_grad()
        method.energy_net(torch.rand(2, 1, 8, 8)).sum().backward()
        grads.append((calls[0][0], method.replay.states))
    assert torch.equal(grads[0][0], grads[1][0])
    assert torch.equal(grads[0][1], grads[1][1])


def test_all_chains_are_augmented_once_and_the_data_for_their_latents(watched, monkeypatch):
    method = clel(dequantize=False)
    watched(method)
    seen = plain_augment(monkeypatch, method)
    iterate(method)
    assert seen == [N, N]

    monkeypatch.setattr(method.augment, "forward", lambda x, generator=None: torch.full_like(x, 0.5))
    method.sampler = Langevin(0, ETA)
    before = method.replay.states.clone()
    iterate(method)
    changed = (method.replay.states != before).flatten(1).any(1)
    assert int(changed.sum()) == N
    assert (method.replay.states[changed] == 0.5).all(), "a chain did not start from its augmented state"

    clean = clel(augment_latents=False)
    watched(clean)
    seen = plain_augment(monkeypatch, clean)
    iterate(clean)
    assert seen == [N]


def test_a_chain_goes_on_where_it_stopped(watched, monkeypatch):
    """Two iterations of K noiseless steps are one of 2K: the buffer keeps the state, in its own range."""
    states = []
    for steps, iterations in ((2, 2), (4, 1)):
        method = without_latent(sampler=Langevin(steps, ETA, 0.0, bounds=(0, 1)), reinit_prob=0.0, replay_size=N)
        watched(method)
        plain_augment(monkeypatch, method)
        start = method.replay.states.clone()
        for _ in range(iterations):
            iterate(method)
        states.append(method.replay.states)
    torch.testing.assert_close(states[0], states[1], rtol=1e-4, atol=1e-5)
    assert float((states[0] - start).abs().mean()) > 0.01


@pytest.mark.parametrize("dequantize", [True, False])
def test_data_are_dequantised(dequantize, watched, monkeypatch):
    method = without_latent(dequantize=dequantize, sampler=Langevin(0, ETA))
    watched(method)
    plain_augment(monkeypatch, method)
    seen = []
    method.energy_net.trunk.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()[:400]))
    levels = torch.arange(256).repeat(100).view(400, 1, 8, 8)
    method.replay = type(method.replay)(400, (1, 8, 8))
    method.iterate(levels / 127.5 - 1, torch.zeros(400))
    (x,) = seen
    if dequantize:
        u = x * 256 - levels
        assert -1e-3 < float(u.min()) < 0.01
        assert 0.99 < float(u.max()) < 1 + 1e-3
        assert float(u.mean()) == pytest.approx(0.5, abs=0.01)
    else:
        torch.testing.assert_close(x, levels / 255)


def test_the_encoder_may_have_the_larger_batch(watched, monkeypatch):
    method = clel(energy_batch=2)
    watched(method)
    seen = []
    monkeypatch.setattr(
        method.objective, "forward", lambda h, x, negatives: (seen.append((len(x), len(negatives))), h(x).sum())[1]
    )
    before = method.replay.states.clone()
    iterate(method)
    assert seen == [(N, 2)]
    assert int((method.replay.states != before).flatten(1).any(1).sum()) == 2


# ── a run ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_averages_are_copies_first_and_then_follow_the_recursion(tmp_path):
    method, trace = clel(ema_decay=0.75, ema_start=2), []

    def see(t, m):
        pairs = {n: (getattr(m, n), m.averages[n].module) for n in ("energy_net", "encoder")}
        trace.append({n: [[p.detach().clone() for p in x.parameters()] for x in pair] for n, pair in pairs.items()})
        for live, kept in pairs.values():
            for a, b in zip(live.buffers(), kept.buffers(), strict=True):
                assert torch.equal(a, b)

    trainer(tmp_path, callbacks=[Watch(see)]).fit(method, TinyData())
    assert len(trace) == 4
    for name in ("energy_net", "encoder"):
        kept = None
        for step, (live, average) in enumerate(entry[name] for entry in trace):
            if step < 2:
                assert all(torch.equal(a, b) for a, b in zip(live, average, strict=True))
            else:
                want = [0.75 * a + 0.25 * b for a, b in zip(kept, live, strict=True)]
                torch.testing.assert_close(average, want, rtol=1e-5, atol=1e-7)
                assert any(not torch.equal(a, b) for a, b in zip(live, average, strict=True))
            kept = average
    with pytest.raises(UserError, match="ema_start is -1"):
        averaged(0.5, -1, net=method.energy_net)


def test_default_decay_is_the_authors_half_life():
    """Half of what was there is left after 20,000 images, in batches of 64."""
    kept = clel(ema_decay=0.5 ** (64 / 20_000)).averages["energy_net"]
    assert pytest.approx(0.997784, abs=5e-7) == 0.5 ** (64 / 20_000)
    assert int(kept.n_averaged) == 1


def test_a_batch_is_one_step_and_both_networks_learn(tmp_path):
    schedules = {
        "energy_schedule": lambda o: LinearLR(o, 0.2, total_iters=4),
        "encoder_schedule": lambda o: CosineAnnealingLR(o, T_max=4),
    }
    method, rates, steps = clel(**schedules), [], []
    before = {n: p.detach().clone() for n, p in method.named_parameters() if not n.startswith("averages")}

    def see(t, m):
        steps.append(t.global_step)
        rates.append([o.param_groups[0]["lr"] for o in t.optimizers])

    fit = trainer(tmp_path, callbacks=[Watch(see)])
    fit.fit(method, TinyData())
    assert steps == [1, 2, 3, 4]
    moved = {n.split(".")[0] for n, p in method.named_parameters() if n in before and not torch.equal(p, before[n])}
    assert moved == {"energy_net", "encoder"}
    assert [r[0] for r in rates] == pytest.approx([1e-3 * (0.2 + 0.2 * k) for k in (1, 2, 3, 4)])
    assert [r[1] for r in rates] == pytest.approx([0.03 * (1 + math.cos(math.pi * k / 4)) / 2 for k in (1, 2, 3, 4)])
    for key in ("energy_data", "energy_chain", "energy_gap", "grad_norm", "displacement", "ssrl_loss"):
        assert fit.callback_metrics[f"train/{key}"].isfinite(), key


def vit():
    return ViTEncoder(1, 8, patch=2, width=8, depth=1, heads=2, latent=8, hidden=16, mean=None, std=None)


@pytest.mark.parametrize(
    ("make", "objective"),
    [
        (encoder, lambda: BYOL(hidden=8)),
        (encoder, lambda: WMSE(group=4, eps=0.1)),
        (vit, lambda: MAE(width=8, heads=2)),
    ],
)
def test_other_objectives_teach_the_encoder(make, objective, tmp_path):
    method = clel(encoder=make(), encoder_objective=objective())
    before = [p.detach().clone() for p in method.encoder.parameters()]
    trainer(tmp_path, max_steps=2).fit(method, TinyData())
    assert any(not torch.equal(a, b) for a, b in zip(before, method.encoder.parameters(), strict=True))
    live = list(method.encoder.parameters())
    assert all(torch.equal(a, b) for a, b in zip(live, method.averages["encoder"].module.parameters(), strict=True))


def test_mae_goes_from_one_phase_to_the_other(tmp_path):
    method, phases = clel(encoder=vit(), encoder_objective=MAE(width=8, heads=2, pretrain_fraction=0.5)), []
    watch = Watch(lambda t, m: phases.append(bool(m.objective.contrasting)))
    trainer(tmp_path, callbacks=[watch]).fit(method, TinyData())
    assert phases == [False, True, True, True]


@pytest.fixture
def pretrained(tmp_path):
    """A checkpoint with another encoder than `clel` begins with."""
    other = encoder()
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.1)
    path = tmp_path / "encoder.ckpt"
    torch.save({"state_dict": {f"encoder.{k}": v for k, v in other.state_dict().items()}}, path)
    return str(path), other


def test_a_pretrained_encoder_without_an_objective_is_held(pretrained, tmp_path):
    path, other = pretrained
    method = clel(encoder_objective=None, encoder_checkpoint=path)
    assert list(method.trained_networks()) == ["energy_net"]
    trainer(tmp_path, max_steps=2, limit_val_batches=1).fit(method, TinyData())
    for key, value in other.state_dict().items():
        assert torch.equal(method.encoder.state_dict()[key], value), key
    x = images()
    with method.evaluating():
        torch.testing.assert_close(method.encode(x), other.eval()(x), rtol=1e-4, atol=1e-5)


def test_a_pretrained_encoder_is_where_learning_begins(pretrained, tmp_path):
    """Also for the average, and for what an objective copies of it."""
    path, other = pretrained
    still = {"encoder_optimizer": lambda p: SGD(p, 0.0), "ema_start": 0}
    method = clel(encoder_objective=BYOL(hidden=8), encoder_checkpoint=path, **still)
    trainer(tmp_path, max_steps=1).fit(method, TinyData())
    for copy in (method.encoder, method.averages["encoder"].module, method.objective.target):
        for a, b in zip(copy.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_energy_learns_to_tell_data_from_noise(tmp_path):
    """After training, data have a lower energy than their own pixels shuffled: the sign is right end to end."""
    method = clel(sampler=Langevin(5, ETA, TAU, bounds=(0.0, 1.0)), beta=0.01, ema_start=100)
    data = TinyData(n=64, batch_size=16)
    trainer(tmp_path, max_epochs=8).fit(method, data)
    x = data.test_set.float()
    scrambled = x.flatten(1)[:, torch.randperm(64, generator=torch.Generator().manual_seed(0))].view_as(x)
    with method.evaluating():
        assert float(method.energy(x).mean()) < float(method.energy(scrambled).mean())


# ── evaluation ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_energy_and_ood_score_are_equations_11_and_14():
    method, x = clel(beta_ood=0.7, dequantize=False), images()
    net, h = method.averages["energy_net"].module, method.averages["encoder"].module
    with method.evaluating():
        f = net.features((x + 1) / 2)
        energy = f.norm(dim=1) ** 2 / 2
        cos = (normalize(net.project(f), dim=1) * h(x)).sum(1)
        torch.testing.assert_close(method.energy(x), energy)
        torch.testing.assert_close(method.ood_score(x), energy - 0.7 * cos)
        assert float(cos.abs().max()) > 0.05
        told = {name: read(x).shape for name, read in method.representations().items()}
        assert told == {"energy": (N, 8), "encoder": (N, method.encoder.feature_dim)}
        torch.testing.assert_close(method.encode(x), h(x), rtol=0, atol=0)
    plain = without_latent()
    with plain.evaluating():
        torch.testing.assert_close(plain.ood_score(x), plain.energy(x), rtol=0, atol=0)
    assert list(plain.representations()) == ["energy"]


def test_the_score_is_of_dequantised_images():
    """As in the code's evaluation; with one noise for all images, so that a score is a function of its image."""
    method, x = clel(beta_ood=0.7), torch.randint(0, 256, (N, 1, 8, 8)) / 127.5 - 1
    plain = clel(beta_ood=0.7, dequantize=False)
    with method.evaluating(), plain.evaluating():
        noise = (dequantized(x, seed=0) + 1) * 128 - (x + 1) * 127.5
        assert bool(((noise > -1e-3) & (noise < 1 + 1e-3)).all())
        torch.testing.assert_close(noise, noise[:1].expand_as(noise), rtol=0, atol=1e-4)
        assert float(noise.std()) == pytest.approx(12**-0.5, abs=0.05)
        torch.testing.assert_close(method.ood_score(x), plain.ood_score(dequantized(x, seed=0)))
        torch.testing.assert_close(method.ood_score(x)[2:3], method.ood_score(x[2:3]))
        assert not torch.equal(method.ood_score(x), plain.ood_score(x))


def test_the_spread_of_the_latent_term_beside_the_energy_s_is_logged(watched):
    method = clel(beta=0.3, beta_ood=0.7, energy_batch=4)
    watched(method)
    told = iterate(method)
    assert float(told["joint_ratio"]) > 0
    both = clel(beta=0.3, beta_ood=1.4, energy_batch=4)
    watched(both)
    torch.testing.assert_close(iterate(both)["joint_ratio"], 2 * told["joint_ratio"])
    plain = without_latent()
    watched(plain)
    assert "joint_ratio" not in iterate(plain)


def test_the_paper_s_evaluation_renews_samples_before_every_round():
    method = clel(evaluation="paper", reinit_prob=0.5, rounds=3)
    made = method.sample(4, generator=torch.Generator().manual_seed(5))
    random = torch.Generator().manual_seed(5)
    net, x = method.averages["energy_net"].module, torch.rand(4, 1, 8, 8, generator=random) * 2 - 1
    renewals = 0
    with method.evaluating():
        for _ in range(3):
            anew = torch.rand(4, generator=random) < 0.5
            fresh = torch.rand(4, 1, 8, 8, generator=random) * 2 - 1
            x = torch.where(anew.view(-1, 1, 1, 1), fresh, x)
            x01 = (method.augment(x, random) + 1) / 2
            x = 2 * Langevin(2, ETA, TAU, bounds=(0, 1))(net, x01, generator=random) - 1
            renewals += int(anew.sum())
    assert 0 < renewals < 12
    torch.testing.assert_close(made.images, x, rtol=0, atol=1e-6)
    assert (made.nfe, made.start) == (6, "noise")
    method.evaluation = "library"
    assert torch.equal(
        method.sample(4, generator=torch.Generator().manual_seed(5)).images,
        clel(reinit_prob=0.5, rounds=3).sample(4, generator=torch.Generator().manual_seed(5)).images,
    )


@pytest.mark.parametrize(("steps", "rounds"), [(None, [2, 2]), (5, [2, 2, 1]), (1, [1])])
def test_samples_are_rounds_of_augmentation_and_chain(steps, rounds):
    method = clel()
    made = method.sample(3, steps=steps, generator=torch.Generator().manual_seed(5))
    random = torch.Generator().manual_seed(5)
    net, x = method.averages["energy_net"].module, torch.rand(3, 1, 8, 8, generator=random) * 2 - 1
    with method.evaluating():
        for k in rounds:
            x01 = (method.augment(x, random) + 1) / 2
            x = 2 * Langevin(k, ETA, TAU, bounds=(0, 1))(net, x01, generator=random) - 1
    torch.testing.assert_close(made.images, x, rtol=0, atol=1e-6)
    assert (made.nfe, made.steps, made.start) == (sum(rounds), sum(rounds), "noise")
    assert made.temperature == pytest.approx(TAU**2 / (2 * ETA))


def test_no_steps_give_the_noise():
    method = clel()
    made = method.sample(1000, steps=0)
    assert (made.nfe, made.start) == (0, "noise")
    assert math.isnan(made.temperature)
    assert float(made.images.abs().max()) <= 1
    assert float(made.images.var()) == pytest.approx(1 / 3, rel=0.02)
    with pytest.raises(UserError, match="labels"):
        method.sample(2, labels=torch.zeros(2))


def test_one_latent_and_one_composed_are_the_same():
    method, z = clel(beta_sample=0.8), normalize(torch.randn(4, 8), dim=1)
    one, same = (method.sample_from_latents(z_, generator=torch.Generator().manual_seed(2)) for z_ in (z, z[:, None]))
    torch.testing.assert_close(one.images, same.images, rtol=1e-4, atol=1e-4)
    assert (one.nfe, one.start, one.images.shape) == (4, "noise", (4, 1, 8, 8))
    twice = method.sample_from_latents(z[:, None].expand(-1, 2, -1), generator=torch.Generator().manual_seed(2))
    double = clel(beta_sample=1.6).sample_from_latents(z, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(twice.images, double.images, rtol=1e-4, atol=1e-4)


def test_samples_given_a_latent_agree_with_it():
    """The sign of β: cos(g(f(x)), z) is higher than without, and without β it is the unconditional sample."""
    z = normalize(torch.randn(8, 8, generator=torch.Generator().manual_seed(4)), dim=1)
    agreement = {}
    for beta in (0.0, 20.0):
        method = clel(beta_sample=beta, rounds=4, sampler=Langevin(5, 1.0, 0.0, bounds=(0.0, 1.0)))
        x = method.sample_from_latents(z, generator=torch.Generator().manual_seed(2)).images
        with method.evaluating():
            f = method.network("energy_net").features((x + 1) / 2)
            agreement[beta] = cosine_similarity(method.network("energy_net").project(f), z)
        if beta == 0.0:
            free = method.sample(8, generator=torch.Generator().manual_seed(2)).images
            torch.testing.assert_close(x, free, rtol=0, atol=1e-6)
    assert (agreement[20.0] > agreement[0.0] + 0.01).all()
    assert clel(beta=0.05).beta_sample == 0.05


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"encoder": None}, "encoder is missing"),
        ({"encoder": None, "encoder_objective": None}, "encoder is missing"),
        ({"encoder_objective": None}, "encoder_objective to learn, or encoder_checkpoint"),
        ({"rounds": 0}, "rounds is 0"),
        ({"energy_batch": 0}, "energy_batch is 0"),
    ],
)
def test_contradictions_are_told(changes, told):
    with pytest.raises(UserError, match=told):
        clel(**changes)


def test_what_needs_an_encoder_says_so():
    method = without_latent()
    assert not method.can_condition_on_latents
    assert clel().can_condition_on_latents
    for ask in (lambda: method.encode(images()), lambda: method.sample_from_latents(torch.ones(2, 8))):
        with pytest.raises(UserError, match=r"model\.encoder is null"):
            ask()
    with pytest.raises(UserError, match=r"\(2, 5\)"):
        clel().sample_from_latents(torch.ones(2, 5))


def test_missing_encoder_and_other_images_are_told_before_training(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.ckpt"):
        trainer(tmp_path).fit(clel(encoder_checkpoint="nowhere.ckpt"), TinyData())
    with pytest.raises(UserError, match=r"\(1, 16, 16\) but data has \(1, 8, 8\)"):
        trainer(tmp_path).fit(clel(size=16), TinyData())


# ── configs ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def config(name):
    return read_config(config_path(name))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("clel_cifar", 6_955_648),
        ("clel_imagenet32", 6_955_648),
        ("clel_large_cifar", 30_706_816),
        ("clel_celeba64", 7_036_032),
        ("clel_small_network_cifar", 1_725_056),
    ],
)
def test_configs_have_the_papers_parameter_counts(name, count):
    model = config(name)["model"]["init_args"]
    energy = model["energy_net"]["init_args"]
    with torch.device("meta"):
        trunk = CLELFeatures(**energy.pop("features")["init_args"] | {"spectral_norm": "none"})
        nets = {count: CLELEnergy(trunk, **energy), 12_483_776: ResNetEncoder(**model["encoder"]["init_args"])}
    for want, net in nets.items():
        assert sum(p.numel() for p in net.parameters()) == want
    assert model["augment"] == model["encoder_objective"]["init_args"]["augment"]


def leaves(node, path=""):
    if isinstance(node, dict):
        return {k: v for key, value in node.items() for k, v in leaves(value, f"{path}.{key}").items()}
    return {path: node}


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("no_model_negatives", {"model_negatives"}),
        ("beta0001", {"beta"}),
        ("beta01", {"beta"}),
        ("projector_identity", {"energy_net.init_args.projection"}),
        ("projector_linear", {"energy_net.init_args.projection"}),
        ("multihead", {"energy_net.class_path", "energy_net.init_args.projection"}),
    ],
)
def test_ablations_change_what_they_say(name, changed):
    whole, other = (leaves(config(f"clel_{n}_cifar")) for n in ("small_network", name))
    differ = {key for key in whole.keys() | other.keys() if whole.get(key) != other.get(key)}
    assert differ == {".run_dir", *(f".model.init_args.{key}" for key in changed)}
