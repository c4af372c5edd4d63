"""Images with what they cost, and the facts of the chain that makes them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ChainInfo:
    """What samples cost, and how the chains that make them run.

    Args:
        nfe: Network evaluations for each image.
        start: Where chains begin, such as `noise`, `generator` or `replay`.
        steps: Langevin steps of one chain, over all its levels.
        temperature: τ²/2η; NaN without a chain.
    """

    nfe: int
    start: str
    steps: int
    temperature: float

    def samples(self, images: Tensor) -> Samples:
        """`images` with these facts."""
        return Samples(images, self.nfe, self.start, self.steps, self.temperature)


@dataclass(frozen=True)
class Samples:
    """Images with what they cost.

    Args:
        images: `(n, C, H, W)` in [-1, 1], up to the chain's noise.
        nfe: Network evaluations for each image.
        start: Where the chains began.
        steps: Langevin steps of one chain, over all its levels.
        temperature: τ²/2η; NaN without a chain.
    """

    images: Tensor
    nfe: int
    start: str
    steps: int
    temperature: float

    @property
    def chain(self) -> ChainInfo:
        """The facts without the images."""
        return ChainInfo(self.nfe, self.start, self.steps, self.temperature)
