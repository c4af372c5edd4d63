"""What the networks are for: the abstract kinds that methods ask for and configs choose among."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class FeatureNet(nn.Module, ABC):
    """f: images `(B, C, H, W)` to features `(B, out_features)`, the trunk of an energy."""

    out_features: int

    @property
    @abstractmethod
    def homogeneous(self) -> bool:
        """Whether f(cx) = c f(x) for c > 0, as in a network without any bias."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...


class Generator(nn.Module, ABC):
    """G: latents `(B, latent)` drawn from N(0, I) to images `(B, C, H, W)` in [-1, 1]."""

    latent: int

    @abstractmethod
    def forward(self, m: Tensor) -> Tensor: ...


class InferenceNet(nn.Module, ABC):
    """q(m|x) = N(μ(x), diag exp(logvar(x))): images to `(μ, logvar)`, each `(B, latent)`."""

    latent: int

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]: ...


class Encoder(nn.Module, ABC):
    """h: images `(B, C, H, W)` in [-1, 1] to the unit sphere `(B, latent)`; its own normalisation is inside."""

    latent: int
    feature_dim: int

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """The backbone's output `(B, feature_dim)`, which probes read."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...
