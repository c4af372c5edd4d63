"""What the page of `ebmzoo play` is given to show."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Moment:
    """A state of the chains: its caption, the images `(n, C, H, W)` in [-1, 1] and their energies E(x), `(n,)`.

    E is that of images without noise, where a method has one for each noise level.
    """

    caption: str
    images: Tensor
    energies: Tensor


@dataclass(frozen=True)
class Walk:
    """Images and the chains that led to them.

    Args:
        images: uint8 `(n, C, H, W)`.
        energies: E of the images before they are rounded to uint8, `(n,)`.
        moments: States of the chains in order, the images last.
        steps: Langevin steps of a chain, over all its levels.
        cost: What the chain was and what it cost, as a sentence without its end.
    """

    images: Tensor
    energies: Tensor
    moments: list[Moment]
    steps: int
    cost: str


@dataclass(frozen=True)
class RestoredPicture:
    """A picture, what was left of it, and its restorations: uint8 `(1, C, H, W)` twice, and `walk`.

    `psnr` has those of what was left and of the restorations, against the picture, in dB.
    """

    picture: Tensor
    left: Tensor
    walk: Walk
    psnr: tuple[float, float]


@dataclass(frozen=True)
class PictureScore:
    """The energy and the out-of-distribution score of a picture, and those of test images, `(N,)` each.

    There are no test images where the model's data are not at hand.
    """

    energy: float
    score: float
    of_test: tuple[Tensor, Tensor] | None

    def share_below(self) -> tuple[float, float] | None:
        """The shares of the test images with a smaller energy, and with a smaller score."""
        if self.of_test is None:
            return None
        energies, scores = self.of_test
        return float((energies < self.energy).double().mean()), float((scores < self.score).double().mean())
