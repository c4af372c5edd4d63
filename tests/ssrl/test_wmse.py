"""Laws of whitening and of the W-MSE loss, and its training alone and within LIEBM."""

from itertools import combinations

import pytest
import torch

from ebmzoo.errors import UserError
from ebmzoo.methods.base.encoder_stage import EncoderStage
from ebmzoo.networks import Encoder
from ebmzoo.ssrl import WMSE, Augment, Pretraining
from ebmzoo.ssrl.byol import cosine_distance
from ebmzoo.ssrl.wmse import whiten
from support.tiny import TinyData, encoder, liebm, trainer


def images(n=32):
    return TinyData(n=n).load()[0].float()


def batch(n=40, d=6, seed=0):
    """Correlated points, off the origin, with n > d."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, dtype=torch.float64, generator=generator)
    return torch.randn(n, d, dtype=torch.float64, generator=generator) @ mixing + 3


@pytest.mark.parametrize(("n", "d"), [(40, 6), (7, 6), (128, 64), (2, 1)])
def test_whitened_batch_has_mean_zero_and_covariance_one(n, d):
    z = whiten(batch(n, d))
    torch.testing.assert_close(z.mean(0), torch.zeros(d, dtype=z.dtype), rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.atleast_2d(z.T.cov()), torch.eye(d, dtype=z.dtype), rtol=0, atol=1e-6)


def test_whitening_is_triangular():
    # By Cholesky the first coordinate is the first one standardised; another root of Σ would mix in the others.
    v = batch()
    standard = (v[:, 0] - v[:, 0].mean()) / v[:, 0].std()
    torch.testing.assert_close(whiten(v)[:, 0], standard)
    assert whiten(whiten(v)).sub(whiten(v)).abs().max() < 1e-12


def test_whitening_forgets_affine_maps_but_for_a_rotation():
    v = batch()
    torch.manual_seed(0)
    a = torch.randn(6, 6, dtype=v.dtype)
    one, other = whiten(v), whiten(v @ a + 5)
    torch.testing.assert_close(one @ one.T, other @ other.T)
    rotation = torch.linalg.lstsq(one, other).solution
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(6, dtype=v.dtype))
    assert (one - other).abs().max() > 0.1
    lower = a.tril()
    lower.diagonal().abs_()
    torch.testing.assert_close(whiten(v @ lower.T), one)  # and of these not even a rotation is left


def test_eps_draws_the_covariance_to_one():
    v = batch()
    shrunk = 0.7 * v.T.cov() + 0.3 * torch.eye(6, dtype=v.dtype)
    root = torch.linalg.inv(torch.linalg.cholesky(shrunk))
    torch.testing.assert_close(whiten(v, 0.3), (v - v.mean(0)) @ root.T)
    torch.testing.assert_close(whiten(v, 1.0), v - v.mean(0))
    assert whiten(v[:3], 1e-3).isfinite().all()


def test_whitening_is_exact_in_half_precision_autocast_and_keeps_the_type():
    v = batch().float()
    expected = whiten(v)
    assert expected.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(whiten(v), expected)


def test_gradient_of_whitening():
    torch.manual_seed(0)
    v = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(whiten, v)


@pytest.mark.parametrize("n", [2, 6])
def test_refuses_a_batch_no_larger_than_the_dimension(n):
    with pytest.raises(UserError, match=rf"batch_size: {n} images .* 6 dimensions; give at least 7"):
        whiten(batch(n))


def test_refuses_points_in_a_subspace():
    v = batch()
    v[:, 3] = 0.0
    with pytest.raises(UserError, match=r"eps: 0\.0 leaves the covariance .* positive eps"):
        whiten(v)


class Views(Augment):
    """The k-th view, from a list."""

    def __init__(self, views):
        super().__init__()
        self.views = iter(views)

    def forward(self, images, generator=None):
        return next(self.views)


class Flat(Encoder):
    """The pixels themselves."""

    latent = feature_dim = 4

    def features(self, x):
        return x.flatten(1)

    def forward(self, x):
        return self.features(x)


def loss_of(views, **changes):
    objective = WMSE(Views([v.view(len(v), 1, 2, 2) for v in views]), views=len(views), **changes)
    return objective(Flat(), torch.zeros(len(views[0]), 1, 2, 2))


def whitened_design():
    """Eight points ±1 that are white as they are, by symmetry: mean 0, orthogonal columns."""
    h = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    return torch.kron(torch.kron(h, h), h)[:, [1, 2, 4, 7]]


def test_loss_in_closed_form():
    z = whitened_design()
    assert torch.allclose(whiten(z), z * (7 / 8) ** 0.5)
    assert loss_of([z, z]).item() == pytest.approx(0, abs=1e-12)
    assert loss_of([z, -z]).item() == pytest.approx(4, abs=1e-12)
    # One column of four reversed: cos = (3 − 1)/4.
    assert loss_of([z, z * torch.tensor([1, 1, 1, -1])]).item() == pytest.approx(2 - 2 * 0.5, abs=1e-12)
    assert loss_of([z, 7 * z + 2]).item() == pytest.approx(0, abs=1e-12)
    # Six pairs of four views, five of them with z and −z twice each: two at 0, four at 4.
    assert loss_of([z, z, -z, -z]).item() == pytest.approx(4 * 4 / 6, abs=1e-12)


def test_loss_is_the_mean_over_the_pairs_of_views():
    views = [batch(12, 4, seed) for seed in range(3)]
    z = [whiten(v) for v in views]
    expected = sum(cosine_distance(a, b) for a, b in combinations(z, 2)) / 3
    torch.testing.assert_close(loss_of(views), expected)


@pytest.mark.parametrize(("n", "group", "sizes"), [(12, 6, [6, 6]), (17, 5, [6, 6, 5]), (7, 50, [7]), (9, 9, [9])])
def test_groups_are_whitened_by_themselves(n, group, sizes):
    views = [batch(n, 4, seed) for seed in range(2)]
    torch.manual_seed(3)
    loss = loss_of(views, group=group)
    torch.manual_seed(3)
    groups = torch.randperm(n).split(sizes)
    distances = [len(g) * cosine_distance(*(whiten(v[g]) for v in views)) for g in groups]
    torch.testing.assert_close(loss, sum(distances) / n)


def test_negatives_are_ignored_and_views_are_drawn_anew():
    torch.manual_seed(0)
    h, objective = encoder(), WMSE(group=16)
    x, negatives = images(), torch.randn(3, 8)
    torch.manual_seed(1)
    loss = objective(h, x)
    torch.manual_seed(1)
    assert torch.equal(objective(h, x, negatives=negatives), loss)
    assert objective(h, x) != loss


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"views": 1}, "views: 1 must be 2"), ({"group": 0}, "group: 0 must be 2"), ({"eps": -1.0}, r"eps: -1\.0 must")],
)
def test_refuses_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        WMSE(**arguments)


def test_refuses_a_group_no_larger_than_the_representation():
    with pytest.raises(UserError, match=r"group: 8 images .* 8 dimensions; give at least 9"):
        WMSE(group=8).attach(encoder())
    WMSE(group=9).attach(encoder())
    WMSE(group=8, eps=0.1).attach(encoder())


def test_loss_falls():
    torch.manual_seed(0)
    h, objective = encoder(), WMSE(Augment(flip_prob=0.0))
    x = images()
    optimizer = torch.optim.Adam(h.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = objective(h, x)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_trains_by_itself(tmp_path):
    torch.manual_seed(0)
    model = Pretraining(encoder(), WMSE(group=10), warmup_steps=1)
    first = [p.clone() for p in model.parameters()]
    trainer(tmp_path, limit_train_batches=2).fit(model, TinyData(batch_size=16))
    assert all(p.isfinite().all() and not torch.equal(p, q) for p, q in zip(model.parameters(), first, strict=True))


@pytest.mark.parametrize("jointly", [False, True])
def test_trains_within_liebm(jointly, tmp_path):
    stage = EncoderStage(WMSE(group=10), epochs=1, warmup_steps=1, drop_epochs=(), jointly=jointly)
    method = liebm(encoder_stage=stage)
    first = [p.clone() for p in method.encoder.parameters()]
    trainer(tmp_path, limit_train_batches=2).fit(method, TinyData(batch_size=16))
    now = method.encoder.parameters()
    assert all(p.isfinite().all() and not torch.equal(p, q) for p, q in zip(now, first, strict=True))
