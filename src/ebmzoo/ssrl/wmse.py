"""W-MSE (Ermolov et al., 2021): the agreement of views after whitening, which prevents collapse without negatives."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from ebmzoo.errors import UserError
from ebmzoo.networks.base import Encoder
from ebmzoo.ssrl.augment import Augment
from ebmzoo.ssrl.byol import cosine_distance
from ebmzoo.ssrl.objective import Objective


def whiten(v: Tensor, eps: float = 0.0) -> Tensor:
    """Return z = L⁻¹(v − μ) with LLᵀ = (1 − ε)Σ + εI, so that with ε = 0 the batch has mean 0 and covariance I.

    μ and Σ, with the divisor n − 1, are those of the batch v, `(n, d)`. Computed in float64, also under autocast, and
    returned in the dtype of `v`. Source: Ermolov et al. (2021), §3.

    Raises:
        UserError: If the covariance has no inverse: n ≤ d with ε = 0, or points in a subspace.
    """
    n, d = v.shape
    if eps == 0 and n <= d:
        raise UserError(
            f"batch_size: {n} images cannot be whitened in {d} dimensions; give at least {d + 1}, or a smaller latent"
        )
    with torch.autocast(v.device.type, enabled=False):
        centred = v.double() - v.double().mean(0)
        covariance = centred.mT @ centred / (n - 1)
        covariance = (1 - eps) * covariance + eps * torch.eye(d, dtype=torch.float64, device=v.device)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if failed:
            raise UserError(
                f"eps: {eps} leaves the covariance of this batch without an inverse; give a positive eps, such as 0.001"
            )
        z: Tensor = torch.linalg.solve_triangular(factor, centred.mT, upper=False).mT
    return z.to(v.dtype)


class WMSE(Objective):
    """W-MSE's loss L = mean over pairs of views of mean_i (2 − 2 cos(z_i, z_i')), z being whitened representations.

    The images are split at random into groups of at least `group`, and each view of a group is whitened separately; a
    batch smaller than `group` is one group. The encoder receives all views as one batch. Its output h(v), on the unit
    sphere, is whitened in place of the head's raw output in Ermolov et al. There are no negatives: `negatives` is
    ignored. Source: Ermolov et al. (2021), §3, with the settings of LIEBM.

    Args:
        augment: Makes a view of each image; null for `ebmzoo.ssrl.Augment` with its defaults.
        views: Views of each image, d in the paper: 2 or 4.
        group: Images that are whitened together, more than the dimension of the representation.
        eps: ε, which shrinks the covariance towards I; only needed if it has no inverse.

    Raises:
        UserError: If `views` or `group` is less than 2 or `eps` is not in [0, 1]; if `eps` is 0 and a batch does not
            have more images than the representation has dimensions.
    """

    def __init__(self, augment: Augment | None = None, views: int = 2, group: int = 128, eps: float = 0.0) -> None:
        super().__init__()
        for name, value in (("views", views), ("group", group)):
            if value < 2:
                raise UserError(f"{name}: {value} must be 2 or more")
        if not 0 <= eps <= 1:
            raise UserError(f"eps: {eps} must be between 0 and 1")
        self.augment = Augment() if augment is None else augment
        self.views = views
        self.group = group
        self.eps = eps

    def attach(self, encoder: Encoder) -> None:
        if self.eps == 0 and self.group <= encoder.latent:
            raise UserError(
                f"group: {self.group} images cannot be whitened in the encoder's {encoder.latent} dimensions; "
                f"give at least {encoder.latent + 1}"
            )

    def forward(self, encoder: Encoder, images: Tensor, *, negatives: Tensor | None = None) -> Tensor:
        views: Tensor = encoder(torch.cat([self.augment(images) for _ in range(self.views)]))
        order = torch.randperm(len(images), device=images.device)
        groups = order.tensor_split(max(1, len(images) // self.group))
        # The whitened images of every view are in the order of `groups`.
        z = [torch.cat([whiten(v[group], self.eps) for group in groups]) for v in views.chunk(self.views)]
        return torch.stack([cosine_distance(one, other) for one, other in combinations(z, 2)]).mean()
