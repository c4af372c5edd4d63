"""The device, and what it remembers of its memory."""

from __future__ import annotations

import platform
from typing import Any

import torch


def device() -> torch.device:
    """The GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def facts() -> dict[str, Any]:
    """The machine, by its kind."""
    told: dict[str, Any] = {"torch": str(torch.__version__), "python": platform.python_version()}
    if torch.cuda.is_available():
        of = torch.cuda.get_device_properties(0)
        told |= {"device": of.name, "memory_gib": round(of.total_memory / 2**30, 1), "cuda": torch.version.cuda}
        told["tf32_convolutions"] = torch.backends.cudnn.allow_tf32
    else:
        told |= {"device": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"}
    return told | {"threads": torch.get_num_threads()}


def forget_peak() -> None:
    """Count the peak of memory from here on."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> float | None:
    """The most memory that tensors took since `forget_peak`, in GiB; None on a CPU."""
    return round(torch.cuda.max_memory_allocated() / 2**30, 3) if torch.cuda.is_available() else None
