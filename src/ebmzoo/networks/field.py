"""Energies made of a network that maps images to images, as Equilibrium Matching makes them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ebmzoo.energy import EnergyNet, at_least_fp32
from ebmzoo.errors import UserError
from ebmzoo.networks.base import Initializer
from ebmzoo.networks.unet import UNet


class FieldEnergy(EnergyNet):
    """The energy E(x) = −x·f(x) (`dot`) or E(x) = |f(x)|²/2 (`l2`) of a network f that maps images to images.

    `l2` is never below 0; `dot` has no lower bound, and chains much longer than those of training can leave through it.
    For `l2` a `UNet` starts with an ordinary last layer instead of zeros, at which the gradient for every parameter
    would be exactly zero for good.
    Source: the code of Equilibrium Matching (EqM-E), in which a chain follows −∇E as well.
    Shapes: images `(B, C, H, W)` in [-1, 1] to `(B,)`; f is given the time 0.

    >>> class Doubled(Initializer):
    ...     classes = 0
    ...     def forward(self, x, time, labels=None):
    ...         return 2 * x
    >>> FieldEnergy(Doubled(), "dot")(torch.ones(1, 1, 1, 1)), FieldEnergy(Doubled(), "l2")(torch.ones(1, 1, 1, 1))
    (tensor([-2.]), tensor([2.]))

    Args:
        field: f.
        form: `dot` or `l2`.

    Raises:
        UserError: If `form` is another.
    """

    def __init__(self, field: Initializer, form: Literal["dot", "l2"] = "dot") -> None:
        super().__init__()
        if form not in ("dot", "l2"):
            raise UserError(f"form: {form!r} must be 'dot' or 'l2'")
        self.field = field
        self.form = form
        if form == "l2" and isinstance(field, UNet):
            field.up.last.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        f = at_least_fp32(self.field(x, torch.zeros(len(x), device=x.device)))
        return -(x * f).flatten(1).sum(1) if self.form == "dot" else f.square().flatten(1).sum(1) / 2
