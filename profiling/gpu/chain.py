"""One Langevin step of each energy: the plain loop, ours, and ours with each option for speed."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from ebmzoo.commands.estimate.rate import SHAPE, rate
from profiling.ceiling import flops
from profiling.chains import Chain, chains
from profiling.gpu import device as at
from profiling.gpu.options import Options
from profiling.gpu.record import Record
from profiling.networks import energies, seeded
from profiling.timing import once

BATCH, STEPS, ROUNDS = 256, 10, 5


def measure(record: Record, options: Options) -> None:
    """Contenders that need no compiler come first, as it may take longer than there is time."""
    device, small = at.device(), options.rehearse
    batch, steps, rounds = (4, 2, 1) if small else (BATCH, STEPS, ROUNDS)
    shape = (4, 16, 8, 8) if small else (batch, *SHAPE[1:])
    rates = {name: rate(device, kind, shape) for name, kind in (("bf16", torch.bfloat16), ("fp32", torch.float32))}
    record.put(machine=at.facts(), batch=batch, steps=steps, tflops={k: round(v / 1e12, 3) for k, v in rates.items()})
    torch.manual_seed(0)
    x = torch.rand(batch, 3, 32, 32, device=device) * 2 - 1
    found: list[tuple[str, str, Chain, float]] = []
    for name, net in seeded(energies(small), device).items():
        bound = flops(net, x) / rates["bf16"]
        found += [(name, how, chain, bound) for how, chain in chains(net, x, steps, compiled=not small).items()]
    for name, how, chain, bound in sorted(found, key=lambda of: "compiled" in of[1]):
        if record.left <= 0:
            record.add(name, how, {"skipped": "the time was up"})
            continue
        with record.failures_of(name, how):
            record.add(name, how, timed(chain, device, steps, rounds, bound, record))


def timed(chain: Chain, device: torch.device, steps: int, rounds: int, bound: float, record: Record) -> dict[str, Any]:
    """Milliseconds of a step, the share of the bf16 convolutions' rate, seconds of the first chain, and memory."""
    at.forget_peak()
    first = once(chain, device)
    seconds = [once(chain, device)]
    while len(seconds) < rounds and record.left > seconds[-1]:
        seconds.append(once(chain, device))
    each = statistics.median(seconds) / steps
    return {
        "ms": round(1e3 * each, 3),
        "least": round(1e3 * min(seconds) / steps, 3),
        "most": round(1e3 * max(seconds) / steps, 3),
        "of_bf16_rate": round(bound / each, 4),
        "first_seconds": round(first, 2),
        "peak_gib": at.peak_gib(),
    }
