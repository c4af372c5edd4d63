"""Exponential moving averages of networks, owned by the method that they belong to."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ebmzoo.errors import UserError


def averaged(decay: float, **networks: nn.Module | None) -> nn.ModuleDict:
    """θ̄ ← d·θ̄ + (1 − d)·θ of each network by name, started at θ; buffers are copied, not averaged.

    The averages need no gradient. Networks that are None are left out.

    Raises:
        UserError: the decay is not in [0, 1].
    """
    if not 0 <= decay <= 1:
        raise UserError(f"ema_decay is {decay}; it must be between 0 and 1")
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch's own lacks annotations
    averages = nn.ModuleDict()
    for name, network in networks.items():
        if network is not None:
            averages[name] = kept = AveragedModel(network, multi_avg_fn=average)
            # AveragedModel copies the weights again at its first update; the average starts at the initial weights.
            kept.n_averaged.fill_(1)
            kept.requires_grad_(False)
    return averages
