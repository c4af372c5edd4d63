"""ebmzoo: train, sample, test and compare image energy-based models in one framework."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ebmzoo.compose import Given, Informed, Joint
    from ebmzoo.energy import Energy, EnergyNet, frozen, gradient
    from ebmzoo.errors import UserError
    from ebmzoo.langevin import ChainDivergedError, Langevin
    from ebmzoo.methods import LIEBM, Method, Samples
    from ebmzoo.replay import ReplayBuffer
    from ebmzoo.training.checkpoint import load

# Resolved on first use: `import ebmzoo` itself loads no torch.
_HOME = {
    **dict.fromkeys(("Given", "Informed", "Joint"), "ebmzoo.compose"),
    **dict.fromkeys(("Energy", "EnergyNet", "frozen", "gradient"), "ebmzoo.energy"),
    **dict.fromkeys(("ChainDivergedError", "Langevin"), "ebmzoo.langevin"),
    **dict.fromkeys(("LIEBM", "Method", "Samples"), "ebmzoo.methods"),
    "UserError": "ebmzoo.errors",
    "ReplayBuffer": "ebmzoo.replay",
    "load": "ebmzoo.training.checkpoint",
}
__all__ = [  # noqa: RUF022  (in the order a reader meets them)
    "Energy",
    "EnergyNet",
    "frozen",
    "gradient",
    "Langevin",
    "ChainDivergedError",
    "Given",
    "Informed",
    "Joint",
    "ReplayBuffer",
    "Method",
    "Samples",
    "LIEBM",
    "load",
    "UserError",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'ebmzoo' has no attribute {name!r}")
