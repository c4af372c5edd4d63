"""The importance-weighted bound on the log-likelihood of a generator with a Gaussian decoder."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ebmzoo.networks import gaussian


def log_normal(x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Return log N(x; μ, diag exp(logvar)) with its constant, `(B,)` float64, for arguments that broadcast to `(B, *)`.

    >>> zero = torch.zeros(1, 1)
    >>> log_normal(zero, zero, zero).exp()  # 1/√(2π)
    tensor([0.3989], dtype=torch.float64)
    """
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
    """Return one sample of the importance-weighted lower bound of log p(x), `(B,)` float64, in nats:

        log p(x) ≥ E log (1/K) Σ_k p(x|z_k) p(z_k)/q(z_k|x),   z_k ~ q(z|x),

    with p(x|z) = N(G(z), σ²I), p(z) = N(0, I), q(z|x) = N(μ, diag exp(logvar)). It increases with K towards log p(x);
    K = 1 is the evidence lower bound. Source: Burda et al. (2016), Importance weighted autoencoders, Eq. 8.

    Args:
        decode: G, latents `(B, latent)` to images `(B, C, H, W)`.
        sigma: σ, in the units of the images.
        x: Images, `(B, C, H, W)`.
        mu: μ, `(B, latent)`.
        logvar: Logarithm of the variances of q, `(B, latent)`.
        samples: K.
        generator: Source of z; None is torch's global generator.
    """
    variance = torch.tensor(2 * math.log(sigma), dtype=torch.float64, device=x.device)
    prior = torch.zeros(1, 1, device=x.device)
    log_w = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
    for _ in range(samples):  # one at a time, so that memory does not grow with K
        z = gaussian.draw(mu, logvar, generator)
        log_p = log_normal(x, decode(z), variance) + log_normal(z, prior, prior)
        log_w = torch.logaddexp(log_w, log_p - log_normal(z, mu, logvar))
    return log_w - math.log(samples)
