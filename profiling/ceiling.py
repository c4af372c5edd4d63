"""What the hardware could do: a network's arithmetic over the rate of convolutions that suit it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ebmzoo.energy import frozen
from profiling.timing import once

SHAPE = (64, 256, 16, 16)
"""A 3×3 convolution of 256 channels on half the resolution is what these networks mostly do."""


def flops(net: nn.Module, x: Tensor) -> int:
    """Multiplications and additions of the forward pass and of the gradient in the input."""
    with FlopCounterMode(display=False) as counted, frozen(net), torch.enable_grad():
        net(x.detach().requires_grad_()).sum().backward()  # the counter cannot follow `autograd.grad`
    return int(counted.get_total_flops())


def rate(device: torch.device, precision: torch.dtype, shape: tuple[int, ...] = SHAPE, repeats: int = 5) -> float:
    """FLOP a second of a 3×3 convolution and its input gradient, channels-last: the best of `repeats`."""
    n, c, h, w = shape
    x = torch.randn(shape, device=device, dtype=precision).to(memory_format=torch.channels_last)
    weight = torch.randn(c, c, 3, 3, device=device, dtype=precision).to(memory_format=torch.channels_last)

    def work() -> None:
        with torch.enable_grad():
            start = x.detach().requires_grad_()
            torch.autograd.grad(torch.conv2d(start, weight, padding=1), start, x)

    once(work, device)
    best = min(once(work, device) for _ in range(repeats))
    return 2 * 2 * n * c * c * 9 * h * w / best
