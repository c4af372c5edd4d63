"""Bootstrap intervals of the detection metrics: how much they vary with the choice of test images."""

from __future__ import annotations

import torch
from torch import Tensor

from ebmzoo.errors import UserError
from ebmzoo.metrics.detection import METRICS, Ranked, ranks

AT_ONCE = 2**17
"""Scores drawn at once: few enough for the cache of a processor. The result does not depend on it."""


def resampled(in_scores: Tensor, out_scores: Tensor, resamples: int = 1000, seed: int = 0) -> dict[str, Tensor]:
    """Return every metric of `METRICS` on R bootstrap resamples, by name: `(R,)` float64 each, in [0, 1].

    A resample draws N of the N in-distribution scores and M of the M others, each with replacement (stratified).
    Source: Efron and Tibshirani, An introduction to the bootstrap, 1993, chapter 8.

    >>> resampled(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0]), resamples=3)["auroc"]
    tensor([1., 1., 1.], dtype=torch.float64)

    Args:
        in_scores: OOD scores `(N,)` of in-distribution images; higher means more out-of-distribution.
        out_scores: OOD scores `(M,)` of out-of-distribution images.
        resamples: The number of resamples, R.
        seed: Seed of the draws.

    Raises:
        UserError: If a set of scores is empty, a score is NaN, or `resamples` is below 1.
    """
    if resamples < 1:
        raise UserError(f"resamples is {resamples}; it must be 1 or more")
    *sides, values = ranks(in_scores, out_scores)
    # One generator a side, so that the draws do not depend on how many are drawn at once.
    generators = [torch.Generator().manual_seed(2 * seed + side) for side in range(2)]
    values_of: dict[str, list[Tensor]] = {name: [] for name in METRICS}
    at_once = max(1, AT_ONCE // max(len(side) for side in sides))
    for done in range(0, resamples, at_once):
        rows = min(at_once, resamples - done)
        drawn = Ranked(*(_counts(side, rows, values, g) for side, g in zip(sides, generators, strict=True)))
        for name, metric in METRICS.items():
            values_of[name].append(metric(drawn))
    return {name: torch.cat(parts) for name, parts in values_of.items()}


def intervals(
    in_scores: Tensor, out_scores: Tensor, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return percentile intervals of `METRICS`: from the (1 − level)/2 to the (1 + level)/2 quantile of `resampled`.

    An interval covers the value on the populations that both sets were drawn from in nearly `level` of all cases. It
    does not include the variation between training runs. Source: Efron and Tibshirani, 1993, §13.3.

    >>> intervals(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0]), resamples=20)["auroc"]
    (1.0, 1.0)

    Args:
        in_scores: OOD scores `(N,)` of in-distribution images; higher means more out-of-distribution.
        out_scores: OOD scores `(M,)` of out-of-distribution images.
        resamples: The number of resamples, R.
        level: Confidence level, between 0 and 1.
        seed: Seed of the draws.

    Raises:
        UserError: As for `resampled`, or if `level` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise UserError(f"level is {level}; it must be between 0 and 1")
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    drawn = resampled(in_scores, out_scores, resamples, seed)
    quantiles = {name: values.quantile(ends).tolist() for name, values in drawn.items()}
    return {name: (low, high) for name, (low, high) in quantiles.items()}


def _counts(places: Tensor, rows: int, values: int, generator: torch.Generator) -> Tensor:
    """Draw `rows` resamples of `places` `(n,)` and count them at each of the `values` values: `(rows, values)`."""
    drawn = places[torch.randint(len(places), (rows, len(places)), generator=generator)]
    drawn += values * torch.arange(rows)[:, None]
    return torch.bincount(drawn.flatten(), minlength=rows * values).view(rows, values).double()
