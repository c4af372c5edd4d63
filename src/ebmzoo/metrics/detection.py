"""Out-of-distribution detection from scores, on ranks alone, so that any monotone change of the score is the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ebmzoo.errors import UserError


@dataclass(frozen=True)
class Ranked:
    """How many scores of each side lie at each of the U distinct values, rising: `(*, U)` each, float64.

    Ties are exact, for equal scores share a value; the leading dimensions are those of several sets of the same values.
    """

    inside: Tensor
    outside: Tensor

    @classmethod
    def of(cls, in_scores: Tensor, out_scores: Tensor) -> Ranked:
        """Of the scores `(N,)` of in-distribution images and those `(M,)` of others; see `ranks`."""
        in_ranks, out_ranks, values = ranks(in_scores, out_scores)
        return cls(*(torch.bincount(which, minlength=values).double() for which in (in_ranks, out_ranks)))

    @cached_property
    def accepted(self) -> Tensor:
        """#{in ≤ u} at each value u, `(*, U)`."""
        return self.inside.cumsum(-1)

    @cached_property
    def let_in(self) -> Tensor:
        """#{out ≤ u} at each value u, `(*, U)`."""
        return self.outside.cumsum(-1)

    def auroc(self) -> Tensor:
        """Σ_u out_u (#{in ≤ u} − ½ in_u) / NM, `(*,)`."""
        pairs = (self.outside * (self.accepted - self.inside / 2)).sum(-1)
        return pairs / (self.accepted[..., -1] * self.let_in[..., -1])

    def aupr(self) -> Tensor:
        """Σ_u (out_u / M) #{out ≥ u} / (#{out ≥ u} + #{in ≥ u}), `(*,)`."""
        n, m = self.accepted[..., -1:], self.let_in[..., -1:]
        found, wrong = m - self.let_in + self.outside, n - self.accepted + self.inside
        return (self.outside * found / (found + wrong).clamp_min(1)).sum(-1) / self.let_in[..., -1]

    def aupr_in(self) -> Tensor:
        """Σ_u (in_u / N) #{in ≤ u} / (#{in ≤ u} + #{out ≤ u}), `(*,)`."""
        precision = self.accepted / (self.accepted + self.let_in).clamp_min(1)  # nothing is counted before the first
        return (self.inside * precision).sum(-1) / self.accepted[..., -1]

    def fpr95(self) -> Tensor:
        """#{out ≤ t} / M, `(*,)`, t the least u with #{in ≤ u} ≥ ⌈0.95 N⌉."""
        needed = -(-95 * self.accepted[..., -1:].long() // 100)
        t = torch.searchsorted(self.accepted, needed.double())
        return (self.let_in.gather(-1, t) / self.let_in[..., -1:]).squeeze(-1)


METRICS: dict[str, Callable[[Ranked], Tensor]] = {
    "auroc": Ranked.auroc,
    "aupr": Ranked.aupr,
    "aupr_in": Ranked.aupr_in,
    "fpr95": Ranked.fpr95,
}
"""What is told of a score, by name; all in [0, 1]."""


def auroc(in_scores: Tensor, out_scores: Tensor) -> float:
    """P(out > in) + ½ P(out = in) over all pairs, in [0, 1]; a higher score means more out-of-distribution.

    Computed from ranks (Mann and Whitney, 1947) in float64, so raw energies of any size are safe.

    Args:
        in_scores: OOD scores `(N,)` of in-distribution images.
        out_scores: OOD scores `(M,)` of out-of-distribution images.

    Raises:
        UserError: an empty set, or a score that is NaN.
    """
    return float(Ranked.of(in_scores, out_scores).auroc())


def aupr(in_scores: Tensor, out_scores: Tensor) -> float:
    """The average precision with out-of-distribution as the positive class, in [0, 1]; blind is M/(N + M), not ½.

    AP = Σ_u (R_u − R_{u'}) P_u over the distinct scores u, falling, u' the one before; R_u and P_u are recall and
    precision of calling out what has a score ≥ u. OpenOOD's AUPR_OUT is the trapezoid of the same curve.

    Args:
        in_scores: OOD scores `(N,)` of in-distribution images, higher = more out-of-distribution.
        out_scores: OOD scores `(M,)` of out-of-distribution images.

    Raises:
        UserError: an empty set, or a score that is NaN.
    """
    return float(Ranked.of(in_scores, out_scores).aupr())


def aupr_in(in_scores: Tensor, out_scores: Tensor) -> float:
    """The average precision with in-distribution as the positive class, of falling −score: otherwise as `aupr`."""
    return float(Ranked.of(in_scores, out_scores).aupr_in())


def fpr95(in_scores: Tensor, out_scores: Tensor) -> float:
    """The fraction of out-of-distribution images accepted when 95 % of in-distribution images are, in [0, 1].

    In-distribution is the positive class (ODIN: Liang et al., 2018): an image is accepted when its score ≤ t, t being
    the ⌈0.95 N⌉-th smallest in-distribution score; FPR95 = #{out ≤ t} / M. OpenOOD's code takes the other class as
    positive, and its figures differ.

    Args:
        in_scores: OOD scores `(N,)` of in-distribution images, higher = more out-of-distribution.
        out_scores: OOD scores `(M,)` of out-of-distribution images.

    Raises:
        UserError: an empty set, or a score that is NaN.
    """
    return float(Ranked.of(in_scores, out_scores).fpr95())


def ranks(in_scores: Tensor, out_scores: Tensor) -> tuple[Tensor, Tensor, int]:
    """The place of each score among the distinct values of both, from 0, `(N,)` and `(M,)`; and how many these are.

    Raises:
        UserError: an empty set, or a score that is NaN.
    """
    for which, scores in (("in-distribution", in_scores), ("out-of-distribution", out_scores)):
        if scores.ndim != 1 or not len(scores):
            raise UserError(f"{which} scores must have shape (N,) with N >= 1, found {tuple(scores.shape)}.")
        if scores.isnan().any():
            raise UserError(f"{int(scores.isnan().sum())} of {len(scores)} {which} scores are NaN: no rank exists.")
    both = torch.cat([scores.detach().to("cpu").double() for scores in (in_scores, out_scores)])
    values, place = torch.unique(both, return_inverse=True)
    return place[: len(in_scores)], place[len(in_scores) :], len(values)
