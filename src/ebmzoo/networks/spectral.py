"""Spectral normalisation of a network, and a variant that only bounds the norm from above."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

SpectralNorm = Literal["none", "conv", "all"]

_NORMALISED: dict[SpectralNorm, tuple[type[nn.Module], ...]] = {
    "none": (),
    "conv": (nn.Conv2d,),
    "all": (nn.Conv2d, nn.Linear),
}


def spectral_norm_(module: nn.Module, which: SpectralNorm) -> None:
    """Normalise W ← W/σ(W), in place, every convolution, or every convolution and linear layer, of `module`.

    σ is the largest singular value of the kernel reshaped to (out, in·k·k). Each access to a weight in training mode
    makes one power iteration; in eval mode there are none. Inside `torch.nn.utils.parametrize.cached()` a weight is
    normalised only once. Source: Miyato et al. (2018).

    >>> net = torch.nn.Linear(4, 4)
    >>> spectral_norm_(net, "all")
    >>> torch.linalg.matrix_norm(net.weight, 2) < 2
    tensor(True)

    Args:
        module: The network, which is changed in place.
        which: `none`, `conv` for convolutions, or `all` for linear layers too.
    """
    for layer in list(module.modules()):
        if isinstance(layer, _NORMALISED[which]):
            spectral_norm(layer)


def bounded_spectral_norm_(layer: nn.Conv2d | nn.Linear) -> None:
    """Normalise W ← W/max(1, σ(W)), in place: unlike with `spectral_norm_`, a norm below one does not change.

    Hence the weight may initially be zero, where W/σ(W) is undefined. Source: the code of DRL (Gao et al., 2021), which
    adds 1e-6 to σ.
    """
    # `unsafe` omits a trial access, which fails on the meta device, on which parameters are counted.
    parametrize.register_parametrization(layer, "weight", _Bounded(layer.weight), unsafe=True)


class _Bounded(nn.Module):
    """The parametrization W/max(1, uᵀWv), with one power iteration of u and v at each access in training mode."""

    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.register_buffer("_u", F.normalize(torch.randn_like(matrix[:, 0]), dim=0))
        self.register_buffer("_v", F.normalize(torch.randn_like(matrix[0]), dim=0))
        for _ in range(15):  # as torch's spectral_norm does
            self._iterate(matrix)

    @torch.no_grad()
    def _iterate(self, matrix: Tensor) -> None:
        self._u.copy_(_unit(matrix.mv(self._v), self._u))
        self._v.copy_(_unit(matrix.T.mv(self._u), self._v))

    def forward(self, weight: Tensor) -> Tensor:
        matrix = weight.flatten(1)
        with torch.autocast(weight.device.type, enabled=False):
            if self.training:
                self._iterate(matrix)
            # Copies, as the next access changes u and v before the gradient of this one is computed.
            sigma = self._u.clone().dot(matrix.mv(self._v.clone()))
            return weight / sigma.clamp_min(1.0)


def _unit(x: Tensor, otherwise: Tensor) -> Tensor:
    """Return x/‖x‖, or `otherwise` if x is zero, as a power iteration cannot leave zero."""
    norm = x.norm()
    return torch.where(norm > 1e-12, x / norm.clamp_min(1e-12), otherwise)
