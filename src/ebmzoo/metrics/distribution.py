"""How well generated features match real ones: kernel distance, Inception Score, precision and recall."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ebmzoo.errors import UserError


def kernel_distance(
    real: Tensor, fake: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Kernel (Inception) distance, as mean and standard deviation over random subsets of m images a side.

    MMD² = Σ_{i≠j} [k(xᵢ,xⱼ) + k(yᵢ,yⱼ)] / m(m−1) − 2 Σ_{ij} k(xᵢ,yⱼ) / m², k(x,y) = (x·y/D + 1)³
    (Bińkowski et al., 2018, §4); unbiased, hence at times below zero.

    Args:
        real: features `(N, D)`.
        fake: features `(M, D)`.
        subsets: how many subsets are drawn.
        subset_size: m; when a side is smaller, m is the size of the smaller side.
        seed: of the subsets.

    Raises:
        UserError: fewer than 2 features a side, different lengths, or values that are not finite.
    """
    _check_pair(real, fake, at_least=2)
    if subsets < 1 or subset_size < 2:
        raise UserError(
            f"a kernel distance needs subsets >= 1 and subset_size >= 2, found {subsets} and {subset_size}."
        )
    m = min(subset_size, len(real), len(fake))
    rng = torch.Generator().manual_seed(seed)
    values = torch.empty(subsets, dtype=torch.float64)
    for i in range(subsets):
        x = real[torch.randperm(len(real), generator=rng)[:m].to(real.device)].double()
        y = fake[torch.randperm(len(fake), generator=rng)[:m].to(fake.device)].double()
        values[i] = _mmd2(x, y)
    return values.mean().item(), values.std(correction=0).item()


def _mmd2(x: Tensor, y: Tensor) -> Tensor:
    m, d = x.shape

    def k(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / d + 1) ** 3

    kxx, kyy = k(x, x), k(y, y)
    within = kxx.sum() - kxx.trace() + kyy.sum() - kyy.trace()
    return within / (m * (m - 1)) - 2 * k(x, y).mean()


def inception_score(logits: Tensor, splits: int = 10, *, seed: int = 0) -> tuple[float, float]:
    """exp E_x KL(p(y|x) ‖ p(y)), in [1, K], as mean and standard deviation over splits (Salimans et al., 2016, §4).

    Images are dealt to the splits at random, because samples often come sorted by label.

    Args:
        logits: class logits `(N, K)`.
        splits: number of equal parts.
        seed: of the shuffle.

    Raises:
        UserError: fewer images than splits, or logits that are not finite.
    """
    if not 1 <= splits <= len(logits):
        raise UserError(f"an Inception Score needs 1 <= splits <= images, found splits={splits}, images={len(logits)}.")
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
    """Improved precision and recall, each in [0, 1] (Kynkäänniemi et al., 2019, equations 1 and 2).

    Precision is the fraction of fake features within some real feature's ball, recall the converse; a ball reaches to
    its centre's k-th nearest neighbour in its own set, itself not counted, boundary included.

    Args:
        real: features `(N, D)`.
        fake: features `(M, D)`.
        k: neighbours that set a ball's radius.

    Raises:
        UserError: k or fewer features a side, different lengths, or values that are not finite.
    """
    if k < 1:
        raise UserError(f"precision_recall: k must be at least 1, found {k}.")
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
    """|a−b|² of every pair, `(A, B)`."""
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp_(min=0)


def _check_pair(real: Tensor, fake: Tensor, at_least: int) -> None:
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise UserError(
            "real and fake features must be (N, D) and (M, D) of one extractor, found "
            f"{tuple(real.shape)} and {tuple(fake.shape)}."
        )
    if min(len(real), len(fake)) < at_least:
        raise UserError(f"needs at least {at_least} images on each side, found {len(real)} and {len(fake)}.")
    _check_finite(real)
    _check_finite(fake)


def _check_finite(x: Tensor) -> None:
    if not x.isfinite().all():
        raise UserError("the features hold NaN or infinity: the images or the extractor have diverged.")
