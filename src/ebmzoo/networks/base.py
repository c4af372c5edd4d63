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


class LevelEnergyNet(nn.Module, ABC):
    """Ê: a sequence of energies, one network for all noise levels; DRL's and CDRL's energy of level t is Ê/s_t².

    Low where data is likely: Ê is −f̂ of the papers (CDRL, A.2). Images may be of any shape `(B, *)` it is written for.

    Args of `forward`:
        x: noisy images `(B, C, H, W)`.
        time: what the schedule tells of each image's level, `(B,)`.
        labels: `(B,)` int64 in 0 … `classes` − 1, and −1 for no class; None is no class for all.
    """

    classes: int
    """How many classes it can be told, 0 for a network without."""

    @abstractmethod
    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        """`(B,)`, at least float32."""


class Initializer(nn.Module, ABC):
    """U: a noisy image x_i of level i to a prediction of its own shape, `(B, *)` to `(B, *)`, at least float32.

    What it predicts is the method's choice. `time` and `labels` are as for `LevelEnergyNet`.
    """

    classes: int

    @abstractmethod
    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor: ...
