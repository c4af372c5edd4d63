"""Laws of the KL auto-encoder, its training from the first step to the loaded checkpoint, and the published ones."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.optim.lr_scheduler import ExponentialLR

from ebmzoo.data.images import to_float
from ebmzoo.errors import UserError
from ebmzoo.methods import KLAutoEncoderTraining
from ebmzoo.networks.autoencoder import DiffusersAutoencoder, ImageCoder, KLAutoEncoder, load_coder
from ebmzoo.networks.autoencoder.blocks import AutoEncoderAttention, Halve, decoder
from ebmzoo.training.checkpoint import LastCheckpoint
from support.tiny import TinyData, trainer


def coder(**changes):
    torch.manual_seed(0)
    return KLAutoEncoder(**{"in_channels": 1, "width": 8, "multiples": (1, 2), "depth": 1, "latent": 2} | changes)


def training(make=coder, lr=1e-2, **changes):
    return KLAutoEncoderTraining(make(), optimizer=lambda p: torch.optim.Adam(p, lr=lr), **changes)


def images(n=6, channels=1, size=8):
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(3)) * 2 - 1


def alone(module):
    """A training module, and the values that it logs."""
    logged = {}
    module.log = lambda key, value, **_: logged.__setitem__(key, value.detach())
    module.log_dict = lambda values: logged.update({key: value.detach() for key, value in values.items()})
    return module, logged


# ── the networks ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_default_is_the_f8_model_of_latent_diffusion():
    with torch.device("meta"):
        published = KLAutoEncoder()
        latents = published.encode(torch.empty(1, 3, 32, 32))
        assert published.decode(latents).shape == (1, 3, 32, 32)
    assert sum(p.numel() for p in published.parameters()) == 83_653_863
    assert latents.shape == (1, 4, 4, 4)
    assert published.shape(3, 256) == (4, 32, 32)
    assert {m.num_groups for m in published.modules() if isinstance(m, nn.GroupNorm)} == {32}


@pytest.mark.parametrize("multiples", [(1,), (1, 2), (2, 1, 3)])
@pytest.mark.parametrize(("channels", "latent", "depth"), [(1, 2, 1), (3, 5, 2)])
def test_shapes(multiples, channels, latent, depth):
    made = coder(in_channels=channels, multiples=multiples, latent=latent, depth=depth)
    x = images(2, channels)
    latents = made.encode(x)
    side = 8 // 2 ** (len(multiples) - 1)
    assert latents.shape[1:] == made.shape(channels, 8) == (latent, side, side)
    assert made.decode(latents).shape == x.shape


def test_decoder_has_a_block_more_in_each_level():
    # conv in, middle of 3, per level depth + 1 blocks, one doubling between two levels, end of 3
    assert len(decoder(3, 8, (1, 2, 3), 2, 4)) == 1 + 3 + 3 * 3 + 2 + 3


def test_attention_is_the_equation():
    torch.manual_seed(0)
    attention, x = AutoEncoderAttention(8), torch.randn(2, 8, 3, 2)
    q, k, v = attention.qkv(attention.norm(x)).flatten(2).chunk(3, 1)
    expected = torch.empty(2, 8, 6)
    for b in range(2):
        for i in range(6):
            weights = torch.stack([(q[b, :, i] @ k[b, :, j]) / 8**0.5 for j in range(6)]).softmax(0)
            expected[b, :, i] = sum(w * v[b, :, j] for j, w in enumerate(weights))
    torch.testing.assert_close(attention(x), x + attention.out(expected.view(2, 8, 3, 2)))


def test_halving_sees_zeros_at_the_right_and_the_lower_edge():
    halve = Halve(1)
    nn.init.ones_(halve.conv.weight)
    nn.init.zeros_(halve.conv.bias)
    assert torch.equal(halve(torch.ones(1, 1, 4, 4)), torch.tensor([[[[9.0, 6.0], [6.0, 4.0]]]]))


def test_coding_is_without_chance():
    made, x, before = coder(), images(), torch.get_rng_state()
    mu, _ = made.posterior(x)
    assert torch.equal(made.encode(x), mu)
    assert torch.equal(made.decode(mu), made.render(mu))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_scale_is_of_the_latents_alone():
    made, x = coder(), images()
    latents, restored = made.encode(x), made.decode(made.encode(x))
    made.scale.fill_(4.0)  # a power of two, so without rounding
    assert torch.equal(made.encode(x), 4 * latents)
    assert torch.equal(made.decode(made.encode(x)), restored)


def test_half_precision_comes_back_as_fp32():
    made, x = coder(), images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        latents = made.encode(x)
        assert latents.dtype == made.decode(latents).dtype == torch.float32


def test_logvar_is_clamped():
    made = coder()
    last = made.encoder[-1]
    nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias.copy_(torch.tensor([50.0, -50.0, 50.0, -50.0]))
    mu, logvar = made.posterior(images())
    assert [mu.amax().item(), mu.amin().item()] == [50, -50]
    assert [logvar.amax().item(), logvar.amin().item()] == [20, -30]


def test_frozen_is_for_good():
    made = coder()
    owner = nn.Sequential(made.freeze(), nn.Dropout()).train()
    assert owner[1].training
    assert not any(module.training for module in made.modules())
    assert not any(p.requires_grad for p in made.parameters())
    latents = made.encode(images()).requires_grad_()
    (grad,) = torch.autograd.grad(made.decode(latents).square().sum(), latents)
    assert grad.abs().max() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 6}, "width is 6"),
        ({"width": 0}, "width is 0"),
        ({"multiples": ()}, r"multiples is \[\]"),
        ({"multiples": (1, 0)}, r"multiples is \[1, 0\]"),
        ({"latent": 0}, "latent is 0"),
        ({"depth": 0}, "depth is 0"),
        ({"in_channels": 0}, "in_channels is 0"),
    ],
)
def test_numbers_out_of_range_are_refused(changes, message):
    with pytest.raises(UserError, match=rf"^coder.{message}; it must be"):
        coder(**changes)


def test_other_images_are_refused():
    made = coder(multiples=(1, 1, 1))
    with pytest.raises(UserError, match="in_channels is 1; it must be 3"):
        made.shape(3, 8)
    with pytest.raises(UserError, match="4 times smaller, which must divide their 10"):
        made.shape(1, 10)
    with pytest.raises(UserError, match="in_channels is 1; it must be 3"):
        made.encode(images(channels=3))


# ── the loss ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("power", [1, 2])
def test_the_loss_is_the_equation(power):
    module, logged = alone(training(kl_weight=0.25, power=power))
    x = images(3)
    torch.manual_seed(5)
    loss = module.training_step((x, torch.zeros(3)), 0)
    torch.manual_seed(5)
    noise = torch.randn(3, 2, 4, 4)
    mu, logvar = module.coder.posterior(x)
    made = module.coder.render(mu + logvar.exp().sqrt() * noise)
    recon = sum(((x[i] - made[i]).abs() ** power).sum() for i in range(3)) / 3
    q = Normal(mu, (logvar / 2).exp())
    kl = sum(kl_divergence(Normal(q.mean[i], q.stddev[i]), Normal(0.0, 1.0)).sum() for i in range(3)) / 3
    torch.testing.assert_close(logged["train/recon"], recon.detach())
    torch.testing.assert_close(logged["train/kl"], kl.detach())
    torch.testing.assert_close(loss, recon + 0.25 * kl)
    assert torch.equal(logged["train/loss"], loss)


def test_kl_is_zero_at_the_prior():
    module, logged = alone(training())
    last = module.coder.encoder[-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    module.training_step((images(), None), 0)
    assert logged["train/kl"] == 0
    nn.init.constant_(last.bias, 1.0)  # ½(μ² + e^{logvar} − 1 − logvar) = (e − 1)/2 for each of 32 numbers
    module.training_step((images(), None), 0)
    assert logged["train/kl"].item() == pytest.approx(16 * (torch.e - 1), rel=1e-6)


def test_the_gradient_reaches_every_parameter():
    module, _ = alone(training(kl_weight=0.0))
    module.training_step((images(), None), 0).backward()
    for name, p in module.named_parameters():
        assert p.grad.abs().max() > 0, name


def test_the_scale_has_no_part_in_the_loss():
    module, _ = alone(training(kl_weight=0.5))
    losses = []
    for scale in (1.0, 3.0):
        module.coder.scale.fill_(scale)
        torch.manual_seed(5)
        losses.append(module.training_step((images(), None), 0))
    assert torch.equal(*losses)


@pytest.mark.parametrize(
    ("changes", "message"), [({"kl_weight": -1.0}, "kl_weight is -1"), ({"power": 3}, "power is 3")]
)
def test_weights_out_of_range_are_refused(changes, message):
    with pytest.raises(UserError, match=rf"^model.{message}.*; it must be"):
        training(**changes)


# ── training ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def fit(folder, module=None, data=None, ckpt_path=None, every=3, **limits):
    keep = LastCheckpoint(folder, "model: null", every_n_steps=every)
    run = trainer(folder, callbacks=[keep], enable_checkpointing=True, limit_val_batches=2, **limits)
    module, data = module or training(), data or TinyData(n=30, batch_size=8, flip=True)
    torch.manual_seed(7)
    run.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return module, run, data, torch.load(folder / "last.ckpt", weights_only=True)


def spread(made, uint8):
    """The standard deviation of the latents of all images, in one batch."""
    with torch.no_grad():
        return made.encode(to_float(uint8)).double().std(correction=0).item()


@pytest.mark.parametrize(
    "limits",
    [
        {"max_epochs": 2, "every": 100},
        {"max_epochs": 2, "every": 3},
        {"max_epochs": 9, "max_steps": 2, "every": 100},
        {"max_epochs": -1, "max_steps": 3, "every": 100},
    ],
)
def test_the_last_checkpoint_has_unit_latents(limits, tmp_path):
    module, run, data, saved = fit(tmp_path, **limits)  # 30 images in parts of 8: the last is smaller
    assert saved["global_step"] == run.global_step
    other = coder()
    load_coder(other, tmp_path / "last.ckpt")
    assert spread(other, data.train_set.images) == pytest.approx(1, abs=1e-6)
    assert spread(module.coder, data.train_set.images) == pytest.approx(1, abs=1e-6)
    assert other.scale != 1


def test_a_checkpoint_on_the_way_has_unit_latents_of_its_own(tmp_path):
    seen = []

    class Kept(LastCheckpoint):
        def save(self, trainer):
            super().save(trainer)
            seen.append(torch.load(self.path, weights_only=True)["state_dict"])

    module, data = training(), TinyData(n=16)
    run = trainer(tmp_path, callbacks=[Kept(tmp_path, "model: null", 1)], enable_checkpointing=True, max_epochs=2)
    run.fit(module, data)
    assert len(seen) == 4
    assert len({state["coder.scale"].item() for state in seen}) == 4
    for state in seen:
        module.load_state_dict(state)
        assert spread(module.coder, data.train_set.images) == pytest.approx(1, abs=1e-6)


def test_without_a_checkpoint_the_scale_is_measured_too(tmp_path):
    module, data = training(), TinyData(n=16)
    trainer(tmp_path).fit(module, data)
    assert spread(module.coder, data.train_set.images) == pytest.approx(1, abs=1e-6)


def test_training_restores_better(tmp_path):
    module, data = training(lr=3e-3), TinyData(n=32)
    before, _ = alone(training())
    run = trainer(tmp_path, max_epochs=10, limit_val_batches=1.0)
    run.fit(module, data)
    logged = run.logged_metrics
    assert {"train/loss", "train/recon", "train/kl", "val/psnr"} <= logged.keys()
    x = to_float(data.test_set.images)
    with torch.no_grad():
        errors = [(x - m.coder.decode(m.coder.encode(x))).square().mean() for m in (module, before)]
    assert errors[0] < 0.5 * errors[1]


def test_the_logged_values_of_the_test(tmp_path):
    module, data = training(), TinyData(n=16, batch_size=6)  # 16 test images in batches of 6, 6 and 4
    module.coder.scale.fill_(3.0)
    (logged,) = trainer(tmp_path).test(module, data, verbose=False)
    x = to_float(data.test_set.images)
    with torch.no_grad():
        latents = module.coder.encode(x)
        errors = (module.coder.decode(latents).clamp(-1, 1) - x).square().mean((1, 2, 3))
    expected = sum(10 * torch.log10(4 / error) for error in errors).item() / 16
    assert logged == {
        "test/autoencoder/psnr": pytest.approx(expected, rel=1e-5),
        "test/autoencoder/latent_mean": pytest.approx(latents.mean().item(), rel=1e-5),
        "test/autoencoder/latent_std": pytest.approx(latents.std(correction=0).item(), rel=1e-5),
    }


@pytest.mark.parametrize("cut", [2, 3, 4])
def test_resumed_is_never_cut(cut, tmp_path):
    (tmp_path / "cut").mkdir()
    schedule = {"lr_schedule": lambda o: ExponentialLR(o, 0.5)}
    *_, whole = fit(tmp_path, training(**schedule), max_epochs=2)
    fit(tmp_path / "cut", training(**schedule), max_epochs=2, max_steps=cut)
    torch.manual_seed(99)
    *_, resumed = fit(tmp_path / "cut", training(**schedule), ckpt_path=tmp_path / "cut" / "last.ckpt", max_epochs=2)
    assert resumed["global_step"] == whole["global_step"] == 6
    assert resumed["lr_schedulers"][0]["_last_lr"] == whole["lr_schedulers"][0]["_last_lr"] == [1e-2 * 0.5**6]
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name


# ── reading it back ───────────────────────────────────────────────────────────────────────────────────────────────────


def saved(path, made=None):
    torch.save({"state_dict": training(lambda: made or coder()).state_dict()}, path)
    return path


def test_a_coder_is_read_back(tmp_path):
    made = coder()
    made.scale.fill_(2.5)
    with torch.no_grad():
        made.encoder[0].weight.mul_(2)
    other = coder()
    assert not torch.equal(other.encode(images()), made.encode(images()))
    load_coder(other, saved(tmp_path / "c.ckpt", made))
    assert torch.equal(other.encode(images()), made.encode(images()))
    assert other.scale == 2.5


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"width": 16}, r"is \(16,.*must be \(32,"),
        ({"multiples": (1,)}, r"must be"),
        ({"latent": 3}, r"is \(2,\).*must be \(3,\)"),
        ({"depth": 2}, "must be"),
    ],
)
def test_another_coder_is_refused(changes, reason, tmp_path):
    other = coder(**changes)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(UserError, match=rf"c.ckpt: holds another auto-encoder .*{reason}"):
        load_coder(other, saved(tmp_path / "c.ckpt"))
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())


class Harm:
    def __reduce__(self):
        return (exec, ("raise SystemExit",))


def test_files_that_are_no_coder_are_refused(tmp_path):
    path = tmp_path / "c.ckpt"
    with pytest.raises(UserError, match=r"c.ckpt: no such file"):
        load_coder(coder(), path)
    for content in (b"", b"not a checkpoint at all", b"PK\x03\x04 half a zip"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"c.ckpt(: not a| is not a readable) checkpoint"):
            load_coder(coder(), path)
    torch.save({"state_dict": {"coder.x": Harm()}}, path)
    with pytest.raises(UserError, match=r"c.ckpt is refused: it holds a"):
        load_coder(coder(), path)
    for content in ({"state_dict": coder().state_dict()}, {}, [1], {"state_dict": {}}):
        torch.save(content, path)
        with pytest.raises(UserError, match=r"c.ckpt: a checkpoint without an auto-encoder"):
            load_coder(coder(), path)


# ── published ones ────────────────────────────────────────────────────────────────────────────────────────────────────


class FakeKL(nn.Module):
    """Codes an image as twice each 2×2 block's mean, and back; the arguments of its calls are kept in `calls`."""

    calls: list

    def __init__(self, shift):
        super().__init__()
        self.config = {"scaling_factor": 0.25, "in_channels": 3, "latent_channels": 3, "block_out_channels": [8, 8]}
        self.config |= shift
        self.weight = nn.Parameter(torch.tensor(2.0))

    def encode(self, x):
        z = self.weight * nn.functional.avg_pool2d(x, 2)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: z))

    def decode(self, z):
        return SimpleNamespace(sample=nn.functional.interpolate(z / self.weight, scale_factor=2))


def diffusers(monkeypatch, read):
    library = ModuleType("diffusers")
    library.AutoencoderKL = SimpleNamespace(from_pretrained=read)
    monkeypatch.setitem(sys.modules, "diffusers", library)


@pytest.mark.parametrize(
    ("shift", "m"), [({}, 0.0), ({"shift_factor": None}, 0.0), ({"shift_factor": 0.5}, 0.5)], ids=str
)
def test_a_published_coder(shift, m, monkeypatch):
    calls = []

    def read(*args, **kwargs):
        calls.append((args, kwargs))
        return FakeKL(shift)

    diffusers(monkeypatch, read)
    made = DiffusersAutoencoder("some/where", subfolder="vae")
    assert isinstance(made, ImageCoder)
    assert calls == [(("some/where",), {"subfolder": "vae", "use_safetensors": True})]
    blocks = images(2, 3, 4)
    x = blocks.repeat_interleave(2, 2).repeat_interleave(2, 3)
    latents = made.encode(x)
    torch.testing.assert_close(latents, (2 * blocks - m) / 4)
    torch.testing.assert_close(made.decode(latents), x)
    assert latents.shape[1:] == made.shape(3, 8) == (3, 4, 4)
    assert not made.train().model.training
    assert not made.model.weight.requires_grad
    with pytest.raises(UserError, match="with 3 channels; the data's have 1"):
        made.shape(1, 8)
    with pytest.raises(UserError, match="2 times smaller, which must divide their 9"):
        made.shape(3, 9)


@pytest.mark.parametrize("error", [OSError, ValueError, RuntimeError])
def test_weights_that_cannot_be_loaded(error, monkeypatch):
    def read(*_, **__):
        raise error("long\nstory")

    diffusers(monkeypatch, read)
    with pytest.raises(UserError, match=r"^coder.name is no/where/vae, where no AutoencoderKL[^\n]*it must be[^\n]*$"):
        DiffusersAutoencoder("no/where", "vae")


def test_diffusers_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match="the package diffusers, which is missing"):
        DiffusersAutoencoder("any")
