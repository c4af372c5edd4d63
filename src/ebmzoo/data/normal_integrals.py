"""Probabilities of a normal variable, and of a uniform one with normal noise, to full precision."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def normal_mass(low: Tensor, high: Tensor) -> Tensor:
    """Return Φ(high) − Φ(low) for low ≤ high, float64, with full relative precision even in the tails."""
    right = low + high > 0
    low, high = torch.where(right, -high, low), torch.where(right, -low, high)
    return (torch.erfc(-high / math.sqrt(2)) - torch.erfc(-low / math.sqrt(2))) / 2


def uniform_cdf(t: Tensor, a: Tensor, b: Tensor, sigma: float) -> Tensor:
    """Return P(u + σε < t) for u ~ U(a, b) and ε ~ N(0, 1), float64.

    It is σ [G((t − a)/σ) − G((t − b)/σ)]/(b − a) with G(z) = z Φ(z) + φ(z).
    """
    if sigma == 0:
        return ((t - a) / (b - a)).clamp(0, 1)

    def g(z: Tensor) -> Tensor:
        return z * torch.erfc(-z / math.sqrt(2)) / 2 + (-z.square() / 2).exp() / math.sqrt(2 * math.pi)

    return sigma * (g((t - a) / sigma) - g((t - b) / sigma)) / (b - a)
