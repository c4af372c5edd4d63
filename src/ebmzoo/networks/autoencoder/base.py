"""The interface of the auto-encoders of methods that work in a latent space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from torch import Tensor, nn

from ebmzoo.networks.weights import load_pretrained

PREFIX = "coder."
"""The start of the keys of an auto-encoder's weights in a checkpoint."""


class ImageCoder(nn.Module, ABC):
    """An auto-encoder: images to smaller images of about unit variance, the latents, and back.

    Both directions are deterministic and differentiable, and their results are at least float32. Source: CDRL, D.2.

    >>> class Halved(ImageCoder):
    ...     def encode(self, x):
    ...         return nn.functional.avg_pool2d(x, 2)
    ...     def decode(self, latents):
    ...         return nn.functional.interpolate(latents, scale_factor=2)
    ...     def shape(self, channels, size):
    ...         return channels, size // 2, size // 2
    >>> coder, x = Halved(), torch.ones(1, 3, 8, 8)
    >>> coder.encode(x).shape[1:] == coder.shape(3, 8), torch.equal(coder.decode(coder.encode(x)), x)
    (True, True)
    """

    frozen = False

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Return the latents `(B, c, h, w)` of images `(B, C, H, W)` in [-1, 1]: the mode of q(z|x) times the scale."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Return the images `(B, C, H, W)` of latents `(B, c, h, w)`, about in [-1, 1] but not clamped to it."""

    @abstractmethod
    def shape(self, channels: int, size: int) -> tuple[int, int, int]:
        """Return the shape `(c, h, w)` of the latents of images `(channels, size, size)`.

        Raises:
            UserError: If the auto-encoder cannot encode such images.
        """

    def freeze(self) -> Self:
        """Freeze the auto-encoder for good: parameters need no gradient, and `train` leaves it in eval mode."""
        self.frozen = True
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Set training mode as every module does, except that a frozen auto-encoder remains in eval mode."""
        return super().train(mode and not self.frozen)


def load_coder(coder: ImageCoder, path: str | Path) -> None:
    """Load into `coder` the weights of a checkpoint of `KLAutoEncoderTraining`, or of a method that owns a `coder`.

    >>> from ebmzoo.networks.autoencoder import KLAutoEncoder
    >>> load_coder(KLAutoEncoder(width=8), "nowhere/last.ckpt")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ebmzoo.errors.UserError: nowhere/last.ckpt: no such file; ...

    Raises:
        UserError: If the file is missing, is not a checkpoint with a coder, or holds another coder than this one.
    """
    load_pretrained(coder, path, PREFIX, "auto-encoder")
