"""Laws of the metrics on precomputed features and scores."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.metrics import average_precision_score
from torch import Tensor

from ebmzoo.errors import UserError
from ebmzoo.metrics import (
    FeatureStatistics,
    aupr,
    aupr_in,
    auroc,
    fpr95,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_moments(n: int, mean: Tensor, covariance: Tensor, seed: int = 0) -> Tensor:
    """A set whose sample mean and covariance are exactly these."""
    x = randn(n, len(mean), seed=seed)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T @ x / (n - 1)), x.T, upper=False).T
    return white @ torch.linalg.cholesky(covariance).T + mean


# Fréchet distance


def test_frechet_of_one_dimensional_gaussians() -> None:
    x = with_moments(50, torch.tensor([1.0], dtype=torch.float64), torch.tensor([[9.0]], dtype=torch.float64))
    y = with_moments(70, torch.tensor([-3.0], dtype=torch.float64), torch.tensor([[4.0]], dtype=torch.float64), seed=1)
    assert frechet_distance(x, y) == pytest.approx((1 + 3) ** 2 + (3 - 2) ** 2, rel=1e-12)


def test_frechet_of_commuting_covariances() -> None:
    q, _ = torch.linalg.qr(randn(6, 6, seed=3))
    a, b = torch.tensor([4.0, 1, 9, 0.25, 2, 1e-4]).double(), torch.tensor([1.0, 5, 0.5, 3, 2, 7]).double()
    mean_x, mean_y = randn(6, seed=4), randn(6, seed=5)
    x = with_moments(40, mean_x, q * a @ q.T)
    y = with_moments(30, mean_y, q * b @ q.T, seed=1)
    exact = (mean_x - mean_y).square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    assert frechet_distance(x, y) == pytest.approx(exact.item(), rel=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 12), (9, 200, 20), (8, 6, 20)], ids=["full", "half", "deficient"])
def test_frechet_is_a_distance_and_agrees_with_sqrtm(n: int, m: int, d: int) -> None:
    mixing = randn(d, d, seed=7)
    x, y = randn(n, d) @ mixing + 1, randn(m, d, seed=1) @ mixing.T
    found = frechet_distance(x, y)
    c1, c2 = x.T.cov(), y.T.cov()
    root = torch.as_tensor(sqrtm((c1 @ c2).numpy())).real.trace()
    mean_gap = (x.mean(0) - y.mean(0)).square().sum()
    assert found == pytest.approx((mean_gap + c1.trace() + c2.trace() - 2 * root).item(), rel=1e-5)
    # |X'Y|_* of the centred sets is tr(C1 C2)^1/2 without any root of a covariance
    nuclear = torch.linalg.svdvals((x - x.mean(0)) @ (y - y.mean(0)).T).sum() / math.sqrt((n - 1) * (m - 1))
    assert found == pytest.approx((mean_gap + c1.trace() + c2.trace() - 2 * nuclear).item(), rel=1e-8)
    assert found == pytest.approx(frechet_distance(y, x), rel=1e-10)
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-9 * c1.trace().item())
    q, _ = torch.linalg.qr(randn(d, d, seed=9))
    assert frechet_distance(x @ q + 5, y @ q + 5) == pytest.approx(found, rel=1e-8)


def test_statistics_stream_exactly_far_from_the_origin() -> None:
    x = randn(103, 5).add(1e4).float()
    streamed = FeatureStatistics(5)
    for chunk in (x[:1], x[1:1], x[1:40], x[40:]):
        streamed.update(chunk)
    assert streamed.n == 103
    assert streamed.mean.dtype == streamed.covariance.dtype == torch.float64
    torch.testing.assert_close(streamed.mean, x.double().mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(streamed.covariance, x.double().T.cov(), rtol=1e-9, atol=1e-12)
    assert streamed.distance(FeatureStatistics.of(x)) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("real", "fake", "word"),
    [
        (torch.zeros(5, 2), torch.zeros(5, 3), "length 2 and 3"),
        (torch.zeros(1, 2), torch.zeros(5, 2), "at least 2 images"),
        (torch.zeros(5, 2), torch.full((5, 2), math.nan), "NaN"),
        (torch.zeros(5, 2, 1), torch.zeros(5, 2), "shape"),
    ],
)
def test_frechet_refuses(real: Tensor, fake: Tensor, word: str) -> None:
    with pytest.raises(UserError, match=word):
        frechet_distance(real, fake)


# kernel distance


def test_kernel_distance_equals_brute_force() -> None:
    x, y = randn(5, 3), randn(5, 3, seed=1) + 1
    k = [[[((a @ b).item() / 3 + 1) ** 3 for b in q] for a in p] for p, q in ((x, x), (y, y), (x, y))]
    pairs = list(itertools.permutations(range(5), 2))
    within = sum(k[0][i][j] + k[1][i][j] for i, j in pairs) / 20
    across = sum(map(sum, k[2])) / 25
    mean, std = kernel_distance(x, y, subsets=3)
    assert mean == pytest.approx(within - 2 * across, rel=1e-12)
    assert std == pytest.approx(0.0, abs=1e-12)


def test_kernel_distance_in_one_buffer_is_that_of_new_tensors_to_the_last_bit() -> None:
    x, y = randn(300, 8), randn(200, 8, seed=1)
    rng, values = torch.Generator().manual_seed(0), []
    for _ in range(4):
        a = x[torch.randperm(300, generator=rng)[:150]].double()
        b = y[torch.randperm(200, generator=rng)[:150]].double()
        aa, bb, ab = ((p @ q.T / 8 + 1) ** 3 for p, q in ((a, a), (b, b), (a, b)))
        values.append((aa.sum() - aa.trace() + bb.sum() - bb.trace()) / (150 * 149) - 2 * ab.mean())
    expected = torch.stack(values)
    found = kernel_distance(x.requires_grad_(), y, subsets=4, subset_size=150)
    assert found == (expected.mean().item(), expected.std(correction=0).item())


def test_kernel_distance_is_unbiased() -> None:
    """Over all draws of two pairs from {−1, 1, 2}, equally likely on both sides, the mean is exactly zero."""
    values = [
        kernel_distance(torch.tensor([[a], [b]]), torch.tensor([[c], [d]]), subsets=1)[0]
        for a, b, c, d in itertools.product((-1.0, 1.0, 2.0), repeat=4)
    ]
    assert math.fsum(values) / 81 == pytest.approx(0.0, abs=1e-12)
    assert min(values) < 0 < max(values)


def test_kernel_distance_of_constant_sets() -> None:
    x, y = torch.full((40, 1), 2.0), torch.full((30, 1), -1.0)
    assert kernel_distance(x, y, subset_size=10) == (pytest.approx(125 + 8 - 2 * (-1)), pytest.approx(0.0, abs=1e-9))


def test_kernel_distance_subsets_follow_the_seed_alone() -> None:
    x, y = randn(60, 4), randn(50, 4, seed=1)
    torch.manual_seed(1)
    first = kernel_distance(x, y, subsets=5, subset_size=20, seed=3)
    torch.manual_seed(2)
    assert kernel_distance(x, y, subsets=5, subset_size=20, seed=3) == first
    assert kernel_distance(x, y, subsets=5, subset_size=20, seed=4) != first
    assert first[1] > 0


# Inception Score


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("splits", [1, 10])
def test_inception_score_of_undecided_and_of_perfect_predictions(classes: int, splits: int) -> None:
    assert inception_score(torch.zeros(100, classes), splits) == (pytest.approx(1), pytest.approx(0, abs=1e-12))
    labels = torch.arange(100 * classes) % classes
    perfect = 1e4 * torch.nn.functional.one_hot(labels, classes).float()
    assert inception_score(perfect, 1) == (pytest.approx(classes, rel=1e-12), 0)


def test_inception_score_of_two_mirrored_predictions() -> None:
    log_p = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).double().log().repeat(20, 1)
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert inception_score(log_p + 3, 1)[0] == pytest.approx(math.exp(math.log(2) - entropy), rel=1e-7)


def test_inception_score_of_sorted_samples() -> None:
    """Dealt in order, each of ten splits would hold one class and score 1."""
    perfect = 1e4 * torch.eye(10).repeat_interleave(500, 0)
    mean, std = inception_score(perfect, 10)
    assert 9.8 < mean < 10
    assert 0 < std < 0.1


def test_inception_score_refuses_fewer_images_than_splits() -> None:
    with pytest.raises(UserError, match="splits=10, images=9"):
        inception_score(torch.zeros(9, 4))


# precision and recall


def test_precision_recall_of_equal_disjoint_and_dropped() -> None:
    modes = torch.cat([randn(40, 3), randn(40, 3, seed=1) + 100])
    assert precision_recall(modes, modes.clone()) == (1, 1)
    assert precision_recall(modes, modes + 1e4) == (0, 0)
    assert precision_recall(modes, modes[:40]) == (1, 0.5)
    assert precision_recall(modes[:40], modes) == (0.5, 1)


def test_precision_recall_on_a_line() -> None:
    """Real balls [-1,1], [0,2], [1,5]; fake balls [-4.5,5.5], [1,10], [5.5,14.5]."""
    real = torch.tensor([[0.0], [1.0], [3.0]])
    fake = torch.tensor([[0.5], [5.5], [10.0]])
    assert precision_recall(real, fake, k=1) == (pytest.approx(1 / 3), 1)
    assert precision_recall(real, torch.tensor([[5.0], [5.01]]), k=1)[0] == 0.5


def test_precision_recall_does_not_depend_on_chunks() -> None:
    from ebmzoo.metrics.distribution import _covered

    points, centres = randn(50, 4), randn(70, 4, seed=1)
    found = {_covered(points, centres, 3, chunk) for chunk in (1, 7, 1024)}
    assert len(found) == 1
    radius = torch.cdist(centres, centres).sort(1).values[:, 3]
    assert found.pop() == (torch.cdist(points, centres) <= radius).any(1).double().mean().item()


def test_precision_recall_refuses_too_few() -> None:
    with pytest.raises(UserError, match="at least 4 images"):
        precision_recall(torch.zeros(3, 2), torch.zeros(9, 2), k=3)


# detection


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e-6])
def test_auroc_counts_pairs(scale: float) -> None:
    """Energies near a million keep their order, which a sigmoid or a half-precision cast would lose."""
    inside = (torch.randint(0, 12, (31,), generator=torch.Generator().manual_seed(0)) + 1e6) * scale
    outside = (torch.randint(4, 16, (23,), generator=torch.Generator().manual_seed(1)) + 1e6) * scale
    pairs = [(o > i) + 0.5 * (o == i) for o in outside.tolist() for i in inside.tolist()]
    assert auroc(inside, outside) == pytest.approx(sum(pairs) / len(pairs), rel=1e-12)
    assert auroc(outside, inside) == pytest.approx(1 - sum(pairs) / len(pairs), rel=1e-12)
    assert 0.5 < sum(pairs) / len(pairs) < 1


def test_auroc_at_its_ends() -> None:
    low, high = torch.tensor([-math.inf, -1e30, 2.0]), torch.tensor([2.5, math.inf])
    assert auroc(low, high) == 1
    assert auroc(high, low) == 0
    assert auroc(torch.ones(4), torch.ones(3)) == 0.5


@pytest.mark.parametrize(
    ("inside", "outside", "exact"),
    [
        (range(20), [17.0, 18.0, 18.5, 19.0], 0.5),  # t = 18, the 19th of 20
        (range(21), [18.0, 19.0, 19.5, 20.0], 0.5),  # 0.95 * 21 = 19.95, so t = 19, the 20th
        (range(100), [94.0, 94.5, 95.0, 96.0], 0.25),  # t = 94, the 95th of 100
        ([3.0], [2.0, 3.0, 4.0], 2 / 3),
        (range(20), [100.0, 200.0], 0.0),
        (range(20), [-5.0, -6.0], 1.0),
    ],
)
def test_fpr95_exactly(inside: list[float], outside: list[float], exact: float) -> None:
    scores = torch.tensor(list(inside), dtype=torch.float32)
    shuffled = scores[torch.randperm(len(scores), generator=torch.Generator().manual_seed(0))]
    assert fpr95(shuffled, torch.tensor(outside)) == pytest.approx(exact)
    assert fpr95(shuffled + 1e6, torch.tensor(outside) + 1e6) == pytest.approx(exact)


@pytest.mark.parametrize(("n", "m", "values"), [(31, 23, 12), (5, 40, 3), (40, 5, 1000), (1, 1, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_aupr_is_the_average_precision_with_ties(n: int, m: int, values: int, seed: int) -> None:
    """Of either class as the positive one, for many scores of few values, so that most are tied."""
    generator = torch.Generator().manual_seed(seed)
    inside = torch.randint(0, values, (n,), generator=generator) + 1e6
    outside = torch.randint(values // 3, values + 2, (m,), generator=generator) + 1e6
    labels, scores = [0] * n + [1] * m, torch.cat([inside, outside]).numpy()
    assert aupr(inside, outside) == pytest.approx(average_precision_score(labels, scores), rel=1e-12)
    others = [1 - label for label in labels]
    assert aupr_in(inside, outside) == pytest.approx(average_precision_score(others, -scores), rel=1e-12)


def test_aupr_at_its_ends() -> None:
    low, high = torch.tensor([-math.inf, -1e30, 2.0]), torch.tensor([2.5, math.inf])
    assert aupr(low, high) == aupr_in(low, high) == 1
    assert aupr(torch.ones(6), torch.ones(2)) == 2 / 8, "blind, it is the share of the positive class"
    assert aupr_in(torch.ones(6), torch.ones(2)) == 6 / 8
    assert aupr(high, low) == pytest.approx((1 / 3 + 2 / 4 + 3 / 5) / 3), "three after the two that come first"


@pytest.mark.parametrize("metric", [auroc, aupr, aupr_in, fpr95])
@pytest.mark.parametrize("bad", [torch.tensor([1.0, math.nan]), torch.tensor([]), torch.zeros(2, 1)])
def test_detection_refuses_scores_without_a_rank(metric: Callable[[Tensor, Tensor], float], bad: Tensor) -> None:
    with pytest.raises(UserError, match="in-distribution"):
        metric(bad, torch.ones(3))
    with pytest.raises(UserError, match="out-of-distribution"):
        metric(torch.ones(3), bad)
