"""Out-of-distribution detection from scores: AUROC and FPR95, on ranks, so any monotone change of score is the same."""

from __future__ import annotations

from torch import Tensor

from ebmzoo.errors import UserError


def auroc(in_scores: Tensor, out_scores: Tensor) -> float:
    """P(out > in) + ½ P(out = in) over all pairs, in [0, 1]; a higher score means more out-of-distribution.

    Computed from ranks (Mann and Whitney, 1947) in float64, so raw energies of any size are safe.

    Args:
        in_scores: OOD scores `(N,)` of in-distribution images.
        out_scores: OOD scores `(M,)` of out-of-distribution images.

    Raises:
        UserError: an empty set, or a score that is NaN.
    """
    _check(in_scores, out_scores)
    from scipy.stats import rankdata

    scores = [s.detach().to("cpu").double().numpy() for s in (out_scores, in_scores)]
    n_out, n_in = len(scores[0]), len(scores[1])
    rank_sum = float(rankdata([*scores[0], *scores[1]])[:n_out].sum())
    return (rank_sum - n_out * (n_out + 1) / 2) / (n_out * n_in)


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
    _check(in_scores, out_scores)
    ceil_95 = -(-95 * len(in_scores) // 100)
    threshold = in_scores.detach().to("cpu").double().kthvalue(ceil_95).values
    return (out_scores.detach().to("cpu").double() <= threshold).double().mean().item()


def _check(in_scores: Tensor, out_scores: Tensor) -> None:
    for which, scores in (("in-distribution", in_scores), ("out-of-distribution", out_scores)):
        if scores.ndim != 1 or not len(scores):
            raise UserError(f"{which} scores must have shape (N,) with N >= 1, found {tuple(scores.shape)}.")
        if scores.isnan().any():
            raise UserError(f"{int(scores.isnan().sum())} of {len(scores)} {which} scores are NaN: no rank exists.")
