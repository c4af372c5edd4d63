"""The energies that are timed, each at the size of its paper's 32×32 network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ebmzoo.networks import CLELEnergy, CLELFeatures, LatentEnergy, RecoveryResNet, SNGANFeatures

STEP_SIZE, NOISE = 1.0, 0.01


class AtLevel(nn.Module):
    """Ê(·, t) at one noise level."""

    def __init__(self, net: nn.Module, time: float) -> None:
        super().__init__()
        self.net, self.time = net, time

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x, x.new_full((len(x),), self.time), None)  # type: ignore[no-any-return]


def energies(tiny: bool) -> dict[str, nn.Module]:
    """LIEBM's at width 256, CLEL's base and CDRL's with N = 2; `tiny` ones for the tests."""
    if tiny:
        return {
            "LIEBM": LatentEnergy(SNGANFeatures(3, 32, 8, 16), latent=4, hidden=8),
            "CDRL": AtLevel(RecoveryResNet(width=8, depth=1, embedding=16), 500.0),
        }
    return {
        "LIEBM, width 256": LatentEnergy(SNGANFeatures(3, 32, 256, 512)),
        "CLEL, base": CLELEnergy(CLELFeatures()),
        "CDRL, N = 2": AtLevel(RecoveryResNet(depth=2), 500.0),
    }


def seeded(make: dict[str, nn.Module], device: torch.device) -> dict[str, nn.Module]:
    """In eval mode on the device: spectral norm's power iterations stand still."""
    return {name: net.eval().to(device) for name, net in make.items()}
