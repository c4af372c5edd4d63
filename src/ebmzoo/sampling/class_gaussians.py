"""A Gaussian for the images of each class, from which chains start nearer to the data than from noise."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from ebmzoo.data.images import ImageSet, to_float
from ebmzoo.errors import UserError, at_least


@final
class ClassGaussians(nn.Module):
    """x = clamp(μ_y + L_y u, −1, 1), u ~ N(0, I): L_y L_yᵀ = Σ_y + 10⁻⁴ I, μ_y and Σ_y of the training images of y.

    The moments are module buffers, so that checkpoints contain them: K D² numbers for K classes of D values each, 377
    MB for ten classes of 32×32 colour images. They are 0 until `fit`.
    Source: the code of Yang & Ji (2021, JEM++), from whose file of moments the starts of its chains are drawn.

    >>> from ebmzoo.data import Digits
    >>> gaussians = ClassGaussians(classes=10, shape=(1, 8, 8))
    >>> gaussians.fit(Digits().train_set)
    >>> gaussians.sample(torch.tensor([3, 3, 7])).shape
    torch.Size([3, 1, 8, 8])

    Args:
        classes: K, the number of classes.
        shape: Shape of an image, (C, H, W).
    """

    FLOOR = 1e-4
    """What is added to the variance in every direction."""

    mean: Tensor
    factor: Tensor

    def __init__(self, classes: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        at_least(1, classes=classes)
        self.shape = shape
        d = math.prod(shape)
        self.register_buffer("mean", torch.zeros(classes, d))
        self.register_buffer("factor", torch.zeros(classes, d, d))

    @torch.no_grad()
    def fit(self, images: ImageSet) -> None:
        """Take the moments of the images of each class, with divisor n, computed in double precision.

        Raises:
            UserError: If a class has no image.
        """
        for label, (mean, factor) in enumerate(zip(self.mean, self.factor, strict=True)):
            mask = images.labels == label
            if not mask.any():
                raise UserError(f"{images.name} has no image of class {images.classes[label]} to start chains near")
            x = to_float(images.images[mask]).flatten(1).double()
            centred = x - x.mean(0)
            covariance = centred.T @ centred / len(x)
            covariance.diagonal().add_(self.FLOOR)
            mean.copy_(x.mean(0))
            factor.copy_(torch.linalg.cholesky(covariance))

    @torch.no_grad()
    def sample(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return an image of each of the classes `labels`, `(n,)` int64: `(n, C, H, W)` in [-1, 1]."""
        with torch.autocast(labels.device.type, enabled=False):
            u = torch.randn(len(labels), self.mean.shape[1], device=labels.device, generator=generator)
            x, u = self.mean[labels], u.to(self.mean.dtype)
            for label, factor in enumerate(self.factor):  # selecting images by a mask would make the host wait
                x = torch.where((labels == label)[:, None], x + u @ factor.T, x)
        return x.clamp(-1, 1).view(-1, *self.shape)
