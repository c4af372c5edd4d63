"""What an encoder can be trained for."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ebmzoo.networks.base import Encoder


class Objective(nn.Module, ABC):
    """A self-supervised loss of an encoder; it holds what only training needs, such as a predictor."""

    # Not abstract: an objective without networks of its own has nothing to build.
    def attach(self, encoder: Encoder) -> None:
        """Build what depends on the encoder; its trainer calls this once, as soon as it has both.

        After that the parameters and the `state_dict` keep their names and shapes, so optimizers and checkpoints come
        later.
        """

    @abstractmethod
    def forward(self, encoder: Encoder, images: Tensor, *, negatives: Tensor | None = None) -> Tensor:
        """The loss, a scalar, on images `(B, C, H, W)` in [-1, 1].

        `negatives` `(M, latent)` are further points of the representation space that no image should be near; they get
        no gradient, and an objective without negatives ignores them.
        """

    # Not abstract: most objectives have nothing to do here.
    def after_step(self, encoder: Encoder, progress: float) -> None:
        """Called after each optimizer step, `progress` being the part of training done, in [0, 1]."""
