"""What the hardware could do: a network's arithmetic over the rate of convolutions that suit it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ebmzoo.energy import frozen


def flops(net: nn.Module, x: Tensor) -> int:
    """Multiplications and additions of the forward pass and of the gradient in the input."""
    with FlopCounterMode(display=False) as counted, frozen(net), torch.enable_grad():
        net(x.detach().requires_grad_()).sum().backward()  # the counter cannot follow `autograd.grad`
    return int(counted.get_total_flops())
