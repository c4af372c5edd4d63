"""The latents that classes, values of attributes and images stand for, and samples given them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ebmzoo.data.images import to_uint8
from ebmzoo.errors import UserError
from ebmzoo.methods.base import Method, Samples
from ebmzoo.methods.capabilities import Conditions
from ebmzoo.methods.conditioning import StartsFromImages
from ebmzoo.metrics.probe import encode


def conditions(method: Method) -> bool:
    """Whether the method samples given latents, and this model was built so that it can."""
    return isinstance(method, Conditions) and method.can_condition


def encoded(method: Method, images: Tensor, batch_size: int = 250) -> Tensor:
    """z = h(x)/|h(x)| of uint8 images `(N, C, H, W)`: `(N, d)`, on the method's device."""
    assert isinstance(method, Conditions)
    with method.evaluating():
        return encode(method, images, batch_size, read=method.encode)


def mean_latent(method: Method, images: Tensor, batch_size: int = 250) -> Tensor:
    """z̄ = Σᵢ zᵢ / |Σᵢ zᵢ|, `(d,)`, of uint8 images `(N, C, H, W)`. Source: CLEL, §4.3; LIEBM, §4.3.

    Raises:
        UserError: there are no images.
    """
    if len(images) == 0:
        raise UserError("a mean latent needs images, found none")
    return normalize(encoded(method, images, batch_size).mean(0), dim=0)


def draw_given(
    method: Method, z: Tensor, batch_size: int, steps: int | None = None, start: Tensor | None = None
) -> tuple[Tensor, Samples]:
    """One sample for each row of `z`, `(n, d)` or `(n, k, d)`: uint8 `(n, C, H, W)` on the CPU, and the last batch.

    `start`, `(n, C, H, W)` in [-1, 1], is for a method that starts from images.
    """
    assert isinstance(method, Conditions)
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be 1 or more")
    images: list[Tensor] = []
    for rows in torch.split(torch.arange(len(z)), batch_size):
        given = z[rows.to(z.device)].to(method.device)
        if start is None:
            sampled = method.sample_given(given, steps=steps)
        else:
            assert isinstance(method, StartsFromImages)
            sampled = method.sample_given(given, steps=steps, start=start[rows].to(method.device))
        images.append(to_uint8(sampled.images).cpu())
    return torch.cat(images), sampled


def first(mask: Tensor, n: int) -> Tensor:
    """The indices of the first `n` that are true, or of all where there are fewer."""
    return mask.nonzero()[:n, 0]
