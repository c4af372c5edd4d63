"""The interface of self-supervised objectives."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ebmzoo.networks.base import Encoder


class Objective(nn.Module, ABC):
    """A self-supervised loss of an encoder, with the networks that only its training needs, such as a predictor."""

    # Not abstract: an objective without networks of its own has nothing to build.
    def attach(self, encoder: Encoder) -> None:
        """Build the networks that depend on the encoder.

        The owner of the encoder calls this once, before it creates optimizers and checkpoints, as the parameters and
        the `state_dict` keep their names and shapes only from then on.
        """

    @abstractmethod
    def forward(self, encoder: Encoder, images: Tensor, *, negatives: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar, of images `(B, C, H, W)` in [-1, 1].

        `negatives`, `(M, latent)`, are further points of the representation space that no image should be near; they
        receive no gradient, and an objective without negatives ignores them.
        """

    # Not abstract: most objectives have nothing to do here.
    def after_step(self, encoder: Encoder, progress: float) -> None:
        """Update what changes with each optimizer step; `progress` is the completed fraction of training, in [0, 1]."""
