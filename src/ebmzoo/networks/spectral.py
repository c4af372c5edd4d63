"""Spectral normalisation, of a whole network or from above only."""

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
    """W ← W/σ(W) in place for every convolution, or every convolution and linear layer, of `module`.

    σ is the largest singular value of the kernel reshaped to (out, in·k·k), tracked by one power iteration each time a
    weight is read in training mode and frozen in eval mode (Miyato et al., 2018). Within
    `torch.nn.utils.parametrize.cached()` a weight is normalised once.
    """
    for layer in list(module.modules()):
        if isinstance(layer, _NORMALISED[which]):
            spectral_norm(layer)


def bounded_spectral_norm_(layer: nn.Conv2d | nn.Linear) -> None:
    """W ← W/max(1, σ(W)) in place: as `spectral_norm_`, but a weight of norm below one stays as it is.

    Hence it may start at zero, where W/σ(W) is undefined. Source: the code of DRL (Gao et al., 2021), which adds 1e-6
    to σ.
    """
    # `unsafe` omits a trial reading, which the meta device, on which networks are counted, cannot do.
    parametrize.register_parametrization(layer, "weight", _Bounded(layer.weight), unsafe=True)


class _Bounded(nn.Module):
    """W/max(1, uᵀWv), where u and v are moved by one power iteration at each reading in training mode."""

    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.register_buffer("_u", F.normalize(torch.randn_like(matrix[:, 0]), dim=0))
        self.register_buffer("_v", F.normalize(torch.randn_like(matrix[0]), dim=0))
        for _ in range(15):  # as many as torch's own begins with
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
            # Copies, for the next reading moves u and v before the gradient of this one is taken.
            sigma = self._u.clone().dot(matrix.mv(self._v.clone()))
            return weight / sigma.clamp_min(1.0)


def _unit(x: Tensor, otherwise: Tensor) -> Tensor:
    """x/‖x‖, or `otherwise` where x is zero: a vector that became zero would never be another one."""
    norm = x.norm()
    return torch.where(norm > 1e-12, x / norm.clamp_min(1e-12), otherwise)
