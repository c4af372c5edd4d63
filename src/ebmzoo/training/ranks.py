"""Collecting the state of every process for a checkpoint, which process 0 writes."""

from __future__ import annotations

from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


def process_count() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_objects(mine: T) -> list[T]:
    """The small objects that the processes pass, in the order of the ranks; every process must call it."""
    if process_count() == 1:
        return [mine]
    everyone: list[T | None] = [None] * process_count()
    dist.all_gather_object(everyone, mine)
    return cast("list[T]", everyone)


def differing_buffers(module: nn.Module) -> list[dict[str, Tensor]]:
    """The buffers of ranks 1, 2, … that differ from those of rank 0; on rank 0 only, and empty elsewhere.

    Weights are equal in all processes, but buffers need not be: replay buffers, batch statistics. One process at a time
    sends its own, so that rank 0 needs memory for two sets and the differences. Every process must call it.
    """
    if process_count() == 1:
        return []
    kept = module.state_dict(keep_vars=True)
    mine = {name: buffer.detach() for name, buffer in module.named_buffers() if name in kept}
    packed = torch.cat([_bytes(buffer) for buffer in mine.values()]) if mine else torch.empty(0, dtype=torch.uint8)
    if dist.get_rank() != 0:
        if len(packed):
            dist.send(packed, 0)
        return []
    found = []
    for rank in range(1, process_count()):
        theirs = torch.empty_like(packed)
        if len(packed):
            dist.recv(theirs, rank)
        parts = torch.split(theirs, [buffer.nbytes for buffer in mine.values()])
        others = {name: part for (name, buffer), part in zip(mine.items(), parts, strict=True) if _differ(buffer, part)}
        found.append({name: _like(mine[name], part) for name, part in others.items()})
    return found


def _bytes(buffer: Tensor) -> Tensor:
    return buffer.contiguous().flatten().view(torch.uint8)


def _differ(buffer: Tensor, part: Tensor) -> bool:
    return not torch.equal(_bytes(buffer), part)  # compared as bytes, so that NaN equals NaN


def _like(buffer: Tensor, part: Tensor) -> Tensor:
    return part.clone().view(buffer.dtype).view(buffer.shape).cpu()
