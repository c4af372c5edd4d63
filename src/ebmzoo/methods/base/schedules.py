"""A schedule of learning rates for configs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ebmzoo.ssrl.schedule import warmup_then_drops


class WarmupThenDrops(LambdaLR):
    """The learning rate times min(1, (t + 1)/warmup) · factor^(number of drops up to t), t the iteration from 0.

    Source: the code of Grathwohl et al. (2020), JEM.

    >>> from torch import nn
    >>> optimizer = __import__("torch").optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    >>> schedule = WarmupThenDrops(optimizer, warmup=2, drops=[3], factor=0.5)
    >>> schedule.get_last_lr()
    [0.5]

    Args:
        optimizer: The optimizer.
        warmup: Iterations until the full rate; 0 begins with it.
        drops: The iterations at which the rate falls.
        factor: What each multiplies it by.
    """

    def __init__(self, optimizer: Optimizer, warmup: int = 0, drops: Sequence[int] = (), factor: float = 0.3) -> None:
        super().__init__(optimizer, partial(warmup_then_drops, warmup=warmup, drops=tuple(drops), factor=factor))
