"""Spectral normalisation of a whole network."""

from __future__ import annotations

from typing import Literal

from torch import nn
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
