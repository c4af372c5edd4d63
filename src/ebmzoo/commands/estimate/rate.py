"""The rate of the device at hand: that of a 3×3 convolution which suits it, just measured."""

from __future__ import annotations

import math
import time

import torch

from ebmzoo.commands.estimate.devices import Device

SHAPE = (64, 256, 16, 16)
"""A 3×3 convolution of 256 channels on half the resolution is what these networks mostly do."""
ON_CPU = (4, 256, 16, 16)
"""Fewer images fill a CPU."""
MEASURED = "a 3×3 convolution of 256 channels and its input gradient, measured now"


def rate(device: torch.device, precision: torch.dtype, shape: tuple[int, ...] = SHAPE, repeats: int = 5) -> float:
    """FLOP a second of a 3×3 convolution and its input gradient, channels-last: the best of `repeats`."""
    n, c, h, w = shape
    x = torch.randn(shape, device=device, dtype=precision).to(memory_format=torch.channels_last)
    weight = torch.randn(c, c, 3, 3, device=device, dtype=precision).to(memory_format=torch.channels_last)
    seconds = []
    for _ in range(1 + repeats):
        _wait(device)
        start = time.perf_counter()
        with torch.enable_grad():
            image = x.detach().requires_grad_()
            torch.autograd.grad(torch.conv2d(image, weight, padding=1), image, x)
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return 2 * 2 * n * c * c * 9 * h * w / min(seconds[1:])  # the first warms up


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured(shape: tuple[int, ...] | None = None) -> Device:
    """The device at hand, a GPU if there is one, with its rates as just measured on images of `shape`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = shape or (SHAPE if device.type == "cuda" else ON_CPU)
    bf16, fp32 = (rate(device, kind, shape) for kind in (torch.bfloat16, torch.float32))
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return Device(properties.name, bf16, fp32, properties.total_memory, MEASURED)
    return Device(f"this CPU, threads: {torch.get_num_threads()}", bf16, fp32, math.inf, MEASURED)
