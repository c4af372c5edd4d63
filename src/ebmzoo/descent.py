"""How one network of a method is optimised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lightning.pytorch.cli import OptimizerCallable
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


@dataclass(frozen=True)
class Descent:
    """A network with its optimizer, its schedule stepped once an iteration, and the limit of its gradient norm."""

    network: nn.Module
    optimizer: OptimizerCallable
    schedule: Callable[[Optimizer], LRScheduler] | None = None
    clip_norm: float | None = None
