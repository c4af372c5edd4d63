"""Exponential moving averages of networks, owned by the method that they belong to."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ebmzoo.errors import UserError


class Average(AveragedModel):
    """θ̄ ← d·θ̄ + (1 − d)·θ of one network, started at θ; buffers are copied, not averaged.

    With `warmup`, d at update n = 1, 2, … is min(decay, (1 + n)/(10 + n)), so that the initial weights are soon
    forgotten. Source: torch_ema, which CDRL's code uses. Unlike its base the average never waits for the device to
    learn how often it was updated: it counts on the host too.
    """

    def __init__(self, network: nn.Module, decay: float, start: int, warmup: bool = False) -> None:
        super().__init__(network)
        self.decay = decay
        self.start = start
        self.warmup = warmup
        # The base copies the weights again at its first update; the average starts at the initial weights.
        self.n_averaged.fill_(1)
        self.updates = 1
        self.requires_grad_(False)
        self.register_load_state_dict_post_hook(_count)  # type: ignore[no-untyped-call]

    @property
    def settled(self) -> int:
        """The number of updates, counted from 1, from which on d is `decay`."""
        if not self.warmup or self.decay == 1:
            return 1 + self.start
        return max(1 + self.start, math.ceil(round((10 * self.decay - 1) / (1 - self.decay), 6)))

    def _decay(self) -> float:
        """d of the update at hand."""
        if self.updates <= self.start:
            return 0.0
        return min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """One step of the recursion towards the weights of `model`, all tensors at once."""
        weight = 1 - self._decay()
        if weights := tuple(self.module.parameters()):
            torch._foreach_lerp_(weights, tuple(model.parameters()), weight)
        if buffers := tuple(self.module.buffers()):
            torch._foreach_copy_(buffers, tuple(model.buffers()))
        self.n_averaged += 1
        self.updates += 1


def _count(average: Average, _: Any) -> None:
    average.updates = int(average.n_averaged)


def check_name(name: str, where: str) -> None:
    """Check the name of a network, which is part of the keys of checkpoints and of error messages.

    Raises:
        UserError: If it is not a Python identifier, such as a name with a dot or a slash.
    """
    if not name.isidentifier():
        raise UserError(f"{where} names a network '{name}'; a name of letters, digits and underscores is needed")


def averaged(decay: float, start: int = 0, warmup: bool = False, **networks: nn.Module | None) -> nn.ModuleDict:
    """The `Average` of each network by name; those that are None are left out. The averages need no gradient.

    At the first `start` updates d is 0: the average is θ itself. With `warmup` d at update n is at most
    (1 + n)/(10 + n).

    Raises:
        UserError: the decay is not in [0, 1], `start` is negative, or a name is not an identifier.
    """
    if not 0 <= decay <= 1:
        raise UserError(f"ema_decay is {decay}; it must be between 0 and 1")
    if start < 0:
        raise UserError(f"ema_start is {start}; it must be 0 or more")
    for name in networks:
        check_name(name, "averaged")
    return nn.ModuleDict(
        {name: Average(net, decay, start, warmup) for name, net in networks.items() if net is not None}
    )
