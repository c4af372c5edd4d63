"""How far figures of detection would move had other images of the same kinds been drawn: bootstrap intervals."""

from __future__ import annotations

import torch
from torch import Tensor

from ebmzoo.errors import UserError
from ebmzoo.metrics.detection import METRICS, Ranked, ranks

AT_ONCE = 2**17
"""Scores drawn at once: few enough for the cache of a processor. No figure depends on it."""


def resampled(in_scores: Tensor, out_scores: Tensor, resamples: int = 1000, seed: int = 0) -> dict[str, Tensor]:
    """The figures of `METRICS` of R resamples, `(R,)` each, float64.

    A resample draws N of the N in-distribution scores and M of the M others, each with replacement (stratified).
    Source: Efron & Tibshirani 1993, An introduction to the bootstrap, chapter 8.

    Args:
        in_scores: OOD scores `(N,)` of in-distribution images, higher = more out-of-distribution.
        out_scores: OOD scores `(M,)` of out-of-distribution images.
        resamples: R.
        seed: of the draws.

    Raises:
        UserError: an empty set, a score that is NaN, or no resamples.
    """
    if resamples < 1:
        raise UserError(f"resamples is {resamples}; it must be 1 or more")
    *sides, values = ranks(in_scores, out_scores)
    # one generator a side, so that what is drawn does not depend on how many are drawn at once
    generators = [torch.Generator().manual_seed(2 * seed + side) for side in range(2)]
    found: dict[str, list[Tensor]] = {name: [] for name in METRICS}
    at_once = max(1, AT_ONCE // max(len(side) for side in sides))
    for done in range(0, resamples, at_once):
        rows = min(at_once, resamples - done)
        drawn = Ranked(*(_counts(side, rows, values, g) for side, g in zip(sides, generators, strict=True)))
        for name, metric in METRICS.items():
            found[name].append(metric(drawn))
    return {name: torch.cat(parts) for name, parts in found.items()}


def intervals(
    in_scores: Tensor, out_scores: Tensor, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of `METRICS`: from the (1 − level)/2 to the (1 + level)/2 quantile of `resampled`.

    They cover the figure of the populations that both sides were drawn from, nearly `level` of the time; what another
    training of the model would change is not in them. Source: Efron & Tibshirani 1993, §13.3.

    Raises:
        UserError: as `resampled`, or a level that is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise UserError(f"level is {level}; it must be between 0 and 1")
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    drawn = resampled(in_scores, out_scores, resamples, seed)
    quantiles = {name: values.quantile(ends).tolist() for name, values in drawn.items()}
    return {name: (low, high) for name, (low, high) in quantiles.items()}


def _counts(places: Tensor, rows: int, values: int, generator: torch.Generator) -> Tensor:
    """`rows` resamples of `places` `(n,)`, as how many of each are at each value: `(rows, values)`."""
    drawn = places[torch.randint(len(places), (rows, len(places)), generator=generator)]
    drawn += values * torch.arange(rows)[:, None]
    return torch.bincount(drawn.flatten(), minlength=rows * values).view(rows, values).double()
