"""Whether Markov chains have come to one law, and how many independent draws their states are worth."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ebmzoo.errors import UserError


def split_rhat(traces: Tensor) -> float:
    """R̂ = √([(N − 1)/N W + B/N]/W), of the halves of each chain as chains of their own; 1 where they agree.

    N is the length of a half, W the mean of the halves' variances and B N times the variance of their means.
    Source: Gelman et al. 2013, Bayesian data analysis, Eq. 11.3 and 11.4; on `rank_normalised` traces that of Vehtari
    et al. 2021, who ask for less than 1.01.

    Args:
        traces: `(M, N)`, a number of each state of M chains, such as its energy.

    Returns:
        R̂, NaN for traces that never change and ∞ for constant chains that differ.

    Raises:
        UserError: fewer than 4 states a chain, or a number that is not finite.
    """
    x = _split(traces)
    within, total = _variances(x)
    if total == 0:
        return math.nan
    return math.sqrt(total / within) if within > 0 else math.inf


def rank_normalised(traces: Tensor) -> Tensor:
    """Φ⁻¹((r − 3/8)/(S + 1/4)), r from 1 to S the rank of each number among all, ties the mean of theirs.

    It makes R̂ and ESS independent of the scale and of heavy tails. Source: Vehtari et al. 2021, Eq. 14.
    """
    from scipy.stats import rankdata

    ranks = torch.from_numpy(rankdata(traces.detach().cpu().double().numpy().ravel())).view(traces.shape)
    normal: Tensor = torch.special.ndtri((ranks - 3 / 8) / (traces.numel() + 1 / 4))
    return normal


def effective_sample_size(traces: Tensor) -> float:
    """M N/τ, τ = −1 + 2 Σ_k P_k, P_k = ρ_{2k} + ρ_{2k+1}, as long as P_k > 0 and made never to rise.

    ρ_t = 1 − (W − mean over chains of the autocovariance at lag t)/[(N − 1)/N W + B/N], of the halves of each chain:
    chains that do not mix have few draws however long they are.
    Source: Geyer 1992, §3.3 (initial monotone sequence), and Vehtari et al. 2021, Eq. 10 and 11, who also limit it to
    M N log₁₀(M N).

    Args:
        traces: `(M, N)`, a number of each state of M chains.

    Returns:
        How many independent draws would give their mean as exactly; NaN for traces that never change.

    Raises:
        UserError: fewer than 4 states a chain, or a number that is not finite.
    """
    x = _split(traces)
    within, total = _variances(x)
    if total == 0:
        return math.nan
    covariance = _autocovariances(x).mean(0)
    rho = 1 - (within - covariance * (x.shape[1] / (x.shape[1] - 1))) / total
    rho[0] = 1.0
    pairs = rho[: len(rho) // 2 * 2].view(-1, 2).sum(1)
    negative = (pairs <= 0).nonzero()
    pairs = pairs[: int(negative[0]) if len(negative) else len(pairs)]
    tau = -1 + 2 * float(pairs.cummin(0).values.sum())
    return x.numel() / max(tau, 1 / math.log10(x.numel()))


def _split(traces: Tensor) -> Tensor:
    """The halves of each chain, `(2M, N // 2)` float64; an odd state in the middle is left out."""
    if traces.ndim != 2 or traces.shape[1] < 4 or not len(traces):
        raise UserError(f"traces must have shape (M, N) with M >= 1 and N >= 4, found {tuple(traces.shape)}.")
    if not traces.isfinite().all():
        raise UserError("the traces hold NaN or infinity: a chain has diverged.")
    half = traces.shape[1] // 2
    x = traces.detach().cpu().double()
    return torch.cat([x[:, :half], x[:, -half:]])


def _variances(x: Tensor) -> tuple[float, float]:
    """W and (N − 1)/N W + B/N of chains `(M, N)`."""
    n = x.shape[1]
    within = float(x.var(1).mean())
    return within, (n - 1) / n * within + float(x.mean(1).var())


def _autocovariances(x: Tensor) -> Tensor:
    """1/N Σ_i (x_i − x̄)(x_{i+t} − x̄) at the lags t = 0, …, N − 1 of each chain, `(M, N)`, by Fourier transforms."""
    n = x.shape[1]
    centred = x - x.mean(1, keepdim=True)
    power = torch.fft.rfft(centred, n=2 * n).abs().square()
    covariances: Tensor = torch.fft.irfft(power, n=2 * n)[:, :n] / n
    return covariances
