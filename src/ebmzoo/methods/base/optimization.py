"""How one network of a method is optimised."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lightning.pytorch.cli import OptimizerCallable
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ebmzoo.errors import UserError


@dataclass(frozen=True)
class NetworkOptimizer:
    """A network with its optimizer, its schedule stepped once an iteration, and the limit of its gradient norm."""

    network: nn.Module
    optimizer: OptimizerCallable
    schedule: Callable[[Optimizer], LRScheduler] | None = None
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UserError(f"model.clip_norm is {self.clip_norm}; it must be above 0, or null for no limit")


def each(
    owner: nn.Module,
    optimizers: Mapping[str, OptimizerCallable],
    schedule: Callable[[Optimizer], LRScheduler] | None = None,
    clip_norm: float | None = None,
) -> dict[str, NetworkOptimizer]:
    """A `NetworkOptimizer` for each network of `owner` that has an optimizer, by name; a network may be None."""
    networks = {name: getattr(owner, name) for name in optimizers}
    return {
        name: NetworkOptimizer(network, optimizers[name], schedule, clip_norm)
        for name, network in networks.items()
        if network is not None
    }
