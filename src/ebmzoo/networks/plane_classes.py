"""A classifier of points of the plane, whose logits are energies."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebmzoo.energy import at_least_fp32
from ebmzoo.errors import at_least
from ebmzoo.networks.base import ClassEnergyNet
from ebmzoo.networks.plane import PlaneFeatures


@final
class PlaneClassEnergy(ClassEnergyNet):
    """A classifier f = MLP with SiLU of points: E(x, y) = −f(x)[y], E(x) = −log Σ_y exp f(x)[y].

    Source: Grathwohl et al. (2020), JEM, for images. Shapes: `(B, in_features, 1, 1)` to `(B,)`.

    >>> net = PlaneClassEnergy(classes=3, width=4)
    >>> net(torch.zeros(5, 2, 1, 1)).shape, net.logits(torch.zeros(5, 2, 1, 1)).shape
    (torch.Size([5]), torch.Size([5, 3]))

    Args:
        in_features: Dimension of the points.
        classes: Number of classes.
        width: Hidden units.
        depth: Hidden layers.

    Raises:
        UserError: If a number is less than 1.
    """

    def __init__(self, in_features: int = 2, classes: int = 8, width: int = 128, depth: int = 3) -> None:
        super().__init__()
        at_least(1, classes=classes)
        self.classes, self.feature_dim = classes, width
        self.trunk = PlaneFeatures(in_features, width, depth, width)
        self.last = nn.Linear(width, classes)

    def features(self, x: Tensor) -> Tensor:
        return at_least_fp32(F.silu(self.trunk(x)))

    def logits(self, x: Tensor) -> Tensor:
        h = self.features(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.last(h)  # type: ignore[no-any-return]
