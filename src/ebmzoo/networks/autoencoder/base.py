"""What a method that lives in a latent space asks of an auto-encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from torch import Tensor, nn

from ebmzoo.networks.weights import load_pretrained

PREFIX = "coder."
"""What the keys of an auto-encoder's weights begin with in a checkpoint."""


class ImageCoder(nn.Module, ABC):
    """Images to smaller pictures of about unit variance, the latents, and back (CDRL, D.2).

    Both ways are without chance and differentiable, and at least float32.
    """

    frozen = False

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Images `(B, C, H, W)` in [-1, 1] to latents `(B, c, h, w)`, the mode of q(z|x) times the scale."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents `(B, c, h, w)` to images `(B, C, H, W)`, meant for [-1, 1] but not clamped to it."""

    @abstractmethod
    def shape(self, channels: int, size: int) -> tuple[int, int, int]:
        """`(c, h, w)` of the latents of images `(channels, size, size)`.

        Raises:
            UserError: It is not for such images.
        """

    def freeze(self) -> Self:
        """For good: no parameter needs a gradient, and `train` leaves it in eval mode; what an owner calls."""
        self.frozen = True
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """As of every module, except that a frozen one stays in eval mode."""
        return super().train(mode and not self.frozen)


def load_coder(coder: ImageCoder, path: str | Path) -> None:
    """Fill `coder` in place from a checkpoint of `KLAutoEncoderTraining`, or of a method that owns a `coder`.

    Raises:
        UserError: If the file is missing, is no checkpoint with a coder, or holds another coder than this one.
    """
    load_pretrained(coder, path, PREFIX, "auto-encoder")
