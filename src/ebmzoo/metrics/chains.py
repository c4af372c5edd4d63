"""Convergence diagnostics of Markov chains: split R̂ and the effective sample size."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ebmzoo.errors import UserError


def split_rhat(traces: Tensor) -> float:
    """Return R̂ = √([(N − 1)/N W + B/N]/W) of the halves of each chain, each half counted as a chain; 1 if they agree.

    N is the length of a half, W the mean of the halves' variances and B is N times the variance of their means.
    Source: Gelman et al., Bayesian data analysis, 2013, Eq. 11.3 and 11.4. On `rank_normalised` traces it is the R̂ of
    Vehtari et al., 2021, who recommend a value below 1.01.

    >>> split_rhat(torch.tensor([[0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0]])) < 1
    True
    >>> split_rhat(torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))
    inf

    Args:
        traces: One number for each state of M chains, such as its energy: `(M, N)`.

    Returns:
        R̂, or NaN if no trace ever changes, or ∞ if the chains are constant and differ.

    Raises:
        UserError: If a chain has fewer than 4 states, or a number is not finite.
    """
    x = _split(traces)
    within, total = _variances(x)
    if total == 0:
        return math.nan
    return math.sqrt(total / within) if within > 0 else math.inf


def rank_normalised(traces: Tensor) -> Tensor:
    """Return Φ⁻¹((r − 3/8)/(S + 1/4)), where r = 1, …, S is the rank of each number; ties take their mean rank.

    It makes R̂ and the effective sample size independent of scale and robust to heavy tails.
    Source: Vehtari et al., 2021, Eq. 14.

    >>> rank_normalised(torch.tensor([[1.0, 100.0, 2.0]])).round(decimals=2)
    tensor([[-0.8700,  0.8700,  0.0000]], dtype=torch.float64)

    Args:
        traces: Numbers of any shape.

    Returns:
        Normal scores of the same shape, float64 on the CPU.
    """
    from scipy.stats import rankdata

    ranks = torch.from_numpy(rankdata(traces.detach().cpu().double().numpy().ravel())).view(traces.shape)
    normal: Tensor = torch.special.ndtri((ranks - 3 / 8) / (traces.numel() + 1 / 4))
    return normal


def effective_sample_size(traces: Tensor) -> float:
    """Return M N/τ, τ = −1 + 2 Σ_k P_k: the number of independent draws that would estimate the mean as precisely.

    P_k = ρ_{2k} + ρ_{2k+1} is summed while it is positive and replaced by its running minimum. With the halves of each
    chain counted as chains, ρ_t = 1 − (W − the mean autocovariance at lag t)/[(N − 1)/N W + B/N], so that chains which
    do not mix have a small effective sample size, however long they are. Source: Geyer, 1992, §3.3 (initial monotone
    sequence), and Vehtari et al., 2021, Eq. 10 and 11, who also limit it to M N log₁₀(M N).

    >>> trace = torch.randn(2, 100, generator=torch.Generator().manual_seed(0))
    >>> independent, repeated = effective_sample_size(trace), effective_sample_size(trace.repeat_interleave(5, 1))
    >>> 0.8 < repeated / independent < 1.25  # five times as many states hold no more information
    True

    Args:
        traces: One number for each state of M chains: `(M, N)`.

    Returns:
        The effective sample size, or NaN if no trace ever changes.

    Raises:
        UserError: If a chain has fewer than 4 states, or a number is not finite.
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
    """Return the halves of each chain, `(2M, N // 2)` float64; the middle state of an odd number is left out."""
    if traces.ndim != 2 or traces.shape[1] < 4 or not len(traces):
        raise UserError(f"traces must have shape (M, N) with M >= 1 and N >= 4, found {tuple(traces.shape)}")
    if not traces.isfinite().all():
        raise UserError("the traces contain NaN or infinity: a chain has diverged")
    half = traces.shape[1] // 2
    x = traces.detach().cpu().double()
    return torch.cat([x[:, :half], x[:, -half:]])


def _variances(x: Tensor) -> tuple[float, float]:
    """Return W and (N − 1)/N W + B/N of chains `(M, N)`."""
    n = x.shape[1]
    within = float(x.var(1).mean())
    return within, (n - 1) / n * within + float(x.mean(1).var())


def _autocovariances(x: Tensor) -> Tensor:
    """Return 1/N Σ_i (x_i − x̄)(x_{i+t} − x̄) at the lags t = 0, …, N − 1 of each chain, `(M, N)`, by the FFT."""
    n = x.shape[1]
    centred = x - x.mean(1, keepdim=True)
    power = torch.fft.rfft(centred, n=2 * n).abs().square()
    covariances: Tensor = torch.fft.irfft(power, n=2 * n)[:, :n] / n
    return covariances
