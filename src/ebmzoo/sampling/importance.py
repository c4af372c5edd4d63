"""The importance-weighted bound on the log-likelihood of a generator with a Gaussian decoder."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ebmzoo.networks import gaussian


def log_normal(x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """log N(x; μ, diag exp(logvar)) with its constant, `(B,)` float64: all `(B, *)`, or broadcast to it."""
    x, mu, logvar = x.double(), mu.double(), logvar.double()
    each = -((x - mu).square() / logvar.exp() + logvar + math.log(2 * math.pi)) / 2
    return each.flatten(1).sum(1)


def importance_bound(
    decode: Callable[[Tensor], Tensor],
    sigma: float,
    x: Tensor,
    mu: Tensor,
    logvar: Tensor,
    samples: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """log p(x) ≥ E log (1/K) Σ_k p(x|z_k) p(z_k)/q(z_k|x), z_k ~ q(z|x): one draw of the right side, `(B,)` float64.

    p(x|z) = N(G(z), σ²I), p(z) = N(0, I), q(z|x) = N(μ, diag exp(logvar)). It rises with K towards log p(x); K = 1 is
    the evidence lower bound. Source: Burda et al. 2016, Importance weighted autoencoders, Eq. 8.
    Shapes: `x` is `(B, C, H, W)` in the units of σ, `mu` and `logvar` `(B, latent)`.
    """
    variance = torch.tensor(2 * math.log(sigma), dtype=torch.float64, device=x.device)
    prior = torch.zeros(1, 1, device=x.device)
    log_w = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
    for _ in range(samples):  # one at a time: memory does not grow with K
        z = gaussian.draw(mu, logvar, generator)
        log_p = log_normal(x, decode(z), variance) + log_normal(z, prior, prior)
        log_w = torch.logaddexp(log_w, log_p - log_normal(z, mu, logvar))
    return log_w - math.log(samples)
