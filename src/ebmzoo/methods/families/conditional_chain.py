"""Conditional samples of a method that has a generator: LIEBM's alternation, and a start from images."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import LatentConditional
from ebmzoo.methods.base.samples import Samples


def check_given(z: Tensor, d: int) -> None:
    """Raises `UserError` when `z` is not `(n, d)` or `(n, k, d)`."""
    if z.dim() not in (2, 3) or z.shape[-1] != d:
        raise UserError(f"z has shape {tuple(z.shape)}; (n, {d}) or (n, k, {d}) is needed")


@dataclass(frozen=True)
class LIEBMAlternation:
    """x = G(m) + Y, with Y and m in turn: Y by Langevin steps on E(G(m) + Y, z) from 0, m ~ q(·|G(m) + Y).

    Source: LIEBM, §4.3, which prints neither number; both are ours.

    Args:
        rounds: how many chains on Y, and between each two of them a draw of m.
        gamma: γ of E(·, z) there, larger than in training: a chain of few steps must move the image by ηγ∇cos, so what
            is right depends on the sampler's η. The larger, the closer to z, until the images break.

    Raises:
        UserError: there is no round, or γ is not positive.
    """

    rounds: int = 4
    gamma: float = 1.0

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UserError(f"model.alternation.rounds is {self.rounds}; it must be 1 or more")
        if not (self.gamma > 0 and math.isfinite(self.gamma)):
            raise UserError(f"model.alternation.gamma is {self.gamma}; it must be a positive number")


class StartsFromImages(LatentConditional):
    """Its conditional samples can start from images, such as the mean of a class's."""

    @property
    @abstractmethod
    def can_start_from_images(self) -> bool:
        """Whether this model was built with what that needs."""

    @abstractmethod
    def augmented(self, x: Tensor) -> Tensor:
        """v(x): images `(B, C, H, W)` in [-1, 1], each under a random augmentation of the method's own."""

    @abstractmethod
    def sample_from_latents(
        self,
        z: Tensor,
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        start: Tensor | None = None,
    ) -> Samples:
        """As `Conditions.sample_from_latents`, from the images `start`, `(n, C, H, W)` in [-1, 1], where given."""
