"""Devices that runs are planned for: what their makers publish of their rate and memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Device:
    """A device's published figures.

    Args:
        name: Its name.
        bf16: FLOP a second of dense bf16 matrix products, accumulated in fp32, by its matrix units.
        fp32: FLOP a second in fp32, without TF32.
        memory: Bytes.
        source: Where these figures are published.
    """

    name: str
    bf16: float
    fp32: float
    memory: float
    source: str

    def hours(self, flop: Mapping[torch.dtype, float], fraction: float) -> float:
        """Hours for this arithmetic, by type, at a fraction of the rates; NaN where over 1 % is of neither type."""
        rates = {torch.bfloat16: self.bf16, torch.float32: self.fp32}
        known = {dtype: count for dtype, count in flop.items() if dtype in rates}
        if sum(known.values()) < 0.99 * sum(flop.values()):
            return math.nan
        return sum(count / (fraction * rates[dtype]) for dtype, count in known.items()) / 3600


DEVICES = (
    Device("H200", 989.5e12, 67e12, 141e9, "NVIDIA H200 data sheet, SXM; half of the figure with sparsity"),
    Device("A100 80 GB", 312e12, 19.5e12, 80e9, "NVIDIA A100 80 GB data sheet, SXM"),
    Device("RTX 4090", 165.2e12, 82.6e12, 24e9, "NVIDIA Ada GPU architecture white paper, appendix A"),
    Device("RTX 3090", 71e12, 35.6e12, 24e9, "NVIDIA Ampere GA102 GPU architecture white paper, table 2"),
)
