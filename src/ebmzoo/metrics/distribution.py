"""Metrics of generated images: kernel distance, Inception Score, precision and recall."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ebmzoo.errors import UserError


def kernel_distance(
    real: Tensor, fake: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the kernel (Inception) distance: its mean and standard deviation over random subsets of m images a side.

    MMD² = Σ_{i≠j} [k(xᵢ,xⱼ) + k(yᵢ,yⱼ)] / m(m−1) − 2 Σ_{ij} k(xᵢ,yⱼ) / m², k(x,y) = (x·y/D + 1)³
    (Bińkowski et al., 2018, §4). It is unbiased and therefore sometimes negative.

    >>> kernel_distance(torch.zeros(4, 1), torch.ones(4, 1), subsets=2)  # 1 + 2³ − 2·1
    (7.0, 0.0)

    Args:
        real: Features of real images, `(N, D)`.
        fake: Features of generated images, `(M, D)`.
        subsets: The number of subsets.
        subset_size: The subset size m, limited to the size of the smaller side.
        seed: Seed of the subsets.

    Raises:
        UserError: If a side has fewer than 2 features, lengths differ, or a value is not finite.
    """
    _check_pair(real, fake, at_least=2)
    if subsets < 1 or subset_size < 2:
        raise UserError(f"a kernel distance needs subsets >= 1 and subset_size >= 2, found {subsets} and {subset_size}")
    m = min(subset_size, len(real), len(fake))
    rng = torch.Generator().manual_seed(seed)
    values = torch.empty(subsets, dtype=torch.float64)
    kernel = torch.empty(m, m, dtype=torch.float64, device=real.device)
    for i in range(subsets):
        x = real[torch.randperm(len(real), generator=rng)[:m].to(real.device)].double()
        y = fake[torch.randperm(len(fake), generator=rng)[:m].to(fake.device)].double()
        values[i] = _mmd2(x, y, kernel)
    return values.mean().item(), values.std(correction=0).item()


@torch.no_grad()
def _mmd2(x: Tensor, y: Tensor, kernel: Tensor) -> Tensor:
    """MMD² of `(m, D)` and `(m, D)`; `kernel`, `(m, m)`, is overwritten: to allocate it anew takes most of the time."""
    m, d = x.shape

    def k(a: Tensor, b: Tensor) -> Tensor:
        return torch.mm(a, b.T, out=kernel).div_(d).add_(1).pow_(3)

    within = torch.zeros((), dtype=x.dtype, device=x.device)
    for z in (x, y):
        kzz = k(z, z)
        within = within + kzz.sum() - kzz.trace()
    return within / (m * (m - 1)) - 2 * k(x, y).mean()


def inception_score(logits: Tensor, splits: int = 10, *, seed: int = 0) -> tuple[float, float]:
    """Return exp E_x KL(p(y|x) ‖ p(y)), in [1, K]: mean and standard deviation over splits.

    Source: Salimans et al., 2016, §4. Images are assigned to splits at random, as samples are often sorted by label.

    >>> mean, std = inception_score(1000 * torch.eye(4), splits=1)  # four images, each surely of another class
    >>> round(mean, 6), std
    (4.0, 0.0)

    Args:
        logits: Class logits `(N, K)`.
        splits: The number of equal parts.
        seed: Seed of the shuffle.

    Raises:
        UserError: If there are fewer images than splits, or a logit is not finite.
    """
    if not 1 <= splits <= len(logits):
        raise UserError(f"an Inception Score needs 1 <= splits <= images, found splits={splits}, images={len(logits)}")
    _check_finite(logits)
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(seed)).to(logits.device)
    log_p = logits[order].double().log_softmax(1)
    scores = []
    for part in log_p.tensor_split(splits):
        log_marginal = part.logsumexp(0) - math.log(len(part))
        kl = (part.exp() * (part - log_marginal)).sum(1)
        scores.append(kl.mean().exp())
    values = torch.stack(scores)
    return values.mean().item(), values.std(correction=0).item()


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Return improved precision and recall, each in [0, 1] (Kynkäänniemi et al., 2019, Eq. 1 and 2).

    Precision is the fraction of generated features inside the ball of some real feature, recall the converse. The
    radius of a ball is the distance from its centre to the k-th nearest other feature of the same set; the boundary is
    inside.

    >>> real, collapsed = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([[0.9], [1.0], [1.1], [1.2]])
    >>> precision_recall(real, collapsed, k=1)
    (1.0, 0.25)

    Args:
        real: Features of real images, `(N, D)`.
        fake: Features of generated images, `(M, D)`.
        k: Which nearest neighbour sets the radius of a ball.

    Raises:
        UserError: If a side has k or fewer features, lengths differ, or a value is not finite.
    """
    if k < 1:
        raise UserError(f"precision_recall: k must be at least 1, found {k}")
    _check_pair(real, fake, at_least=k + 1)
    real, fake = real.double(), fake.double().to(real.device)
    return _covered(fake, real, k), _covered(real, fake, k)


def _covered(points: Tensor, centres: Tensor, k: int, chunk: int = 1024) -> float:
    inside = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    for part in torch.split(centres, chunk):
        radius2 = _distance2(part, centres).kthvalue(k + 1, dim=1, keepdim=True).values
        inside |= (_distance2(part, points) <= radius2).any(0)
    return inside.double().mean().item()


def _distance2(a: Tensor, b: Tensor) -> Tensor:
    """Return |a−b|² of every pair, `(A, B)`."""
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp_(min=0)


def _check_pair(real: Tensor, fake: Tensor, at_least: int) -> None:
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise UserError(
            "real and fake features must be (N, D) and (M, D) of one extractor, found "
            f"{tuple(real.shape)} and {tuple(fake.shape)}"
        )
    if min(len(real), len(fake)) < at_least:
        raise UserError(f"this metric needs at least {at_least} images on each side, found {len(real)} and {len(fake)}")
    _check_finite(real)
    _check_finite(fake)


def _check_finite(x: Tensor) -> None:
    if not x.isfinite().all():
        raise UserError("the features contain NaN or infinity: the images or the extractor have diverged")
