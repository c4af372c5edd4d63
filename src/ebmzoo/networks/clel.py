"""The networks of CLEL (Lee et al., 2023): the trunk at one or several scales, and the energies on top of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebmzoo.energy import at_least_fp32
from ebmzoo.errors import UserError, at_least
from ebmzoo.networks.base import FeatureNet
from ebmzoo.networks.latent import LatentEnergyNet
from ebmzoo.networks.resampling import pooled
from ebmzoo.networks.spectral import SpectralNorm, spectral_norm_

Projection = Literal["mlp", "linear", "identity"]
LEAK = 0.2


class CLELResBlock(nn.Module):
    """A block y = pool(S x + W₂ a(W₁ a(x))), a = LeakyReLU(0.2), without any norm; S = 1 if the channels do not change.

    It is pooled if `down`: 2×2 means, of the pixels that there are at the edge of an odd size.
    """

    def __init__(self, in_channels: int, out_channels: int, *, down: bool = False) -> None:
        super().__init__()
        self.down = down
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.conv1(F.leaky_relu(x, LEAK)), LEAK)
        if self.down and x.shape[2] % 2 == x.shape[3] % 2 == 0:
            return pooled(self.shortcut, x) + pooled(self.conv2, h)
        y = self.shortcut(x) + self.conv2(h)
        # Images smaller than 32×32 end at one pixel, not at none.
        return F.avg_pool2d(y, 2, ceil_mode=True) if self.down else y


def tower(in_channels: int, widths: Sequence[int], depth: int) -> nn.Sequential:
    """Return a 3×3 convolution and a stage of `depth` blocks for each of `widths`, with the size halved in between."""
    channels = widths[0]
    layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 3, padding=1)]
    for stage, width in enumerate(widths):
        if stage > 0:
            layers.append(nn.Identity())  # the block before it halves the size; layers keep their numbers
        for i in range(depth):
            last = i == depth - 1 and stage < len(widths) - 1
            layers.append(CLELResBlock(channels, width, down=last))
            channels = width
    return nn.Sequential(*layers, nn.LeakyReLU(LEAK))


def mlp(in_features: int, hidden: int, out_features: int, *, bias: bool) -> nn.Sequential:
    """Return the network W₂ a(W₁ u + b₁) + b₂, a = LeakyReLU(0.2); without biases it is positively homogeneous."""
    first, last = nn.Linear(in_features, hidden, bias=bias), nn.Linear(hidden, out_features, bias=bias)
    return nn.Sequential(first, nn.LeakyReLU(LEAK), last)


def _init(module: nn.Module) -> None:
    """Initialise as the authors' code does: linear weights N(0, 0.01²), kernels N(0, 1/fan_in), biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.01)
        elif isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="linear")
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None:
            nn.init.zeros_(layer.bias)


class CLELFeatures(FeatureNet):
    """CLEL's trunk f(x) = MLP(concat_s mean(towerₛ(pool_{2^s}((x − mean)/std)))) on images in [0, 1].

    Source: CLEL, Table 8. Small: width 64, depth 1. Base: 128, depth 2. Large: 256, multiples 1 1 1 1, depth 2,
    scales 3.
    Shapes: images `(B, C, H, W)` to `(B, latent)`. The means over pixels and the MLP are float32 also under autocast.

    >>> f = CLELFeatures(in_channels=1, width=4, multiples=(1, 2), depth=1, hidden=8, latent=3, mean=None, std=None)
    >>> f(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 3])

    Args:
        in_channels: Channels of the image.
        width: Channels of the first stage.
        multiples: Factor of the width in each stage.
        depth: Residual blocks in a stage.
        scales: Number of towers; tower s = 0, 1, … receives the image 2^s times smaller.
        hidden: Hidden units of the MLP.
        latent: Dimension of f; in the paper that of the representation.
        mean: Mean of each channel on [0, 1], which is subtracted from the image; null for 0.
        std: Standard deviation of each channel on [0, 1], by which the image is divided; null for 1.
        spectral_norm: Which layers are spectrally normalised: `none`, the convolutions (`conv`), or `all`.

    Raises:
        UserError: If there is no stage, block or tower, or `mean` or `std` has not one value for each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        in_channels: int = 3,
        width: int = 128,
        multiples: tuple[int, ...] = (1, 1, 2, 2),
        depth: int = 2,
        scales: int = 1,
        hidden: int = 2048,
        latent: int = 128,
        mean: tuple[float, ...] | None = (0.4914, 0.4822, 0.4465),
        std: tuple[float, ...] | None = (0.2470, 0.2435, 0.2616),
        spectral_norm: SpectralNorm = "conv",
    ) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, hidden=hidden, latent=latent)
        if not multiples or min(*multiples, width, depth, scales) < 1:
            raise UserError(
                f"width: {width}, multiples: {list(multiples)}, depth: {depth} and scales: {scales} "
                "must all be 1 or more, with at least one multiple"
            )
        for name, values, neutral in (("mean", mean, 0.0), ("std", std, 1.0)):
            if values is not None and len(values) != in_channels:
                raise UserError(
                    f"{name}: {list(values)} must have one value for each of the {in_channels} channel(s), or be null"
                )
            tensor = torch.tensor([neutral] * in_channels if values is None else values)
            self.register_buffer(name, tensor.view(-1, 1, 1))
        widths = [width * multiple for multiple in multiples]
        self.towers = nn.ModuleList(tower(in_channels, widths, depth) for _ in range(scales))
        self.head = mlp(scales * widths[-1], hidden, latent, bias=True)
        self.out_features = latent
        _init(self)
        spectral_norm_(self, spectral_norm)

    @property
    def homogeneous(self) -> bool:
        return False

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / self.std
        pooled = [at_least_fp32(t(F.avg_pool2d(x, 2**s) if s else x)).mean((2, 3)) for s, t in enumerate(self.towers)]
        with torch.autocast(x.device.type, enabled=False):
            return self.head(torch.cat(pooled, 1))  # type: ignore[no-any-return]


_PROJECTIONS: dict[Projection, Callable[[int, int, int], nn.Module]] = {
    "mlp": lambda features, hidden, latent: mlp(features, hidden, latent, bias=False),
    "linear": lambda features, _, latent: nn.Linear(features, latent, bias=False),
    "identity": lambda features, hidden, latent: nn.Identity(),
}


@final
class CLELEnergy(LatentEnergyNet):
    """CLEL's energy E(x) = ‖f(x)‖²/2 and projection v = g(f(x)).

    The norm of f determines p(x) and its direction p(z|x): g has no bias, hence cos(g(f), z) = cos(g(f/‖f‖), z), of
    which the paper prints the latter. Source: CLEL, Eq. 10 and 11.

    >>> f = CLELFeatures(in_channels=1, width=4, multiples=(1, 2), depth=1, hidden=8, latent=3, mean=None, std=None)
    >>> net = CLELEnergy(f, latent=3, hidden=8)
    >>> net(torch.zeros(5, 1, 8, 8)).shape, net.marginal(torch.tensor([[3.0, 4.0, 0.0]]))
    (torch.Size([5]), tensor([12.5000]))

    Args:
        features: The trunk f.
        latent: Dimension of the representation z.
        hidden: Hidden units of `mlp`.
        projection: g: `mlp` W₂ a(W₁ f) with LeakyReLU(0.2), `linear` W f, or `identity` (CLEL, Table 5).

    Raises:
        UserError: If the trunk has no bias, so that the zero image would always have the lowest energy; if g is the
            identity and the dimensions of f and z differ.
    """

    def __init__(
        self, features: FeatureNet, latent: int = 128, hidden: int = 2048, projection: Projection = "mlp"
    ) -> None:
        super().__init__()
        at_least(1, latent=latent, hidden=hidden)
        if features.homogeneous:
            raise UserError("features: the norm energy needs a trunk with a bias, such as ebmzoo.networks.CLELFeatures")
        if projection == "identity" and features.out_features != latent:
            raise UserError(f"latent: {latent} must be that of f, {features.out_features}, for projection: identity")
        self.trunk = features
        self.projection = _PROJECTIONS[projection](features.out_features, hidden, latent)
        _init(self.projection)

    def features(self, x: Tensor) -> Tensor:
        return self.trunk(x)  # type: ignore[no-any-return]

    def marginal(self, f: Tensor) -> Tensor:
        """Return ‖f‖²/2, `(B,)`."""
        return at_least_fp32(f).square().sum(1) / 2

    def project(self, f: Tensor) -> Tensor:
        with torch.autocast(f.device.type, enabled=False):
            return self.projection(at_least_fp32(f))  # type: ignore[no-any-return]


@final
class MultiHeadEnergy(LatentEnergyNet):
    """An energy E(x) = g′(f(x)) in R and a projection v = g(f(x)): two heads on one trunk.

    Source: CLEL, appendix D, which reports that it is unstable. The paper has zᵀg(f) for p(z|x); here it is the cosine,
    as in `CLELEnergy`.

    >>> f = CLELFeatures(in_channels=1, width=4, multiples=(1, 2), depth=1, hidden=8, latent=3, mean=None, std=None)
    >>> net = MultiHeadEnergy(f, latent=2, hidden=8)
    >>> net(torch.zeros(5, 1, 8, 8)).shape, net.project(f(torch.zeros(5, 1, 8, 8))).shape
    (torch.Size([5]), torch.Size([5, 2]))

    Args:
        features: The trunk f.
        latent: Dimension of the representation z.
        hidden: Hidden units of both heads.
    """

    def __init__(self, features: FeatureNet, latent: int = 128, hidden: int = 2048) -> None:
        super().__init__()
        at_least(1, latent=latent, hidden=hidden)
        self.trunk = features
        self.head = mlp(features.out_features, hidden, 1, bias=True)
        self.projection = mlp(features.out_features, hidden, latent, bias=False)
        _init(self.head)
        _init(self.projection)

    def features(self, x: Tensor) -> Tensor:
        return self.trunk(x)  # type: ignore[no-any-return]

    def marginal(self, f: Tensor) -> Tensor:
        """Return g′(f), `(B,)`."""
        with torch.autocast(f.device.type, enabled=False):
            return self.head(at_least_fp32(f)).squeeze(1)  # type: ignore[no-any-return]

    def project(self, f: Tensor) -> Tensor:
        with torch.autocast(f.device.type, enabled=False):
            return self.projection(at_least_fp32(f))  # type: ignore[no-any-return]
