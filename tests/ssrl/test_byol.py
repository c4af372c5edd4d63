"""Laws of BYOL's loss and of its target, and its training alone, within LIEBM, and after a break."""

import math

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from ebmzoo.errors import UserError
from ebmzoo.methods.base.encoder_stage import EncoderStage
from ebmzoo.networks import ResNetEncoder
from ebmzoo.ssrl import BYOL, Augment, Pretraining
from ebmzoo.ssrl.byol import cosine_distance, target_decay
from ebmzoo.training.checkpoint import LastCheckpoint
from support.tiny import TinyData, Watch, encoder, liebm, trainer

UNCHANGED = Augment((1.0, 1.0), (1.0, 1.0), jitter_prob=0.0, grayscale_prob=0.0, flip_prob=0.0)


def images(n=8):
    return TinyData(n=n).load()[0].float()


def attached(augment=UNCHANGED, **changes):
    torch.manual_seed(0)
    online, objective = encoder(), BYOL(augment, hidden=16, **changes)
    objective.attach(online)
    return online, objective


def test_distance_is_two_minus_two_cosines():
    torch.manual_seed(0)
    a, b = torch.randn(2, 5, 7, dtype=torch.float64)
    expected = sum(2 - 2 * (x @ y / (x.norm() * y.norm())).item() for x, y in zip(a, b, strict=True)) / 5
    assert cosine_distance(a, b).item() == pytest.approx(expected, abs=1e-12)
    assert cosine_distance(3 * a, b / 5).item() == pytest.approx(expected, abs=1e-12)
    eye = torch.eye(4)
    assert [cosine_distance(eye, z).item() for z in (eye, eye.roll(1, 0), -eye)] == pytest.approx([0, 2, 4], abs=1e-6)


def test_distance_is_float32_under_autocast():
    torch.manual_seed(0)
    a, b = torch.randn(2, 16, 8)
    expected = cosine_distance(a, b)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cosine_distance(a, b), expected)


class Numbered(Augment):
    """The first view is the image, the second its mirror image."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, images, generator=None):
        self.calls += 1
        return images if self.calls % 2 else images.flip(3)


def test_loss_crosses_the_views():
    online, objective = attached(Numbered())
    with torch.no_grad():
        for p in objective.target.parameters():
            p.add_(0.1 * torch.randn_like(p))  # a target that differs from the encoder
    x = images()
    y = x.flip(3)
    q, h, t = objective.predictor, online, objective.target
    expected = cosine_distance(q(h(x)), t(y)) + cosine_distance(q(h(y)), t(x))
    straight = cosine_distance(q(h(x)), t(x)) + cosine_distance(q(h(y)), t(y))
    loss = objective(online, x)
    torch.testing.assert_close(loss, expected)
    assert (loss - straight).abs() > 1e-3
    assert torch.equal(objective(online, x, negatives=torch.randn(3, 8)), loss)


def test_only_the_online_side_learns():
    online, objective = attached(Augment(flip_prob=0.0))
    before = {k: p.clone() for k, p in objective.target.named_parameters()}
    learners = torch.nn.ModuleList([online, objective])
    optimizer = torch.optim.SGD(learners.parameters(), lr=0.1, weight_decay=0.1)
    objective(online, images()).backward()
    assert all(p.grad is None and not p.requires_grad for p in objective.target.parameters())
    assert all(p.grad is not None for p in online.parameters())
    assert all(p.grad is not None for p in objective.predictor.parameters())
    optimizer.step()
    assert all(torch.equal(p, before[k]) for k, p in objective.target.named_parameters())
    assert not torch.equal(next(online.parameters()), next(objective.target.parameters()))


def test_decay_goes_from_start_to_one_as_a_cosine():
    assert target_decay(0.99, 0.0) == pytest.approx(0.99, abs=1e-15)
    assert target_decay(0.99, 0.5) == pytest.approx(0.995, abs=1e-15)
    assert target_decay(0.99, 1.0) == 1.0
    assert target_decay(0.99, 0.25) == pytest.approx(1 - 0.01 * (math.sqrt(0.5) + 1) / 2, abs=1e-15)


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_target_is_the_moving_average(progress):
    online, objective = attached(tau=0.9)
    online, objective = online.double(), objective.double()
    before = [p.clone() for p in objective.target.parameters()]
    with torch.no_grad():
        for p in online.parameters():
            p.add_(torch.randn_like(p))
    objective.after_step(online, progress)
    tau = target_decay(0.9, progress)
    for old, new, now in zip(before, objective.target.parameters(), online.parameters(), strict=True):
        torch.testing.assert_close(new, tau * old + (1 - tau) * now.detach(), rtol=0, atol=1e-14)
        assert torch.equal(new, old) == (progress == 1.0)


def test_target_starts_as_a_copy_that_shares_nothing():
    online, objective = attached()
    for mine, theirs in zip(objective.target.parameters(), online.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.data_ptr() != theirs.data_ptr()


def test_predictor_has_the_papers_size():
    with torch.device("meta"):
        objective = BYOL()
        objective.attach(ResNetEncoder())
    assert sum(p.numel() for p in objective.predictor.parameters()) == 134_208
    learning = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    assert learning == 134_208


def test_refuses_a_decay_out_of_range():
    with pytest.raises(UserError, match=r"tau: 1\.5"):
        BYOL(tau=1.5)


def test_loss_falls():
    online, objective = attached(tau=0.9)
    x = images()
    optimizer = torch.optim.Adam([*online.parameters(), *objective.parameters()], lr=3e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = objective(online, x)
        loss.backward()
        optimizer.step()
        objective.after_step(online, 0.0)
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4


def pretraining():
    torch.manual_seed(1)
    return Pretraining(encoder(), BYOL(Augment(flip_prob=0.0), hidden=16), warmup_steps=2, drop_epochs=(1,))


def test_pretraining_moves_the_target_by_its_rule(tmp_path):
    model = pretraining()
    target = [p.clone() for p in model.objective.target.parameters()]
    steps = []

    def see(run, module):
        tau = target_decay(0.99, run.global_step / 8)
        online = list(module.encoder.parameters())
        for mean, now in zip(target, online, strict=True):
            mean.lerp_(now.detach(), 1 - tau)
        steps.append(run.global_step)
        # A callback's view, as the checkpoint's: the step's own update must be in it.
        for mean, held in zip(target, module.objective.target.parameters(), strict=True):
            torch.testing.assert_close(held, mean, rtol=0, atol=1e-7)

    trainer(tmp_path, max_epochs=2, callbacks=[Watch(see)]).fit(model, TinyData())
    assert steps == list(range(1, 9))
    moved = (model.objective.target.state_dict()[k] - v for k, v in pretraining().objective.target.named_parameters())
    assert max(d.abs().max() for d in moved) > 1e-5


class Kill(Callback):
    """Ends the run before the batch after step `cut`."""

    def __init__(self, cut):
        self.cut = cut

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.cut:
            raise InterruptedError


def train(folder, *callbacks, ckpt_path=None):
    """Three epochs of four batches, a checkpoint every batch."""
    model = pretraining()
    torch.manual_seed(7)
    keep = LastCheckpoint(folder, "model: null", every_n_steps=1)
    fit = trainer(folder, callbacks=[keep, *callbacks], enable_checkpointing=True, max_epochs=3)
    fit.fit(model, TinyData(flip=True), ckpt_path=ckpt_path, weights_only=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    train(folder)
    return torch.load(folder / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("cut", [3, 4, 7])
def test_resumed_is_never_cut(whole, cut, tmp_path):
    with pytest.raises(InterruptedError):
        train(tmp_path, Kill(cut))
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == cut
    torch.manual_seed(99)  # whatever was drawn in between must not matter
    train(tmp_path, ckpt_path=tmp_path / "last.ckpt")
    resumed = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert resumed["global_step"] == whole["global_step"] == 12
    assert any(name.startswith("objective.target.") for name in whole["state_dict"])
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    for one, two in zip(whole["optimizer_states"], resumed["optimizer_states"], strict=True):
        for key, state in one["state"].items():
            assert all(torch.equal(state[k], two["state"][key][k]) for k in state)


@pytest.mark.parametrize("jointly", [False, True])
def test_trains_within_liebm(jointly, tmp_path):
    objective = BYOL(Augment(flip_prob=0.0), hidden=16)
    stage = EncoderStage(objective, epochs=1, warmup_steps=2, drop_epochs=(), jointly=jointly)
    method = liebm(encoder_stage=stage)
    first = [p.clone() for p in (*method.encoder.parameters(), *objective.parameters())]
    trainer(tmp_path, max_epochs=1, limit_train_batches=2).fit(method, TinyData())
    now = [*method.encoder.parameters(), *objective.parameters()]
    assert all(p.isfinite().all() and not torch.equal(p, q) for p, q in zip(now, first, strict=True))
    assert "objective.target.head.0.weight" in method.state_dict()
