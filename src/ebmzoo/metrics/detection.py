"""Metrics of out-of-distribution detection, computed from ranks: no increasing map of the score changes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ebmzoo.errors import UserError


@dataclass(frozen=True)
class Ranked:
    """The number of scores of each set at each of the U distinct values, in ascending order.

    Equal scores share a value, so that ties are exact. Leading dimensions index several sets over the same values.

    >>> Ranked.of(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 5.0])).inside
    tensor([1., 1., 0.], dtype=torch.float64)

    Args:
        inside: Counts of in-distribution scores, `(*, U)` float64.
        outside: Counts of out-of-distribution scores, `(*, U)` float64.
    """

    inside: Tensor
    outside: Tensor

    @classmethod
    def of(cls, in_scores: Tensor, out_scores: Tensor) -> Ranked:
        """Count the scores `(N,)` of in-distribution images and those `(M,)` of out-of-distribution images.

        Raises:
            UserError: If a set of scores is empty, or a score is NaN.
        """
        in_ranks, out_ranks, values = ranks(in_scores, out_scores)
        return cls(*(torch.bincount(which, minlength=values).double() for which in (in_ranks, out_ranks)))

    @cached_property
    def accepted(self) -> Tensor:
        """Return #{in ≤ u} at each value u, `(*, U)`."""
        return self.inside.cumsum(-1)

    @cached_property
    def let_in(self) -> Tensor:
        """Return #{out ≤ u} at each value u, `(*, U)`."""
        return self.outside.cumsum(-1)

    def auroc(self) -> Tensor:
        """Return Σ_u out_u (#{in ≤ u} − ½ in_u) / NM, `(*,)`; see `auroc`."""
        pairs = (self.outside * (self.accepted - self.inside / 2)).sum(-1)
        return pairs / (self.accepted[..., -1] * self.let_in[..., -1])

    def aupr(self) -> Tensor:
        """Return Σ_u (out_u / M) #{out ≥ u} / (#{out ≥ u} + #{in ≥ u}), `(*,)`; see `aupr`."""
        n, m = self.accepted[..., -1:], self.let_in[..., -1:]
        true, false = m - self.let_in + self.outside, n - self.accepted + self.inside
        return (self.outside * true / (true + false).clamp_min(1)).sum(-1) / self.let_in[..., -1]

    def aupr_in(self) -> Tensor:
        """Return Σ_u (in_u / N) #{in ≤ u} / (#{in ≤ u} + #{out ≤ u}), `(*,)`; see `aupr_in`."""
        precision = self.accepted / (self.accepted + self.let_in).clamp_min(1)  # no score is below the first value
        return (self.inside * precision).sum(-1) / self.accepted[..., -1]

    def fpr95(self) -> Tensor:
        """Return #{out ≤ t} / M, `(*,)`, with t the least u such that #{in ≤ u} ≥ ⌈0.95 N⌉; see `fpr95`."""
        needed = -(-95 * self.accepted[..., -1:].long() // 100)
        t = torch.searchsorted(self.accepted, needed.double())
        return (self.let_in.gather(-1, t) / self.let_in[..., -1:]).squeeze(-1)


METRICS: dict[str, Callable[[Ranked], Tensor]] = {
    "auroc": Ranked.auroc,
    "aupr": Ranked.aupr,
    "aupr_in": Ranked.aupr_in,
    "fpr95": Ranked.fpr95,
}
"""The detection metrics by name; all are in [0, 1]."""


def auroc(in_scores: Tensor, out_scores: Tensor) -> float:
    """Return P(out > in) + ½ P(out = in) over all pairs, in [0, 1]; ½ is chance.

    It is computed from ranks (Mann and Whitney, 1947) in float64, so that energies of any magnitude are exact.

    >>> auroc(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 5.0]))
    0.875

    Args:
        in_scores: OOD scores `(N,)` of in-distribution images; higher means more out-of-distribution.
        out_scores: OOD scores `(M,)` of out-of-distribution images.

    Raises:
        UserError: If a set of scores is empty, or a score is NaN.
    """
    return float(Ranked.of(in_scores, out_scores).auroc())


def aupr(in_scores: Tensor, out_scores: Tensor) -> float:
    """Return the average precision with out-of-distribution as the positive class, in [0, 1]; chance is M/(N + M).

    AP = Σ_u (R_u − R_{u'}) P_u over the distinct scores u in descending order, where u' precedes u. R_u and P_u are the
    recall and precision of the classifier that calls an image out-of-distribution if its score is at least u. OpenOOD's
    AUPR_OUT integrates the same curve by the trapezoidal rule.

    >>> round(aupr(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 5.0])), 4)
    0.8333

    Args:
        in_scores: OOD scores `(N,)` of in-distribution images; higher means more out-of-distribution.
        out_scores: OOD scores `(M,)` of out-of-distribution images.

    Raises:
        UserError: If a set of scores is empty, or a score is NaN.
    """
    return float(Ranked.of(in_scores, out_scores).aupr())


def aupr_in(in_scores: Tensor, out_scores: Tensor) -> float:
    """Return the average precision with in-distribution as the positive class, in [0, 1]; chance is N/(N + M).

    It is `aupr` with the roles of the two sets exchanged and −score as the score.

    >>> round(aupr_in(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 5.0])), 4)
    0.8333

    Args:
        in_scores: OOD scores `(N,)` of in-distribution images; higher means more out-of-distribution.
        out_scores: OOD scores `(M,)` of out-of-distribution images.

    Raises:
        UserError: If a set of scores is empty, or a score is NaN.
    """
    return float(Ranked.of(in_scores, out_scores).aupr_in())


def fpr95(in_scores: Tensor, out_scores: Tensor) -> float:
    """Return the fraction of out-of-distribution images accepted when 95 % of in-distribution images are, in [0, 1].

    In-distribution is the positive class (ODIN: Liang et al., 2018). An image is accepted if its score is at most t,
    the ⌈0.95 N⌉-th smallest in-distribution score, and FPR95 = #{out ≤ t} / M. OpenOOD's code takes the other class as
    positive, so its values differ.

    >>> fpr95(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 5.0]))
    0.5

    Args:
        in_scores: OOD scores `(N,)` of in-distribution images; higher means more out-of-distribution.
        out_scores: OOD scores `(M,)` of out-of-distribution images.

    Raises:
        UserError: If a set of scores is empty, or a score is NaN.
    """
    return float(Ranked.of(in_scores, out_scores).fpr95())


def ranks(in_scores: Tensor, out_scores: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return the rank of each score among the distinct values of both sets, from 0, and the number of these values.

    >>> ranks(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 5.0]))
    (tensor([0, 1]), tensor([1, 2]), 3)

    Args:
        in_scores: Scores `(N,)` of in-distribution images.
        out_scores: Scores `(M,)` of out-of-distribution images.

    Returns:
        Ranks `(N,)`, ranks `(M,)` and the number of distinct values.

    Raises:
        UserError: If a set of scores is empty, or a score is NaN.
    """
    for which, scores in (("in-distribution", in_scores), ("out-of-distribution", out_scores)):
        if scores.ndim != 1 or not len(scores):
            raise UserError(f"{which} scores must have shape (N,) with N >= 1, found {tuple(scores.shape)}")
        if scores.isnan().any():
            raise UserError(f"{int(scores.isnan().sum())} of {len(scores)} {which} scores are NaN, which have no rank")
    both = torch.cat([scores.detach().to("cpu").double() for scores in (in_scores, out_scores)])
    values, place = torch.unique(both, return_inverse=True)
    return place[: len(in_scores)], place[len(in_scores) :], len(values)
