"""Networks for points of the plane, which are images with two channels and one pixel: `(B, 2, 1, 1)`."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebmzoo.energy import EnergyNet, at_least_fp32
from ebmzoo.errors import at_least
from ebmzoo.networks.base import FeatureNet, Generator, InferenceNet, Initializer, LevelEnergyNet
from ebmzoo.networks.embedding import TimeEmbedding
from ebmzoo.networks.recovery import Bound, Tower


def mlp(in_features: int, width: int, depth: int, out_features: int) -> nn.Sequential:
    """Return `depth` hidden SiLU layers of `width` units and a linear one: `(B, in_features)` to `(B, out_features)`.

    Raises:
        UserError: If a number is less than 1.
    """
    at_least(1, in_features=in_features, width=width, depth=depth, out_features=out_features)
    layers: list[nn.Module] = []
    features = in_features
    for _ in range(depth):
        layers += [nn.Linear(features, width), nn.SiLU()]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, out_features))


@final
class PlaneEnergy(LevelEnergyNet):
    """The energy Ê(x, t) = −relu(h(x, temb)) · V a(temb) of points, which is `RecoveryResNet` with linear layers.

    Source: the checkerboard of CDRL's code, where V is one vector for all t.
    Shapes: `(B, in_features, 1, 1)` to `(B,)`.

    >>> net = PlaneEnergy(width=4, multiples=(1, 2), embedding=8)
    >>> net(torch.zeros(5, 2, 1, 1), time=torch.arange(5.0)).shape
    torch.Size([5])

    Args:
        in_features: Dimension of the points.
        width: Units of the first stage, and dimension of the sinusoids; even, 4 or more.
        multiples: Factor of the width in each stage.
        depth: Residual blocks in a stage.
        embedding: Dimension of temb.
        spectral_norm: As for `RecoveryResNet`.
        classes: Number of classes; 0 for an unconditional network.

    Raises:
        UserError: If there is no stage or block, or the width is odd.
    """

    def __init__(
        self,
        in_features: int = 2,
        width: int = 128,
        multiples: tuple[int, ...] = (1, 2, 2, 2),
        depth: int = 1,
        embedding: int = 512,
        spectral_norm: Bound = "plain",
        classes: int = 0,
    ) -> None:
        super().__init__()
        at_least(1, in_features=in_features)
        self.classes = classes
        self.tower = Tower(in_features, width, multiples, depth, embedding, classes, spectral_norm, False, dims=0)

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.tower(x.flatten(1), time, labels)  # type: ignore[no-any-return]


class PlaneBlock(nn.Module):
    """A block y = W₂ s((1 + a) ⊙ norm(W₁ s(norm(x))) + b) + x, (a, b) = V s(temb), s = SiLU; W₂ is initially zero."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, width), nn.Linear(width, width)
        self.time = nn.Linear(embedding, 2 * width)
        nn.init.zeros_(self.linear2.weight)
        nn.init.zeros_(self.linear2.bias)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        scale, shift = self.time(F.silu(temb)).chunk(2, 1)
        h = self.norm2(self.linear1(F.silu(self.norm1(x))))
        return x + self.linear2(F.silu((1 + scale) * h + shift))  # type: ignore[no-any-return]


@final
class PlaneInitializer(Initializer):
    """An initializer U(x, t) of points: a time-conditioned residual MLP with initial output 0.

    Source: the checkerboard of CDRL's code, which has group norms of two units a group in place of layer norms.
    Shapes: `(B, in_features, 1, 1)` to the same shape.

    >>> net = PlaneInitializer(width=4, embedding=8)
    >>> net(torch.ones(1, 2, 1, 1), time=torch.zeros(1)).flatten()
    tensor([0., 0.], grad_fn=<ViewBackward0>)

    Args:
        in_features: Dimension of the points.
        width: Hidden units; even, 4 or more.
        depth: Residual blocks.
        embedding: Dimension of temb.
        classes: Number of classes; 0 for an unconditional network.

    Raises:
        UserError: If the width is odd, or another number is less than 1.
    """

    def __init__(
        self, in_features: int = 2, width: int = 64, depth: int = 1, embedding: int = 128, classes: int = 0
    ) -> None:
        super().__init__()
        at_least(1, in_features=in_features, depth=depth, embedding=embedding)
        self.classes = classes
        self.embed = TimeEmbedding(width, embedding, classes, F.silu)
        self.first = nn.Linear(in_features, width)
        self.blocks = nn.ModuleList(PlaneBlock(width, embedding) for _ in range(depth))
        self.last = nn.Linear(width, in_features)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        temb = self.embed(time, labels)
        h = self.first(x.flatten(1))
        for block in self.blocks:
            h = block(h, temb)
        return at_least_fp32(self.last(F.silu(h))).reshape(x.shape)


@final
class PlaneFeatures(FeatureNet):
    """The trunk f(x) = MLP(x) with SiLU of an energy of points; `(B, in_features, 1, 1)` to `(B, out_features)`.

    The last layer is float32 also under autocast.

    >>> PlaneFeatures(width=4, out_features=3)(torch.zeros(5, 2, 1, 1)).shape
    torch.Size([5, 3])

    Args:
        in_features: Dimension of the points.
        width: Hidden units.
        depth: Hidden layers.
        out_features: Features of a point.

    Raises:
        UserError: If a number is less than 1.
    """

    def __init__(self, in_features: int = 2, width: int = 128, depth: int = 3, out_features: int = 128) -> None:
        super().__init__()
        self.out_features = out_features
        self.layers = mlp(in_features, width, depth, out_features)

    @property
    def homogeneous(self) -> bool:
        return False

    def forward(self, x: Tensor) -> Tensor:
        h = self.layers[:-1](x.flatten(1))
        with torch.autocast(x.device.type, enabled=False):
            return self.layers[-1](at_least_fp32(h))  # type: ignore[no-any-return]


@final
class PlaneEnergyNet(EnergyNet):
    """The energy E(x) = MLP(x) with SiLU of points, p(x) ∝ exp(−E(x)); `(B, in_features, 1, 1)` to `(B,)`.

    >>> PlaneEnergyNet(width=4)(torch.zeros(5, 2, 1, 1)).shape
    torch.Size([5])

    Args:
        in_features: Dimension of the points.
        width: Hidden units.
        depth: Hidden layers.

    Raises:
        UserError: If a number is less than 1.
    """

    def __init__(self, in_features: int = 2, width: int = 128, depth: int = 3) -> None:
        super().__init__()
        self.trunk = PlaneFeatures(in_features, width, depth, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.trunk(x).squeeze(1)  # type: ignore[no-any-return]


@final
class PlaneGenerator(Generator):
    """A generator G(m) = MLP(m) of points with SiLU and unbounded output; `(B, latent)` to `(B, out_features, 1, 1)`.

    >>> PlaneGenerator(latent=3, width=4)(torch.zeros(5, 3)).shape
    torch.Size([5, 2, 1, 1])

    Args:
        latent: Dimension of m.
        width: Hidden units.
        depth: Hidden layers.
        out_features: Dimension of the points.

    Raises:
        UserError: If a number is less than 1.
    """

    def __init__(self, latent: int = 2, width: int = 128, depth: int = 3, out_features: int = 2) -> None:
        super().__init__()
        at_least(1, latent=latent)
        self.latent = latent
        self.layers = mlp(latent, width, depth, out_features)

    def forward(self, m: Tensor) -> Tensor:
        return at_least_fp32(self.layers(m))[:, :, None, None]


@final
class PlaneInference(InferenceNet):
    """An inference network q(m|x) = N(μ(x), diag exp(logvar(x))) of points, one MLP with SiLU for both.

    Shapes: `(B, in_features, 1, 1)` to `(μ, logvar)`, each `(B, latent)`.

    >>> mu, logvar = PlaneInference(latent=3, width=4)(torch.zeros(5, 2, 1, 1))
    >>> mu.shape, logvar.shape
    (torch.Size([5, 3]), torch.Size([5, 3]))

    Args:
        in_features: Dimension of the points.
        latent: Dimension of m.
        width: Hidden units.
        depth: Hidden layers.

    Raises:
        UserError: If a number is less than 1.
    """

    def __init__(self, in_features: int = 2, latent: int = 2, width: int = 128, depth: int = 3) -> None:
        super().__init__()
        at_least(1, latent=latent)
        self.latent = latent
        self.layers = mlp(in_features, width, depth, 2 * latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = at_least_fp32(self.layers(x.flatten(1))).chunk(2, 1)
        return mu, logvar
