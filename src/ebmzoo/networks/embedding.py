"""The embedding of the noise level, and of the class, that conditions CDRL's energy and initializer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from ebmzoo.energy import at_least_fp32
from ebmzoo.errors import UserError


def sinusoidal(time: Tensor, dim: int) -> Tensor:
    """Return (sin ω_k t, cos ω_k t) with ω_k = 10000^(−k/(dim/2 − 1)), k = 0 … dim/2 − 1: `(B,)` to `(B, dim)`.

    Source: the code of DDPM (Ho et al., 2020). `dim` is even and 4 or more; the result is at least float32.
    """
    half, time = dim // 2, at_least_fp32(time)
    frequencies = torch.exp(torch.arange(half, device=time.device, dtype=time.dtype) * (-math.log(10000) / (half - 1)))
    angles = time[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


class TimeEmbedding(nn.Module):
    """The embedding temb = W₂ a(W₁ sinusoidal(t) + b₁) + b₂ + V onehot(label + 1) + c; the last two only with classes.

    Source: CDRL, A.1. Shapes: times `(B,)` and labels `(B,)` int64 to `(B, embedding)`, not in half precision under
    autocast. The label −1 means no class, and so does None. Without classes labels are ignored, so that a conditional
    energy can be used with an unconditional initializer.

    Args:
        width: Dimension of the sinusoids; even, 4 or more.
        embedding: Dimension of temb.
        classes: Number of classes; 0 for an unconditional network.
        activation: a.

    Raises:
        UserError: If `width` is odd or less than 4, or `classes` is negative.
    """

    def __init__(self, width: int, embedding: int, classes: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        if width < 4 or width % 2:
            raise UserError(f"width: {width} must be an even number of 4 or more")
        if classes < 0:
            raise UserError(f"classes: {classes} must be 0, for an unconditional network, or more")
        self.width = width
        self.activation = activation
        self.first = nn.Linear(width, embedding)
        self.second = nn.Linear(embedding, embedding)
        self.label = nn.Linear(classes + 1, embedding) if classes else None

    def forward(self, time: Tensor, labels: Tensor | None = None) -> Tensor:
        # The dtype is that of the bias, as access to a normalised weight would make a power iteration.
        dtype = self.first.bias.dtype
        with torch.autocast(time.device.type, enabled=False):
            temb: Tensor = self.second(self.activation(self.first(sinusoidal(time, self.width).to(dtype))))
            if self.label is None:
                return temb
            index = torch.zeros_like(time, dtype=torch.int64) if labels is None else labels + 1
            # F.one_hot checks the values of its argument, for which the host would wait at every step of a chain.
            onehot = index[:, None] == torch.arange(self.label.in_features, device=index.device)
            return temb + cast(Tensor, self.label(onehot.to(dtype)))
