"""The precision `auto`: bf16 where the device has units for it, fp32 elsewhere."""

from __future__ import annotations

import sys
from functools import cache
from typing import Literal

import torch
from lightning.pytorch.utilities import rank_zero_only

Precision = Literal["ambient", "fp32", "bf16", "auto"]
"""How a chain runs its network: under the caller's autocast, without autocast, under bf16 autocast, or the faster."""


def has_bf16(kind: str) -> tuple[bool, str]:
    """Return whether bf16 is faster than fp32 on the devices of a kind, `cpu` or `cuda`, and the reason, for a message.

    The flags of the CPU say it: with matrix units for bf16 (AMX) convolutions run several times as fast as in fp32, and
    without them slower (docs/notes/timing.md).
    """
    if kind == "cuda":
        # Without a GPU the device is one that only counts, of a kind that has bf16.
        there = not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
        return there, f"this GPU has {'' if there else 'no '}bf16"
    if kind == "cpu":
        there = bool(torch.cpu._is_amx_tile_supported())
        return there, f"this CPU has {'' if there else 'no '}matrix units for bf16 (AMX)"
    return False, f"bf16 is not known to be faster on {kind}"


def takes_bf16(kind: str) -> bool:
    """Return what `auto` takes on a kind of device, bf16 or not; says so once a process, in one line on stderr."""
    there, reason = has_bf16(kind)
    _say(f"precision: auto takes {'bf16' if there else 'fp32'}, because {reason}")
    return there


@cache
def _say(line: str) -> None:
    if getattr(rank_zero_only, "rank", 0) == 0:
        print(line, file=sys.stderr)
