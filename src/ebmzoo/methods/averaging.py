"""Exponential moving averages of networks, owned by the method that they belong to."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ebmzoo.errors import UserError

Tensors = tuple[Tensor, ...] | list[Tensor]


def averaged(decay: float, start: int = 0, **networks: nn.Module | None) -> nn.ModuleDict:
    """θ̄ ← d·θ̄ + (1 − d)·θ of each network by name, started at θ; buffers are copied, not averaged.

    At the first `start` updates d is 0: the average is θ itself. The averages need no gradient. Networks that are None
    are left out.

    Raises:
        UserError: the decay is not in [0, 1], or `start` is negative.
    """
    if not 0 <= decay <= 1:
        raise UserError(f"ema_decay is {decay}; it must be between 0 and 1")
    if start < 0:
        raise UserError(f"ema_start is {start}; it must be 0 or more")
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch's own lacks annotations
    copy = get_ema_multi_avg_fn(0.0)  # type: ignore[no-untyped-call]

    def copy_then_average(kept: Tensors, weights: Tensors, update: Tensor | int) -> None:
        (copy if int(update) <= start else average)(kept, weights, update)

    averages = nn.ModuleDict()
    for name, network in networks.items():
        if network is not None:
            averages[name] = made = AveragedModel(network, multi_avg_fn=copy_then_average if start else average)
            # AveragedModel copies the weights again at its first update; the average starts at the initial weights.
            made.n_averaged.fill_(1)
            made.requires_grad_(False)
    return averages
