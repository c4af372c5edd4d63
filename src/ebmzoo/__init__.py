"""ebmzoo: train, sample, test and compare image energy-based models in one framework."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ebmzoo.version import __version__

if TYPE_CHECKING:
    from ebmzoo.energy import Energy, EnergyNet, frozen, gradient
    from ebmzoo.errors import UserError
    from ebmzoo.methods import LIEBM, Method, Samples
    from ebmzoo.sampling.langevin import ChainDivergedError, Langevin
    from ebmzoo.sampling.latent_energies import GivenLatent, Informed, Joint
    from ebmzoo.sampling.replay import ReplayBuffer
    from ebmzoo.training.checkpoint import load
    from ebmzoo.training.sharing.zoo import pretrained

# Resolved on first use: `import ebmzoo` itself loads no torch.
_HOME = {
    **dict.fromkeys(("GivenLatent", "Informed", "Joint"), "ebmzoo.sampling.latent_energies"),
    **dict.fromkeys(("Energy", "EnergyNet", "frozen", "gradient"), "ebmzoo.energy"),
    **dict.fromkeys(("ChainDivergedError", "Langevin"), "ebmzoo.sampling.langevin"),
    **dict.fromkeys(("LIEBM", "Method", "Samples"), "ebmzoo.methods"),
    "UserError": "ebmzoo.errors",
    "ReplayBuffer": "ebmzoo.sampling.replay",
    "load": "ebmzoo.training.checkpoint",
    "pretrained": "ebmzoo.training.sharing.zoo",
}
__all__ = [  # noqa: RUF022  (in the order a reader meets them)
    "Energy",
    "EnergyNet",
    "frozen",
    "gradient",
    "Langevin",
    "ChainDivergedError",
    "GivenLatent",
    "Informed",
    "Joint",
    "ReplayBuffer",
    "Method",
    "Samples",
    "LIEBM",
    "load",
    "pretrained",
    "UserError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'ebmzoo' has no attribute {name!r}")
