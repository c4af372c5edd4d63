"""The energy of an image and its representation: the trunk, the marginal and the projection of LIEBM and CLEL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from ebmzoo.energy import EnergyNet, at_least_fp32
from ebmzoo.errors import UserError, at_least
from ebmzoo.networks.base import FeatureNet


class LatentEnergyNet(EnergyNet, ABC):
    """The parts of E(x, z), `ebmzoo.sampling.Joint`: E(x) = m(f(x)), and v = g(f(x)) to compare with z.

    Energies and projections are float32 also under autocast.

    >>> class Parts(LatentEnergyNet):
    ...     def features(self, x):
    ...         return x.flatten(1)
    ...     def marginal(self, f):
    ...         return f.square().sum(1) / 2
    ...     def project(self, f):
    ...         return f
    >>> Parts()(torch.ones(1, 1, 2, 2))
    tensor([2.])
    """

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Return f(x): images `(B, C, H, W)` to features `(B, out_features)`."""

    @abstractmethod
    def marginal(self, f: Tensor) -> Tensor:
        """Return m(f): features `(B, out_features)` to energies `(B,)`."""

    @abstractmethod
    def project(self, f: Tensor) -> Tensor:
        """Return v = g(f): features `(B, out_features)` to `(B, latent)`, not normalised."""

    def forward(self, x: Tensor) -> Tensor:
        return self.marginal(self.features(x))


class LatentEnergy(LatentEnergyNet):
    """LIEBM's energy E(x) = ‖f(x)‖²/2 or E(x) = −(w·f(x) + b), and the projection v = g_ψ(f(x)).

    Source: LIEBM (appendix A.7), with its sign reversed: p(x) ∝ exp(−E(x)).

    >>> from ebmzoo.networks import SNGANFeatures
    >>> net = LatentEnergy(SNGANFeatures(in_channels=1, size=8, width=4, out_features=6), latent=3, hidden=8)
    >>> f = net.features(torch.zeros(5, 1, 8, 8))
    >>> net.marginal(f).shape, net.project(f).shape
    (torch.Size([5]), torch.Size([5, 3]))

    Args:
        features: The trunk f.
        latent: Dimension of the representation.
        hidden: Hidden units of the projection g_ψ.
        marginal: `norm` for ‖f‖²/2 (LIEBM on CIFAR-10 and ImageNet), `linear` for −(w·f + b) (LIEBM on CelebA).

    Raises:
        UserError: If `marginal` is `norm` and the trunk has no bias, as f(cx) = c f(x) puts the lowest energy at x = 0.
    """

    def __init__(
        self, features: FeatureNet, latent: int = 64, hidden: int = 1024, marginal: Literal["norm", "linear"] = "norm"
    ) -> None:
        super().__init__()
        at_least(1, latent=latent, hidden=hidden)
        if marginal == "norm" and features.homogeneous:
            raise UserError(
                "marginal: 'norm' needs a trunk with a bias (features.bias: all or last), "
                "as without any the zero image always has the lowest energy"
            )
        self.trunk = features
        self.linear = nn.Linear(features.out_features, 1) if marginal == "linear" else None
        self.projection = nn.Sequential(nn.Linear(features.out_features, hidden), nn.ReLU(), nn.Linear(hidden, latent))

    def features(self, x: Tensor) -> Tensor:
        return self.trunk(x)  # type: ignore[no-any-return]

    def marginal(self, f: Tensor) -> Tensor:
        """Return ‖f‖²/2 or −(w·f + b): features `(B, out_features)` to energies `(B,)`."""
        with torch.autocast(f.device.type, enabled=False):
            f = at_least_fp32(f)
            return f.square().sum(1) / 2 if self.linear is None else -self.linear(f).squeeze(1)

    def project(self, f: Tensor) -> Tensor:
        """Return v = g_ψ(f): features `(B, out_features)` to `(B, latent)`, not normalised."""
        with torch.autocast(f.device.type, enabled=False):
            return self.projection(at_least_fp32(f))  # type: ignore[no-any-return]
