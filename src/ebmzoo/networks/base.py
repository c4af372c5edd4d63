"""The abstract kinds of networks, by what they compute: methods require a kind, and configs choose a network of it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ebmzoo.energy import EnergyNet


class FeatureNet(nn.Module, ABC):
    """The trunk f of an energy: images `(B, C, H, W)` to features `(B, out_features)`.

    >>> class Flattened(FeatureNet):
    ...     out_features, homogeneous = 4, True
    ...     def forward(self, x):
    ...         return x.flatten(1)
    >>> Flattened()(torch.ones(3, 1, 2, 2)).shape
    torch.Size([3, 4])
    """

    out_features: int

    @property
    @abstractmethod
    def homogeneous(self) -> bool:
        """Whether f(cx) = c f(x) for c > 0, as in a network without any bias."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return f(x), `(B, out_features)`."""


class Generator(nn.Module, ABC):
    """A generator G: latents m ~ N(0, I), `(B, latent)`, to images `(B, C, H, W)` in [-1, 1].

    >>> class Grey(Generator):
    ...     latent = 1
    ...     def forward(self, m):
    ...         return m.tanh()[:, :, None, None].expand(-1, 1, 8, 8)
    >>> Grey()(torch.zeros(3, 1)).shape
    torch.Size([3, 1, 8, 8])
    """

    latent: int

    @abstractmethod
    def forward(self, m: Tensor) -> Tensor:
        """Return G(m), `(B, C, H, W)`."""


class InferenceNet(nn.Module, ABC):
    """An inference network q(m|x) = N(μ(x), diag exp(logvar(x))): images to `(μ, logvar)`, each `(B, latent)`.

    >>> class Brightness(InferenceNet):
    ...     latent = 1
    ...     def forward(self, x):
    ...         mu = x.mean((1, 2, 3))[:, None]
    ...         return mu, torch.zeros_like(mu)
    >>> mu, logvar = Brightness()(torch.ones(3, 1, 8, 8))
    >>> mu.shape, logvar.shape
    (torch.Size([3, 1]), torch.Size([3, 1]))
    """

    latent: int

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (μ(x), logvar(x)), each `(B, latent)`."""


class Encoder(nn.Module, ABC):
    """An encoder h: images `(B, C, H, W)` in [-1, 1], which it standardises itself, to the unit sphere `(B, latent)`.

    >>> class Directions(Encoder):
    ...     latent = feature_dim = 4
    ...     def features(self, x):
    ...         return x.flatten(1)
    ...     def forward(self, x):
    ...         return nn.functional.normalize(self.features(x), dim=1)
    >>> Directions()(torch.ones(1, 1, 2, 2))
    tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """

    latent: int
    feature_dim: int

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Return the backbone's output, `(B, feature_dim)`, on which probes are trained."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return h(x), `(B, latent)`."""


class LevelEnergyNet(nn.Module, ABC):
    """One network Ê for the energies of all noise levels; DRL's and CDRL's energy of level t is Ê/s_t².

    Low where data is likely: Ê is −f̂ of the papers (CDRL, A.2).

    >>> class Gaussian(LevelEnergyNet):
    ...     classes = 0
    ...     def forward(self, x, time, labels=None):
    ...         return x.square().flatten(1).sum(1) / (1 + time)
    >>> Gaussian()(torch.ones(2, 1, 2, 2), time=torch.tensor([0.0, 1.0]))
    tensor([4., 2.])
    """

    classes: int
    """The number of classes that the network can be conditioned on; 0 for an unconditional network."""

    @abstractmethod
    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return Ê, `(B,)`, at least float32.

        Args:
            x: Noisy images, `(B, C, H, W)`, or points of the shape `(B, *)` that the network is written for.
            time: The time t of each image's level, `(B,)`, from the schedule.
            labels: Classes, `(B,)` int64 in 0 … `classes` − 1, and −1 for no class; None means no class for all.
        """


class Initializer(nn.Module, ABC):
    """An initializer U: a noisy image x_i of level i to a prediction of the same shape, `(B, *)`, at least float32.

    The method defines what is predicted.

    >>> class Identity(Initializer):
    ...     classes = 0
    ...     def forward(self, x, time, labels=None):
    ...         return x
    >>> Identity()(torch.ones(2, 1, 4, 4), time=torch.zeros(2)).shape
    torch.Size([2, 1, 4, 4])
    """

    classes: int

    @abstractmethod
    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return U(x, t), `(B, *)`; `time` and `labels` are those of `LevelEnergyNet`."""


class ClassEnergyNet(EnergyNet):
    """A classifier f whose logits are energies: E(x, y) = −f(x)[y], E(x) = −log Σ_y exp f(x)[y].

    p(y|x) = softmax f(x)[y] whatever is added to all logits of an image, and that is what E(x) is learnt by.
    Source: Grathwohl et al. (2020), JEM, the energies of the joint and of the marginal density.

    >>> class Brightness(ClassEnergyNet):
    ...     classes, feature_dim = 2, 1
    ...     def features(self, x):
    ...         return x.mean((1, 2, 3))[:, None]
    ...     def logits(self, x):
    ...         return torch.cat([self.features(x), -self.features(x)], dim=1)
    >>> net, x = Brightness(), torch.zeros(3, 1, 2, 2)
    >>> net(x)  # −log 2
    tensor([-0.6931, -0.6931, -0.6931])
    """

    classes: int
    feature_dim: int

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Return what the last, linear layer sees, `(B, feature_dim)`, at least float32."""

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """Return f(x), `(B, classes)`, at least float32."""

    def forward(self, x: Tensor) -> Tensor:
        """Return E(x), `(B,)`."""
        return -self.logits(x).logsumexp(1)
